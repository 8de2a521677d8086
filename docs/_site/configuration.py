"""The reference of route-switch.yaml, from the settings that read it."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import griffe
import yaml

from docs._site.schemas import Schema, in_words, reference
from rs_gateway.settings import Settings

_OPENING = """# Configuration

Every key of `route-switch.yaml`: what it means, what it may be, what it is when it is left out. `route-switch init`
writes a first file; [your own template](../guides/own-template.md) goes through one.

<!-- Written by `make docs` from rs_gateway/settings.py and the sections beside it; change it there. -->

- A key that is not known is refused with its place and the nearest known name.
- `${NAME}` anywhere in a value is taken from the environment and must be set there.
- Paths are relative to the file. `RS_CONFIG` names the file itself.
- Any key can be set by a variable, which wins over the file: `RS_`, then the path in capitals, joined by `__`, such as
  `RS_GATEWAY__ADDR` or `RS_MODEL_PROVIDERS__OPENAI__BASE_URL`. Lists are JSON. A misspelt `RS_*` variable is refused.
- A change of the file is picked up while the gateway runs, except where a key is *read at start*.

Each section begins with an example that names all of its keys, the optional ones too. You need few of them.
"""
_MODULES = ("rs_gateway.settings", "rs_gateway.setting_sections", "rs_gateway.pipeline_sections")
_NAMES = {
    "model_providers": ("name", "openai"),
    "prices": ("model", "gpt-4o-mini"),
    "templates": ("template", "orders"),
}
"""Mappings of names to sections: what a name stands for, and one for the example."""
_GUIDES = {
    "model_providers.<name>": "guides/providers.md",
    "gateway": "guides/routing.md",
    "gateway.combinations[]": "guides/routing.md",
    "gateway.optimization": "guides/dagster.md#what-starts-by-itself",
    "stores": "guides/several-gateways.md",
    "access": "guides/client-keys.md",
    "privacy": "guides/privacy.md",
    "privacy.retention": "operations.md#how-long-things-are-kept",
    "telemetry": "guides/observability.md",
    "mipro_v2": "guides/optimize-and-publish.md",
    "pipelines": "scaling.md",
    "evaluation": "guides/evaluators.md",
    "dataset": "guides/labels-and-feedback.md",
}
_MAPPING = "tag:yaml.org,2002:map"


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the file.

    Attributes:
        model: the name of the class that reads it.
        path: from the top; `[]` for an entry of a list, `<name>` for one of a mapping.
        meaning: what stands beneath the key in the section above, or else in the class.
    """

    model: str
    path: tuple[str, ...]
    meaning: str

    @property
    def title(self) -> str:
        """As a person writes the path."""
        return ".".join(self.path).replace(".[]", "[]")


def configuration_page() -> str:
    """The page, in Markdown."""
    book = _Book()
    sections = list(book.sections(Section("Settings", (), "")))
    return "\n".join([_OPENING, *(book.section_text(section) for section in sections)]).rstrip() + "\n"


class _InALine(dict[str, Any]):
    """A mapping that is a value and not a section."""


_ORDERS = _InALine(id="orders-large", template_id="orders", model="gpt-4o", provider="openai")
"""What an example needs beside it when it speaks of a combination or a template that has to be there."""


class _Yaml(yaml.SafeDumper):
    """As people write it: sections in lines, values behind their keys, entries of a list further in."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


_Yaml.add_representer(_InALine, lambda dumper, value: dumper.represent_mapping(_MAPPING, value, flow_style=True))
_Yaml.add_representer(
    list,
    lambda dumper, value: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", value, flow_style=not any(isinstance(item, dict) for item in value)
    ),
)


class _Book:
    """The settings as JSON Schema, and what stands beneath each key in the code."""

    def __init__(self) -> None:
        whole = Settings.model_json_schema()
        self._models: dict[str, Schema] = {**whole["$defs"], "Settings": whole}
        self._classes = {name: c for module in _MODULES for name, c in griffe.load(module).classes.items()}
        self._at_start = tuple(Settings().fixed_at_start)

    def sections(self, section: Section) -> Iterator[Section]:
        """The section, and then those inside it, in the order of the code."""
        yield section
        for name, schema in self._fields(section):
            inner = self._inner(name, schema)
            if inner is not None:
                model, path = inner
                meaning = " ".join((self._said(section.model, name), self._said_of(model))).strip()
                yield from self.sections(Section(model, (*section.path, *path), meaning))

    def section_text(self, section: Section) -> str:
        """Heading, meaning, example, keys."""
        keys = [(name, schema) for name, schema in self._fields(section) if self._inner(name, schema) is None]
        last = section.path[-1] if section.path else ""
        repeated = "Each entry has these keys." if last.startswith(("[", "<")) else ""
        example = {name: self._example(section, name, schema) for name, schema in keys}
        blocks = [f"## `{section.title}`" if section.path else "## At the top"]
        blocks.append(_wrapped(" ".join(part for part in (section.meaning, repeated) if part)))
        if example:
            blocks.append(f"```yaml\n{_yaml(_placed(section.path, example))}```")
        if section.title in _GUIDES:
            blocks.append(f"More in [the guide](../{_GUIDES[section.title]}).")
        blocks += [self._key_text(section, name, schema) for name, schema in keys]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def _key_text(self, section: Section, name: str, schema: Schema) -> str:
        path = (*section.path, name)
        facts = [in_words(_without_null(schema), self._models), self._default(section, name, schema)]
        if not any(part.startswith(("[", "<")) for part in path):
            facts.append("`RS_" + "__".join(path).upper() + "`")
        if any(".".join(path) == start or ".".join(path).startswith(f"{start}.") for start in self._at_start):
            facts.append("*read at start*")
        title = Section("", path, "").title
        return f"### `{title}`\n\n{_wrapped(self._said(section.model, name))}\n\n{' · '.join(facts)}"

    def _default(self, section: Section, name: str, schema: Schema) -> str:
        if name in self._models[section.model].get("required", ()):
            return "**required**"
        default = schema.get("default", {})
        return "no default" if default is None else f"default `{_in_a_line(default)}`"

    def _example(self, section: Section, name: str, schema: Schema) -> Any:
        examples = schema.get("examples")
        value = examples[0] if examples else schema.get("default")
        assert value is not None, f"{section.model}.{name} has neither a default nor `examples`: give it one"
        return _InALine(value) if isinstance(value, dict) else value

    def _fields(self, section: Section) -> list[tuple[str, Schema]]:
        fields = self._models[section.model]["properties"].items()
        return [(name, schema) for name, schema in fields if name != "config_path"]

    def _inner(self, name: str, schema: Schema) -> tuple[str, tuple[str, ...]] | None:
        """The model that reads a key's value, or each entry of it, and where; None: the value is a plain one."""
        in_list, in_mapping = schema.get("items"), schema.get("additionalProperties")
        for values, more in ((schema, ()), (in_list, ("[]",)), (in_mapping, (f"<{_NAMES.get(name, ('',))[0]}>",))):
            model = reference(values) if isinstance(values, dict) else None
            if model is not None and "properties" in self._models[model]:
                return model, (name, *more)
        return None

    def _said(self, model: str, name: str) -> str:
        """What stands beneath a key in the code; one that is no section must have something."""
        found = self._classes[model].members[name].docstring
        is_section = self._inner(name, self._models[model]["properties"][name]) is not None
        assert found is not None or is_section, f"{model}.{name} has no docstring: say beneath it what it means"
        return " ".join(found.value.split()) if found is not None else ""

    def _said_of(self, model: str) -> str:
        """The same of a section, without its name; an entry of a list or mapping is told of with that."""
        found = self._classes[model].docstring
        text = " ".join(found.value.split()) if found is not None else ""
        text = re.sub(r"^Section `[\w.]+`[.:] *|^One entry of `.*$", "", text)
        return text[:1].upper() + text[1:]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 140, break_long_words=False, break_on_hyphens=False))


def _yaml(value: object) -> str:
    return yaml.dump(value, Dumper=_Yaml, sort_keys=False, width=200)


def _in_a_line(value: object) -> str:
    """A value as it stands behind its key."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def _without_null(schema: Schema) -> Schema:
    """None is a key that is left out: the default says what that means."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    return choices[0] if len(choices) == 1 else schema


def _placed(path: tuple[str, ...], keys: Mapping[str, Any]) -> Any:
    """Keys of a section as they stand in a file that can be used."""
    value: Any = keys
    for above, part in reversed([*zip(("", *path), path, strict=False)]):
        value = [value] if part == "[]" else {_NAMES[above][1] if part.startswith("<") else part: value}
    if path[:2] == ("gateway", "combinations"):
        value["gateway"]["combinations"].append(_ORDERS)
    elif path[:3] == ("gateway", "optimization", "templates"):
        value["gateway"]["combinations"] = [_ORDERS]
    else:
        return value
    return {"model_providers": {"openai": {}}, **value}

"""The three YAML files of a registered prompt: how they are read, and how they are written for people."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from rs_gateway.adapters.prompt_records import LiveRecord, Record, explain, live_fields, template_fields, version_fields
from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import RegistryError
from rs_gateway.domain.prompts import PromptTemplate, PromptText, PromptVersion
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.yaml_text import YamlTextError, parse_yaml

_Model = TypeVar("_Model", bound=Record)


# Reading


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """YAML without two of its traps: a repeated key is refused, and a date stays the text that it is."""

    yaml_implicit_resolvers = {  # noqa: RUF012 PyYAML's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML does, but a key that stands there twice is an error, not a silent loss."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands here twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_file(path: Path, model: type[_Model]) -> _Model:
    """Read one file. Raises RegistryError naming file, field or line, and what is wrong there."""
    try:
        # Not in text mode, which would turn a carriage return into a newline.
        content = parse_yaml(path.read_bytes().decode("utf-8"), loader=_Loader)
    except FileNotFoundError as error:
        remedy = ' with `serving: {"*": 1}` and `history: []`' if model is LiveRecord else ""
        raise RegistryError(f"{path}: the file is missing: restore it, or write one{remedy}.") from error
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RegistryError(f"{path}: no valid YAML: {error}") from error
    except YamlTextError as error:
        raise RegistryError(f"{path}: {error}") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise RegistryError(f"{path}: {explain(error)}") from error


# Writing


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as literal blocks, trailing spaces and tabs included, so that a diff shows lines."""

    def analyze_scalar(self, scalar: str) -> Any:
        analysis = super().analyze_scalar(scalar)
        analysis.allow_block = analysis.multiline
        return analysis


class _QuotingDumper(yaml.SafeDumper):
    """Every text in double quotes: less readable, but it can hold anything."""


# What YAML would take for indentation or a line break, or would not print.
_NOT_LITERAL = re.compile("^\t|[^\n\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _NOT_LITERAL.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _quote_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(str, _represent_text)
_QuotingDumper.add_representer(str, _quote_text)
_Dumper.ignore_aliases = _QuotingDumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def _dump(content: Mapping[str, object]) -> bytes:
    """YAML that reads back as exactly `content`, as readable as it can be. Raises RegistryError when none does."""
    for dumper in (_Dumper, _QuotingDumper):
        try:
            text = yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=10**9)
            data = text.encode("utf-8")
            if parse_yaml(data.decode("utf-8"), loader=_Loader) == content:
                return data
        except (yaml.YAMLError, YamlTextError, UnicodeError):
            continue
    raise RegistryError("This text cannot be written as YAML: it holds something that is no Unicode character.")


def dump_template(template: PromptTemplate) -> bytes:
    """The content of template.yaml. Raises RegistryError, as the other two: no YAML can hold the text."""
    return _dump(template_fields(template))


def dump_version(version: PromptVersion) -> bytes:
    """The content of a version's file, with the hash of its text."""
    return _dump(version_fields(version))


def dump_text(text: PromptText) -> bytes:
    """What a version says and nothing else, as a person edits it: every key there is, the empty ones too."""
    content: JsonObject = {
        "instruction": text.instruction,
        "user": text.user,
        "output": text.output.value,
        "nearest": text.nearest,
        "demos": [{"user": d.user, "assistant": d.assistant} for d in text.demos],
    }
    return _dump(content)


def dump_live(registered: RegisteredTemplate) -> bytes:
    """The content of live.yaml."""
    return _dump(live_fields(registered))

"""The three YAML files of a registered prompt: their fields, how they are read, and how they are written for people."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import RegistryError
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import (
    Demo,
    Origin,
    PromptTemplate,
    PromptText,
    PromptVersion,
    RegisteredTemplate,
    check_variables,
)
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.traces import StoreMode
from rs_gateway.yaml_text import YamlTextError, parse_yaml

_VersionNumber: TypeAlias = Annotated[int, Field(strict=True, ge=1)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TemplateFile(_File):
    """template.yaml: the facts."""

    name: str | None = None
    variables: tuple[str, ...] = ()
    evaluator: dict[str, Any]
    default: StrictBool = False
    reference: str | None = None
    store: StoreMode | None = None

    def to_template(self, template_id: str) -> PromptTemplate:
        """Raises TemplateInvalidError: the variables are not well-formed."""
        return PromptTemplate(
            template_id=template_id,
            name=self.name if self.name is not None else template_id,
            variables=check_variables(self.variables),
            evaluator=self.evaluator,
            default=self.default,
            reference=self.reference,
            store=self.store,
        )


class _DemoFile(_File):
    example_id: str | None = None
    user: str
    assistant: str


class _OriginFile(_File):
    kind: str
    by: str
    at: str
    study_id: str | None = None
    comparison_id: str | None = None
    note: str | None = None


class VersionFile(_File):
    """versions/<number>.yaml: one text, and where it came from."""

    # The hash comes first and the text that it covers last: a file that was cut off shows.
    content_hash: str | None = None
    model: str | None = None
    origin: _OriginFile | None = None
    output: OutputFormat = OutputFormat.BARE
    nearest: StrictInt = 0
    instruction: str
    user: str | None = None
    demos: tuple[_DemoFile, ...] = ()

    def to_text(self) -> PromptText:
        """The text alone, not checked against its template or the hash."""
        demos = tuple(Demo(**demo.model_dump()) for demo in self.demos)
        return PromptText(self.instruction, self.user, demos, self.output, self.nearest)

    def to_origin(self) -> Origin | None:
        """None: the file does not say, as when somebody wrote it by hand."""
        return None if self.origin is None else Origin(**self.origin.model_dump())


class _ChangeFile(_File):
    action: Action
    version: StrictInt | None = None
    model: str | None = None
    by: str
    at: str
    reason: str
    previous: StrictInt | None = None
    comparison_id: str | None = None
    combination_id: str | None = None
    weight: float | None = None


class LiveFile(_File):
    """live.yaml: what is served, and how that came about."""

    serving: dict[str, _VersionNumber]
    weights: dict[str, Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]] = {}
    # Last and required: a file that was cut off cannot lose part of what is served.
    history: tuple[_ChangeFile, ...]

    def to_registered(self, template: PromptTemplate, versions: Mapping[int, PromptVersion]) -> RegisteredTemplate:
        """The template with its versions and what is live; whether each served version exists is not checked."""
        history = tuple(Change(**change.model_dump()) for change in self.history)
        return RegisteredTemplate(template, versions, self.serving, self.weights, history)


_Model = TypeVar("_Model", bound=_File)


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
        remedy = ' with `serving: {"*": 1}` and `history: []`' if model is LiveFile else ""
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
        raise RegistryError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    reasons: list[str] = []
    for detail in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            reasons.append(f"{field}: there is no such field")
        elif detail["type"] == "missing":
            reasons.append(f"{field}: the field is missing")
        elif not field:
            reasons.append("the file holds no fields (`name: value` lines)")
        else:
            reasons.append(f"{field}: {detail['msg'][0].lower()}{detail['msg'][1:]}, not {detail['input']!r:.60}")
    return "; ".join(reasons) + "."


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
    content: JsonObject = {
        "name": template.name,
        "variables": list(template.variables),
        "evaluator": template.evaluator,
        "default": template.default,
        "reference": template.reference,
        "store": template.store.value if template.store is not None else None,
    }
    return _dump(_without_none(content))


def dump_version(version: PromptVersion) -> bytes:
    """The content of a version's file, with the hash of its text."""
    text, origin = version.text, version.origin
    content: JsonObject = {
        "content_hash": text.content_hash,
        "model": version.model,
        "origin": _without_none(_OriginFile.model_validate(origin, from_attributes=True).model_dump()),
        "output": None if text.output is OutputFormat.BARE else text.output.value,
        "nearest": text.nearest or None,
        "instruction": text.instruction,
        "user": text.user,
        "demos": [
            _without_none({"example_id": d.example_id, "user": d.user, "assistant": d.assistant}) for d in text.demos
        ],
    }
    return _dump(_without_none(content))


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
    history = [_ChangeFile.model_validate(c, from_attributes=True).model_dump(mode="json") for c in registered.history]
    content: JsonObject = {
        "serving": dict(registered.serving),
        "weights": dict(registered.weights),
        "history": [_without_none(change) for change in history],
    }
    return _dump(content)


def _without_none(content: JsonObject) -> JsonObject:
    return {key: value for key, value in content.items() if value is not None}

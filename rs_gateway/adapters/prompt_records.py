"""What is kept of a registered prompt: facts, versions and what is live, as fields that YAML and JSON can hold."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import RegistryError, TemplateInvalidError, TemplateNotFoundError, shown
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import (
    Demo,
    Origin,
    PromptTemplate,
    PromptText,
    PromptVersion,
    check_text,
    check_variables,
)
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.domain.traces import StoreMode
from rs_gateway.domain.wording import did_you_mean

_VersionNumber: TypeAlias = Annotated[int, Field(strict=True, ge=1)]


class Record(BaseModel):
    """Frozen; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TemplateRecord(Record):
    """The facts."""

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


class _DemoRecord(Record):
    example_id: str | None = None
    user: str
    assistant: str


class _OriginRecord(Record):
    kind: str
    by: str
    at: str
    study_id: str | None = None
    comparison_id: str | None = None
    note: str | None = None


class VersionRecord(Record):
    """One text, and where it came from."""

    # The hash comes first and the text that it covers last: a file that was cut off shows.
    content_hash: str | None = None
    model: str | None = None
    origin: _OriginRecord | None = None
    output: OutputFormat = OutputFormat.BARE
    nearest: StrictInt = 0
    instruction: str
    user: str | None = None
    demos: tuple[_DemoRecord, ...] = ()

    def to_version(self, number: int, *, template: PromptTemplate, where: str, written_at: str) -> PromptVersion:
        """The version, checked.

        Args:
            where: what to call it in an error.
            written_at: UTC, ISO 8601; for a version that does not say where it came from, as one written by hand.
        Raises:
            TemplateInvalidError: the text does not fit its template. RegistryError: it does not match its hash.
        """
        demos = tuple(Demo(**demo.model_dump()) for demo in self.demos)
        text = PromptText(self.instruction, self.user, demos, self.output, self.nearest)
        try:
            check_text(text, template=template)
        except TemplateInvalidError as error:
            raise TemplateInvalidError(f"{where}: {error}") from error
        if self.content_hash is not None and self.content_hash != text.content_hash:
            raise RegistryError(
                f"{where}: the text does not match its content_hash, so it was edited. Versions are immutable: restore "
                "this one, and put your text into a new one with the next number, without content_hash."
            )
        by_hand = Origin(kind="registered", by="edit by hand", at=written_at)
        origin = by_hand if self.origin is None else Origin(**self.origin.model_dump())
        return PromptVersion(number, text, self.model, origin)


class _ChangeRecord(Record):
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


class LiveRecord(Record):
    """What is served, and how that came about."""

    serving: dict[str, _VersionNumber]
    weights: dict[str, Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]] = {}
    # Last and required: a file that was cut off cannot lose part of what is served.
    history: tuple[_ChangeRecord, ...]

    def to_registered(
        self, template: PromptTemplate, versions: Mapping[int, PromptVersion], *, where: str
    ) -> RegisteredTemplate:
        """The template with versions and what is live. Raises RegistryError naming `where`: a version is missing."""
        for model, number in self.serving.items():
            if number not in versions:
                raise RegistryError(
                    f"{where}: serving.{model}: there is no version {number}: "
                    f"name one of {', '.join(map(str, versions)) or 'those that you add'}."
                )
        history = tuple(Change(**change.model_dump()) for change in self.history)
        return RegisteredTemplate(template, versions, self.serving, self.weights, history)


def explain(error: ValidationError) -> str:
    """What is wrong with a record, field by field."""
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


def template_fields(template: PromptTemplate) -> JsonObject:
    """What TemplateRecord reads."""
    fields: JsonObject = {
        "name": template.name,
        "variables": list(template.variables),
        "evaluator": template.evaluator,
        "default": template.default,
        "reference": template.reference,
        "store": template.store.value if template.store is not None else None,
    }
    return _without_none(fields)


def version_fields(version: PromptVersion) -> JsonObject:
    """What VersionRecord reads, with the hash of the text."""
    text, origin = version.text, version.origin
    fields: JsonObject = {
        "content_hash": text.content_hash,
        "model": version.model,
        "origin": _without_none(_OriginRecord.model_validate(origin, from_attributes=True).model_dump()),
        "output": None if text.output is OutputFormat.BARE else text.output.value,
        "nearest": text.nearest or None,
        "instruction": text.instruction,
        "user": text.user,
        "demos": [
            _without_none({"example_id": d.example_id, "user": d.user, "assistant": d.assistant}) for d in text.demos
        ],
    }
    return _without_none(fields)


def live_fields(registered: RegisteredTemplate) -> JsonObject:
    """What LiveRecord reads."""
    history = [
        _ChangeRecord.model_validate(c, from_attributes=True).model_dump(mode="json") for c in registered.history
    ]
    fields: JsonObject = {
        "serving": dict(registered.serving),
        "weights": dict(registered.weights),
        "history": [_without_none(change) for change in history],
    }
    return fields


def _without_none(fields: JsonObject) -> JsonObject:
    return {key: value for key, value in fields.items() if value is not None}


def not_registered(template_id: str, known: Collection[str]) -> TemplateNotFoundError:
    """That a registry has no such template, with those that it has."""
    if not known:
        return TemplateNotFoundError(
            f"There is no template {shown(template_id)}: none is registered yet; "
            "`route-switch template register FILE` registers one."
        )
    return TemplateNotFoundError(
        f"There is no template {shown(template_id)}; registered are: {', '.join(known)}."
        f"{did_you_mean(template_id, known)}"
    )

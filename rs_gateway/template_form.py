"""What a person sends to register a template or a version: the same keys in a file and over the admin API."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from rs_gateway.domain.errors import TemplateInvalidError, shown
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import TEMPLATE_ID_PATTERN, Demo, PromptTemplate, PromptText, check_template_id
from rs_gateway.domain.traces import StoreMode


class DemoForm(BaseModel):
    """One few-shot pair."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    user: str = Field(description="What somebody asks.")
    assistant: str = Field(description="What the model should answer.")


class TextForm(BaseModel):
    """What a version says."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    instruction: str = Field(description="The system text, with {name} placeholders.")
    user: str | None = Field(default=None, description="The user text, before the client's own messages.")
    demos: tuple[DemoForm, ...] = Field(default=(), description="Shown before the user text, in this order.")
    output: OutputFormat = Field(
        default=OutputFormat.BARE,
        description="How instruction and demos have the answer written; the client gets it bare.",
    )
    nearest: StrictInt = Field(
        default=0, ge=0, description="How many of the demos are shown: those most like the input; 0 for all."
    )

    @classmethod
    def read(cls, content: object) -> Self:
        """Raises TemplateInvalidError listing every key that is wrong."""
        if not isinstance(content, Mapping):
            there = "nothing" if content is None else shown(content)
            raise TemplateInvalidError(
                f"there have to be keys with values, such as `instruction: Answer in one word.`, and there is {there}"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            known = ", ".join(sorted(cls.model_fields))
            lines = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'file'}: "
                + (f"unknown key; there are {known}" if e["type"] == "extra_forbidden" else e["msg"])
                for e in error.errors()
            )
            raise TemplateInvalidError(lines) from None

    def to_text(self) -> PromptText:
        """The text, not yet checked against a template."""
        demos = tuple(Demo(d.user, d.assistant) for d in self.demos)
        return PromptText(self.instruction, self.user, demos, self.output, self.nearest)


class TemplateForm(TextForm):
    """A template and its first version."""

    id: str = Field(
        description="What clients name it by, in `model` or `metadata.template_id`.",
        json_schema_extra={"pattern": f"^{TEMPLATE_ID_PATTERN}$"},
    )
    name: str = Field(default="", description="For people.")
    variables: tuple[str, ...] | None = Field(default=None, description="By default those that the texts use.")
    evaluator: dict[str, Any] | str | None = Field(
        default=None, description="What scores its answers: a name, or `name` with options."
    )
    default: StrictBool = Field(
        default=False, description="Whether it is meant by the name of a model that several templates run on."
    )
    reference: str | None = Field(default=None, description="captured:COMBINATION_ID")
    store: StoreMode | None = Field(default=None, description="How much is kept of its requests, at most.")

    def to_template(self) -> tuple[PromptTemplate, PromptText]:
        """Raises TemplateInvalidError."""
        text = self.to_text()
        # Without one of its own, `evaluation.default_strategy` of the configuration scores the template's answers.
        evaluator = {"name": self.evaluator} if isinstance(self.evaluator, str) else dict(self.evaluator or {})
        template = PromptTemplate(
            template_id=check_template_id(self.id),
            name=self.name or self.id,
            variables=self.variables if self.variables is not None else tuple(sorted(text.placeholders)),
            evaluator=evaluator,
            default=self.default,
            reference=_checked_reference(self.reference),
            store=self.store,
        )
        return template, text


def _checked_reference(reference: str | None) -> str | None:
    if reference is not None and not reference.removeprefix("captured:").strip(" "):
        raise TemplateInvalidError(f"reference {shown(reference)} names no combination.")
    if reference is not None and not reference.startswith("captured:"):
        raise TemplateInvalidError(
            f"reference {shown(reference)} is not understood: write captured:COMBINATION_ID, the combination whose "
            "served answers may be labels for other models."
        )
    return reference

"""The wire: what bodies we accept on the routes of our own."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class FeedbackBody(BaseModel):
    """Something said about an answer that was given earlier."""

    model_config = ConfigDict(extra="forbid", strict=True)

    trace_id: str = Field(min_length=1, description="The `x-route-switch-trace-id` header of the answer that is meant.")
    kind: Literal["label", "score", "outcome", "comment"] = Field(
        description="`label`: what the answer should have been; `score`: how good it was; `outcome`: did it work?"
    )
    value: Any = Field(
        description="label, comment: a non-empty string; score: a number from 0 to 1; outcome: true or false.",
        json_schema_extra={"type": ["string", "number", "boolean"]},
    )
    source: str = Field(
        default="human",
        min_length=1,
        max_length=200,
        description="`human`, `human:<name>`, `teacher:<model>` or a system.",
    )


class FeedbackReceipt(BaseModel):
    """The feedback is stored."""

    feedback_id: str = Field(description="A ULID of its own.")
    trace_id: str = Field(description="The answer that is meant.")


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str = Field(description="For a person: what failed, on which value, what to do next.")
    type: str = Field(description="OpenAI's name for the kind of error.")
    param: str | None = Field(description="The field at fault, where there is one.")
    code: str | None = Field(description="Stable; for programs.")


class ErrorBody(BaseModel):
    """What every error looks like."""

    error: ErrorDetail


class ModelCard(BaseModel):
    """One thing that can be asked for."""

    id: str = Field(description="What `model` may be.")
    object: Literal["model"] = "model"
    created: int = Field(description="When the gateway started, in seconds since 1970.")
    owned_by: str = Field(description="`route-switch` for a template, otherwise the provider.")


class ModelList(BaseModel):
    """Everything that can be asked for."""

    object: Literal["list"] = "list"
    data: list[ModelCard]

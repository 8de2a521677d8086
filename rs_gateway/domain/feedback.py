"""Something said later about a trace: a corrected output, a score, an outcome, a comment."""

from dataclasses import dataclass
from enum import StrEnum

from rs_gateway.domain.chat import JsonValue
from rs_gateway.domain.errors import InvalidRequestError, shown


class FeedbackKind(StrEnum):
    """What a feedback value means."""

    LABEL = "label"
    """The output that would have been right (text; JSON is kept as its text)."""
    SCORE = "score"
    """How good the answer was, a number in [0, 1]."""
    OUTCOME = "outcome"
    """Whether it worked out: true or false."""
    COMMENT = "comment"
    """Words for a person."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One thing said about one trace.

    Attributes:
        value: a str for labels and comments, a number in [0, 1] for scores, a bool for outcomes.
        source: who says so: `human` (or `human:<name>`), `teacher:<model>`, or the name of a system.
        created_at: seconds since the epoch, UTC.
    """

    feedback_id: str
    trace_id: str
    kind: FeedbackKind
    value: str | float | bool
    source: str
    created_at: float


def check_value(kind: FeedbackKind, value: JsonValue) -> str | float | bool:
    """Return `value` in the type that `kind` asks for, or raise InvalidRequestError saying what it should be."""
    if kind is FeedbackKind.SCORE:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InvalidRequestError(f"A score is a number from 0 to 1, not {shown(value)}.", param="value")
        return float(value)
    if kind is FeedbackKind.OUTCOME:
        if not isinstance(value, bool):
            raise InvalidRequestError(f"An outcome is true or false, not {shown(value)}.", param="value")
        return value
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequestError(
            f"A {kind.value} is a non-empty string, not {shown(value)}: send a JSON label as its text.", param="value"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError("The value holds half a character (a lone surrogate).", param="value") from None
    return value

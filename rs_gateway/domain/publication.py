"""The record of making a version live: who, when, why, and on which proof."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What was done to a template's live state."""

    REGISTER = "register"
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a template's history.

    Attributes:
        version: the version made live; None when the change was of a weight.
        model: the model it was made live for; None means every model without a version of its own.
        previous: the version that served before, or None.
        by: `gate` when the proof decided, otherwise the person.
        at: UTC, ISO 8601.
        comparison_id: the stored comparison that proved the gain; None when a person decided.
        combination_id, weight: what a change of weight set; a weight of None goes back to the configuration's.
    """

    action: Action
    version: int | None
    model: str | None
    by: str
    at: str
    reason: str
    previous: int | None = None
    comparison_id: str | None = None
    combination_id: str | None = None
    weight: float | None = None

"""The record of making a version live: who, when, why, and on which proof."""

from collections.abc import Iterable
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


def served_before(history: Iterable[Change], *, model: str | None) -> int | None:
    """The version that a rollback of `model` goes back to; None when it is at its first one.

    What was made live is a stack, and a rollback takes its top off: one rollback after the other ends at the first
    version, whatever was made live in between, and never swings to and fro.

    Args:
        history: oldest first, changes of other models and of weights among them.
        model: None for every model without a version of its own.
    """
    served: list[int] = []
    for change in history:
        if change.model != model or change.version is None:
            continue
        if change.action is Action.ROLLBACK:
            while served and served[-1] != change.version:
                served.pop()
        elif not served and change.previous is not None:
            served.append(change.previous)
        if not served or served[-1] != change.version:
            served.append(change.version)
    return served[-2] if len(served) > 1 else None

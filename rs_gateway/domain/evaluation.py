"""A score for one answer, and the promise that every evaluator keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Score:
    """How good one answer is.

    Attributes:
        value: in [0, 1]; 1 is right.
        passed: whether it counts as right.
        explanation: why, for a person; empty when there is nothing to add.
        evaluator: name and version of the evaluator, and its backend where that matters.
    """

    value: float
    passed: bool
    explanation: str
    evaluator: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, beside what was expected."""

    output: str
    expected: str


class Evaluator(Protocol):
    """Scores answers against what was expected. Pure but for what its own backend needs."""

    @property
    def name(self) -> str:
        """Name and version, as it stands on every score."""
        ...

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """One score for each answer, in the same order."""
        ...

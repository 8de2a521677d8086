"""Weighted: several evaluators on the same answer, as one score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Answer, Evaluator, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """The weighted mean of the parts' values.

    Attributes:
        parts: evaluators with their weights, all above 0.
        threshold: mean from which an answer passes; None: it passes when it passes every part.
    """

    parts: tuple[tuple[Evaluator, float], ...]
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigurationError("Weighted needs at least one part.")
        for evaluator, weight in self.parts:
            if not math.isfinite(weight) or weight <= 0:
                raise ConfigurationError(
                    f"Weighted: the weight of {evaluator.name} is {weight!r}, not a number above 0."
                )

    @property
    def name(self) -> str:
        """Name and version, and those of the parts with their weights."""
        return f"weighted/1 ({', '.join(f'{weight:g} x {evaluator.name}' for evaluator, weight in self.parts)})"

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """The weighted mean for each answer."""
        columns = [evaluator.score(answers) for evaluator, _ in self.parts]
        return [self._combine(row) for row in zip(*columns, strict=True)]

    def _combine(self, scores: Sequence[Score]) -> Score:
        # Shares first: the sum of huge weights could overflow.
        largest = max(weight for _, weight in self.parts)
        shares = [weight / largest for _, weight in self.parts]
        mean = math.fsum(share * score.value for share, score in zip(shares, scores, strict=True)) / math.fsum(shares)
        value = min(1.0, max(0.0, mean))
        passed = all(score.passed for score in scores) if self.threshold is None else value >= self.threshold
        return Score(
            value, passed, "; ".join(f"{s.evaluator}: {s.value:.3f} {s.explanation}".strip() for s in scores), self.name
        )

"""Weighted: several evaluators on the same answer, as one score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import (
    Answer,
    Evaluator,
    JudgingEvaluator,
    Question,
    Score,
    questions_per_answer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """The weighted mean of the parts' values. Parts that ask a model get the replies to their own questions.

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

    @property
    def questions_per_answer(self) -> int:
        """Those of all parts."""
        return sum(questions_per_answer(evaluator) for evaluator, _ in self.parts)

    def questions(self, answer: Answer) -> Sequence[Question]:
        """Those of all parts, in their order."""
        return tuple(question for part in self._judges() for question in part.questions(answer))

    def unreadable(self, answer: Answer) -> str | None:
        """The first part's reason that has one."""
        if len(answer.replies) != len(self.questions(answer)):
            return f"{len(answer.replies)} replies to {len(self.questions(answer))} questions"
        reasons = (part.unreadable(own) for part, own in zip(self._judges(), self._shares(answer), strict=True))
        return next((reason for reason in reasons if reason is not None), None)

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """The weighted mean for each answer."""
        shares = iter(list(zip(*(self._shares(answer) for answer in answers), strict=True)))
        columns: list[list[Score]] = []
        for evaluator, _ in self.parts:
            own = next(shares, ()) if isinstance(evaluator, JudgingEvaluator) else answers
            columns.append(evaluator.score(own))
        return [self._combine(row) for row in zip(*columns, strict=True)]

    def _judges(self) -> list[JudgingEvaluator]:
        return [evaluator for evaluator, _ in self.parts if isinstance(evaluator, JudgingEvaluator)]

    def _shares(self, answer: Answer) -> list[Answer]:
        """The answer with each judging part's own replies, in the order of those parts."""
        shares: list[Answer] = []
        start = 0
        for part in self._judges():
            end = start + len(part.questions(answer))
            shares.append(replace(answer, replies=answer.replies[start:end]))
            start = end
        return shares

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

"""Whether an evaluator tells right answers from wrong ones, as far as the examples show."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rs_gateway.domain.evaluation import Answer, Evaluator
from rs_pipelines.sample import Example

_SANITY_ROWS = 40


@dataclass(frozen=True, slots=True)
class EvaluatorSanity:
    """Whether the evaluator tells right answers from wrong ones.

    Attributes:
        n: rows looked at.
        mean_right: mean score of the expected answer itself.
        mean_wrong: mean score of another row's expected answer; None where all rows expect the same.
        binary: every score seen is 0 or 1.
    """

    n: int
    mean_right: float
    mean_wrong: float | None
    binary: bool


def check_evaluator(evaluator: Evaluator, examples: Sequence[Example]) -> EvaluatorSanity:
    """Score each expected answer against itself, and against one that another row expects."""
    rows = [e.expected for e in examples[:_SANITY_ROWS]]
    others = [next((o for o in (*rows[n + 1 :], *rows[:n]) if o != expected), None) for n, expected in enumerate(rows)]
    right = [score.value for score in evaluator.score([Answer(expected, expected) for expected in rows])]
    pairs = [Answer(other, expected) for other, expected in zip(others, rows, strict=True) if other is not None]
    wrong = [score.value for score in evaluator.score(pairs)] if pairs else []
    return EvaluatorSanity(
        n=len(rows),
        mean_right=fmean(right) if right else 0.0,
        mean_wrong=fmean(wrong) if wrong else None,
        binary=all(value in (0.0, 1.0) for value in (*right, *wrong)),
    )

"""How far a judge can be trusted: its scores beside those that people gave to the same answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rs_gateway.domain.evaluation import Answer, Evaluator, Score
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.paired_statistics import paired_interval
from rs_pipelines.scoring import score_answers

_Floats: TypeAlias = npt.NDArray[np.float64]
_DRAWS = 10_000
_PRIOR = 0.5
"""Jeffreys': keeps the interval of a small perfect table from being a point."""


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """An answer, and how good a person found it, in [0, 1]."""

    answer: Answer
    value: float


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """A judge against people, over the answers that both scored.

    Attributes:
        n: answers that both scored; missing: those that the judge gave no verdict on.
        agreement: share of answers that both pass or both fail.
        kappa: Cohen's: agreement beyond what chance would give, 1 at most, 0 for none. None when chance alone gives
            all of it, since both always say the same one thing.
        mean_absolute_error: distance of the scores, in [0, 1].
        bias: mean of judge minus people; above 0, the judge is lenient.
    """

    evaluator: str
    n: int
    missing: int
    agreement: Measure
    kappa: Measure | None
    mean_absolute_error: Measure
    bias: Measure


def calibrate(
    judged: Sequence[Score | None], human: Sequence[float], *, human_threshold: float = 0.5, seed: int = 0
) -> CalibrationReport:
    """Compare a judge's scores with people's.

    Args:
        judged: the judge's score of each answer; None where it gave no verdict.
        human: what people gave the same answers, in [0, 1].
        human_threshold: value from which people count as content.
        seed: of the intervals' random draws.

    Raises:
        ValueError: the two differ in length, a human value is outside [0, 1], or the judge scored nothing.

    Source: Cohen (1960). Intervals of agreement and kappa: posterior of the 2 x 2 table under Jeffreys' prior; of error
    and bias: bootstrap (`paired_interval`), (-1, 1) from fewer than two answers.
    """
    if not all(0 <= value <= 1 for value in human):
        raise ValueError("a human value is outside [0, 1]")
    pairs = [(score, value) for score, value in zip(judged, human, strict=True) if score is not None]
    if not pairs:
        raise ValueError("the judge scored none of the answers")
    table = np.zeros((2, 2))
    for score, value in pairs:
        table[int(score.passed), int(value >= human_threshold)] += 1
    draws = np.random.Generator(np.random.PCG64(seed)).dirichlet(table.ravel() + _PRIOR, _DRAWS).reshape(-1, 2, 2)
    kappa = _kappa(table[None] / len(pairs))[0]
    values, said = [score.value for score, _ in pairs], [value for _, value in pairs]
    errors, zeros = [abs(a - b) for a, b in zip(values, said, strict=True)], [0.0] * len(pairs)
    error_low, error_high = paired_interval(errors, zeros, seed=seed)
    bias = fmean(values) - fmean(said)
    return CalibrationReport(
        evaluator=pairs[0][0].evaluator,
        n=len(pairs),
        missing=len(judged) - len(pairs),
        agreement=_measure(float(np.trace(table)) / len(pairs), draws[:, 0, 0] + draws[:, 1, 1]),
        kappa=None if np.isnan(kappa) else _measure(float(kappa), _kappa(draws)),
        mean_absolute_error=Measure(fmean(errors), max(0.0, error_low), error_high),
        bias=Measure(bias, *paired_interval(values, said, seed=seed)),
    )


async def calibrate_judge(
    rated: Sequence[RatedAnswer], *, evaluator: Evaluator, model: CachedModel, human_threshold: float = 0.5
) -> CalibrationReport:
    """Ask the judge about answers that people have rated, and compare.

    Args:
        model: finds the judge's model, and pays for it.
    """
    scores = await score_answers([r.answer for r in rated], evaluator=evaluator, model=model)
    judged = [score if isinstance(score, Score) else None for score in scores]
    return calibrate(judged, [r.value for r in rated], human_threshold=human_threshold)


def _measure(value: float, draws: _Floats) -> Measure:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Measure(value, min(value, float(low)), max(value, float(high)))


def _kappa(tables: _Floats) -> _Floats:
    """Of tables of shares, shape (n, 2, 2) -> (n,); NaN where chance gives all of the agreement."""
    by_judge, by_human = tables.sum(axis=2), tables.sum(axis=1)
    chance = (by_judge * by_human).sum(axis=1)
    agreed = tables[:, 0, 0] + tables[:, 1, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)

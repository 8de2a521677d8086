"""What a test split can prove before anybody has asked a model: the plan beside the gate's statistics. Pure.

A gain counts as provable when the gate would publish it in 80 % of comparisons.
"""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from rs_pipelines.gate import SIGNIFICANCE
from rs_pipelines.paired_statistics import mcnemar_p_value

POWER = 0.8
_STEP = 0.001
_Z = NormalDist().inv_cdf(1 - SIGNIFICANCE)
_Z_POWER = NormalDist().inv_cdf(POWER)
LEAST_WINS = next(won for won in range(100) if mcnemar_p_value(won, 0) <= SIGNIFICANCE)
"""Rows won, and none lost, that exact McNemar needs."""


def mcnemar_power(n_rows: int, *, won: float, lost: float) -> float:
    """Probability that exact McNemar proves a gain on `n_rows` rows.

    Args:
        won, lost: probability of a row to be won, and to be lost; together at most 1.
    """
    changed = won + lost
    if changed <= 0:
        return 0.0
    total = 0.0
    for n_changed, chance in enumerate(_binomial(n_rows, min(1.0, changed))):
        if chance > 1e-9 and n_changed >= LEAST_WINS:
            total += chance * float(_binomial(n_changed, won / changed)[_wins_needed(n_changed) :].sum())
    return total


def smallest_gain(n_rows: int, *, live: float, agreement: float) -> float | None:
    """The smallest gain in scores of 0 and 1 that is proven with 80 % probability; None when not even the largest is.

    Args:
        live: probability that the live version gets a row right.
        agreement: in [0, 1]; 0: which rows the candidate gets right has nothing to do with the live version; 1: it gets
            right all that the live version does.
    """

    def power(gain: float) -> float:
        lost = (1 - agreement) * live * (1 - live - gain)
        return mcnemar_power(n_rows, won=lost + gain, lost=lost)

    # In whole steps, up to a candidate that is always right.
    low, high = 0, math.floor((1 - live) / _STEP + 1e-9)
    if power(high * _STEP) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle * _STEP) >= POWER else (middle, high)
    return round(high * _STEP, 3)


def smallest_mean_gain(n_rows: int, *, spread: float, min_gain: float = 0.0) -> float:
    """The smallest difference of means of graded scores that is proven with 80 % probability.

    Args:
        spread: standard deviation of a row's difference.
        min_gain: what the interval must lie above.

    Source: the normal approximation.
    """
    return min_gain + (_Z + _Z_POWER) * spread / math.sqrt(n_rows)


def smallest_excluded_loss(n_rows: int, *, spread: float) -> float:
    """The smallest `max_loss` under which an equally good candidate passes with 80 % probability.

    Source: the normal approximation, and one imagined row on which the candidate loses everything.
    """
    return (_Z + _Z_POWER) * spread / math.sqrt(n_rows) + 1 / (n_rows + 1)


def least_excluded_loss(n_rows: int) -> float:
    """The loss that `n_rows` rows cannot rule out even if the candidate loses none of them."""
    return 1 - SIGNIFICANCE ** (1 / n_rows) if n_rows else 1.0


def rows_to_exclude(max_loss: float) -> int:
    """The fewest rows that can rule out a loss of `max_loss`: those that do if the candidate loses none of them."""
    return math.floor(math.log(SIGNIFICANCE) / math.log(1 - max_loss)) + 1


def lowest_score(total: float, n_rows: int) -> float:
    """One-sided 95 % lower bound of a mean score, from scores in [0, 1] that sum up to `total`.

    Source: Clopper & Pearson, on the whole rows in `total`.
    """
    hits = math.floor(total + 1e-9)
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        too_high = float(_binomial(n_rows, middle)[hits:].sum()) > 0.05
        low, high = (low, middle) if too_high else (middle, high)
    return low if hits else 0.0


@cache
def _wins_needed(n_changed: int) -> int:
    """The fewest wins among `n_changed` changed rows that exact McNemar takes for proof; one too many when none are."""
    at_least = np.cumsum(_binomial(n_changed, 0.5)[::-1])[::-1]
    return int(np.count_nonzero(at_least > SIGNIFICANCE))


def _binomial(n: int, p: float) -> npt.NDArray[np.float64]:
    """Probabilities of 0 to n successes."""
    if p <= 0 or p >= 1:
        chances = np.zeros(n + 1)
        chances[n if p >= 1 else 0] = 1.0
        return chances
    k = np.arange(n + 1)
    factorials = _log_factorials(n)
    return np.exp(factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p))


@cache
def _log_factorials(n: int) -> npt.NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))

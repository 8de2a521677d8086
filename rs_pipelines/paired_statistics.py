"""Statistics of paired scores: pure, seeded, without a model in sight."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Floats: TypeAlias = npt.NDArray[np.float64]
_FEW_VALUES = 16
_CHUNK = 2_000_000
"""Resampled values held in memory at a time."""


def paired_interval(
    candidate: Sequence[float], incumbent: Sequence[float], *, seed: int, n_resamples: int = 4_000
) -> tuple[float, float]:
    """95 % interval of the mean score difference, candidate minus incumbent; (-1, 1) from fewer than two rows.

    Args:
        candidate, incumbent: scores in [0, 1], shape (n_examples,), the same examples in the same order.

    Raises:
        ValueError: the two differ in length, so they are not paired.

    Source: percentile bootstrap with expanded percentiles, Hesterberg (2015), "What Teachers Should Know About the
    Bootstrap", section 5.3: the plain percentiles are too narrow by sqrt((n - 1) / n) and by normal against t.
    """
    # Resample differences, not scores: examples vary far more than the two prompts do.
    deltas = np.array([c - i for c, i in zip(candidate, incumbent, strict=True)], dtype=np.float64)
    n = len(deltas)
    if n < 2:
        return (-1.0, 1.0)
    means = np.sort(_resampled_means(deltas, n_resamples, rng=np.random.Generator(np.random.PCG64(seed))))
    tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(0.975, n - 1))
    low = math.floor(tail * n_resamples)
    return float(means[low]), float(means[n_resamples - 1 - low])


def _resampled_means(deltas: _Floats, n_resamples: int, *, rng: np.random.Generator) -> _Floats:
    """Means of `n_resamples` samples with replacement, shape (n_resamples,)."""
    n = len(deltas)
    values, counts = np.unique(deltas, return_counts=True)
    if len(values) <= _FEW_VALUES:
        # How often each value is drawn is multinomial: the same distribution, without drawing every row.
        return rng.multinomial(n, counts / n, size=n_resamples) @ values / n
    chunk = max(1, _CHUNK // n)
    sizes = [min(chunk, n_resamples - start) for start in range(0, n_resamples, chunk)]
    return np.concatenate([deltas[rng.integers(0, n, size=(size, n))].mean(axis=1) for size in sizes])


def t_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t, to within 0.1 % from 8 degrees of freedom on.

    Source: the expansion in powers of 1 / degrees, Abramowitz & Stegun (1964), 26.7.5.
    """
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def mcnemar_p_value(won: int, lost: int) -> float:
    """Probability that at least `won` of `won + lost` discordant rows go to the candidate if both are equally good.

    Source: the exact (binomial) form of McNemar (1947), one-sided.
    """
    n = won + lost
    return sum(math.comb(n, k) for k in range(won, n + 1)) / 2**n if n else 1.0

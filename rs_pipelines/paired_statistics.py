"""Statistics of paired scores: pure, seeded, without a model in sight."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Floats: TypeAlias = npt.NDArray[np.float64]
_FEW_VALUES = 16
_FEW_ROWS = 12
"""As many different rows have no more than 4,096 patterns of signs: all are tried."""
_SAME = 1e-9
"""Sums of the same differences in another order are this close."""
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
    deltas = _differences(candidate, incumbent)
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


def sign_flip_p_value(
    candidate: Sequence[float], incumbent: Sequence[float], *, seed: int, n_resamples: int = 4_000
) -> float:
    """Probability of a mean difference at least as large as the one seen, if both prompts are equally good.

    The same prompt twice makes every difference as likely as its opposite, so at most 2.5 % of such comparisons get a
    value of 0.025 or less: exactly, for any scores and any number of rows. With scores of 0 and 1 it is McNemar's test.

    Args:
        candidate, incumbent: scores in [0, 1], shape (n_examples,), the same examples in the same order.

    Source: Fisher's randomisation test; where not all patterns of signs are tried, the correction of Phipson & Smyth
    (2010), "Permutation P-values Should Never Be Zero".
    """
    deltas = _differences(candidate, incumbent)
    sizes = np.abs(deltas[deltas != 0])
    if len(sizes) <= _FEW_ROWS:
        patterns = np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return float(np.mean((2.0 * patterns - 1.0) @ sizes >= deltas.sum() - _SAME))
    rng = np.random.Generator(np.random.PCG64(seed))
    values, counts = np.unique(sizes, return_counts=True)
    if len(values) <= _FEW_VALUES:
        # How many of equal differences keep their sign is binomial.
        sums = (2 * rng.binomial(counts, 0.5, size=(n_resamples, len(values))) - counts) @ values
    else:
        chunk = max(1, _CHUNK // len(sizes))
        parts = [min(chunk, n_resamples - start) for start in range(0, n_resamples, chunk)]
        flips = (rng.integers(0, 2, size=(part, len(sizes)), dtype=np.int8) for part in parts)
        sums = np.concatenate([(2.0 * flip - 1.0) @ sizes for flip in flips])
    return (1 + int(np.count_nonzero(sums >= deltas.sum() - _SAME))) / (n_resamples + 1)


def guarded_low(
    candidate: Sequence[float], incumbent: Sequence[float], *, seed: int, n_resamples: int = 10_000
) -> float:
    """97.5 % lower bound of the mean difference that also holds where losses are rare and large; -1 from no rows.

    A bootstrap cannot see a loss that happened not to occur: 100 rows without one look like no loss at all. Here one
    more row is imagined on which the candidate loses everything. For rows that all tie it is Clopper & Pearson's bound.

    Args:
        candidate, incumbent: scores in [0, 1], shape (n_examples,), the same examples in the same order.

    Source: Gaffke (2005), "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
    variable"; studied as a bound by Learned-Miller & Thomas (2019). Its coverage is established by simulation, not by
    proof: `benchmarks/gate.py` repeats that for this gate.
    """
    deltas = np.append(_differences(candidate, incumbent), -1.0)
    values, counts = np.unique(deltas, return_counts=True)
    rng = np.random.Generator(np.random.PCG64(seed))
    # Sums of a row's exponential weights are gamma: one draw for all rows with the same difference.
    chunk = max(1, _CHUNK // len(values))
    means: list[_Floats] = []
    for start in range(0, n_resamples, chunk):
        weights = rng.standard_gamma(counts, size=(min(chunk, n_resamples - start), len(values)))
        means.append(weights @ values / weights.sum(axis=1))
    return float(np.sort(np.concatenate(means))[math.floor(0.025 * n_resamples)])


def _differences(candidate: Sequence[float], incumbent: Sequence[float]) -> _Floats:
    """Candidate minus incumbent; without the last digits, in which equal differences differ."""
    return np.round([c - i for c, i in zip(candidate, incumbent, strict=True)], 12).astype(np.float64)


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

"""Whether live scores have fallen: the newest full block of them against all before it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNIFICANCE = 0.01
"""One-sided. Scores that do not change raise a false alarm in at most this share of blocks."""
_RESAMPLES = 1_999


@dataclass(frozen=True, slots=True)
class Shift:
    """The newest block of scores beside those before it.

    Attributes:
        block: number of the newest block; the first one is 0 and is only ever compared with.
        n_before, n_recent: scores on either side; before, recent: their means.
        p_value: probability of so low a recent mean, if the order of the scores meant nothing.
    """

    block: int
    n_before: int
    n_recent: int
    before: float
    recent: float
    p_value: float

    @property
    def drop(self) -> float:
        """How much the mean has fallen; negative when it rose."""
        return self.before - self.recent

    def is_drift(self, *, min_drop: float) -> bool:
        """Whether it fell by at least `min_drop`, and by more than chance explains."""
        return self.drop >= min_drop and self.p_value <= SIGNIFICANCE


def newest_shift(scores: Sequence[float], *, window: int) -> Shift | None:
    """Compare the newest full block of `window` scores with all earlier ones; None before there are two blocks.

    Only full blocks are looked at, so that the answer can be wrong by chance once a block, and not once a score.

    Args:
        scores: in [0, 1], of one version by one measure, in the order in which they came.
    Source: one-sided permutation test of two means, Efron & Tibshirani (1993), ch. 15.
    """
    n_blocks = len(scores) // window
    if n_blocks < 2:
        return None
    pooled = np.asarray(scores[: n_blocks * window], dtype=np.float64)
    observed = float(pooled[-window:].mean())
    rng = np.random.default_rng(0)
    # The mean of a random block is low exactly when the rest's is high, so that it alone decides.
    as_low = sum(
        rng.choice(pooled, window, replace=False, shuffle=False).mean() <= observed + 1e-12 for _ in range(_RESAMPLES)
    )
    return Shift(
        block=n_blocks - 1,
        n_before=len(pooled) - window,
        n_recent=window,
        before=float(pooled[:-window].mean()),
        recent=observed,
        p_value=(as_low + 1) / (_RESAMPLES + 1),
    )

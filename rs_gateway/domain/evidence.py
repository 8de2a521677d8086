"""What the recent past says of a combination: sums that fade with time, so that few numbers hold a moving picture."""

import math

_SHORTEST_S = 1e-3


class _Fading:
    """Knows how much of what was summed up until its last look is left."""

    __slots__ = ("_at_s", "half_life_s")

    def __init__(self, half_life_s: float) -> None:
        self.half_life_s = half_life_s
        self._at_s = -math.inf

    def _kept(self, now_s: float) -> float:
        """The factor for sums as of the last look, in [0, 1]; a clock that steps back changes nothing."""
        passed_s = now_s - self._at_s
        if passed_s <= 0:
            return 1.0
        self._at_s = now_s
        return 0.5 ** (passed_s / self.half_life_s)


class Evidence(_Fading):
    """Results of calls, faded: one of `half_life_s` seconds ago counts half as much as one of now.

    Attributes:
        weight: how many results there are, faded. It understates how much they prove, so that bounds are cautious.
        successes: how many of them succeeded, faded.
    """

    __slots__ = ("_log_latency", "successes", "weight")

    def __init__(self, half_life_s: float) -> None:
        super().__init__(half_life_s)
        self.weight = 0.0
        self.successes = 0.0
        self._log_latency = 0.0

    def fade(self, now_s: float) -> None:
        """Bring the sums to `now_s`."""
        kept = self._kept(now_s)
        self.weight *= kept
        self.successes *= kept
        self._log_latency *= kept

    def succeeded(self, latency_s: float, now_s: float) -> None:
        """One more success, `latency_s` seconds long."""
        self.fade(now_s)
        self.weight += 1.0
        self.successes += 1.0
        self._log_latency += math.log(latency_s if latency_s > _SHORTEST_S else _SHORTEST_S)

    def failed(self, now_s: float) -> None:
        """One more failure. How long it took says nothing of how fast answers are."""
        self.fade(now_s)
        self.weight += 1.0

    def restate(self, weight: float, successes: float) -> None:
        """Put other counts in the place of these, as of now; the mean latency stays."""
        mean = self.log_latency
        self.weight, self.successes = weight, successes
        self._log_latency = 0.0 if mean is None else mean * successes

    @property
    def success_rate(self) -> float | None:
        """In [0, 1]; None while there are no results."""
        return self.successes / self.weight if self.weight > 0 else None

    @property
    def log_latency(self) -> float | None:
        """Mean of the natural logarithm of the latency in seconds, over successes."""
        return self._log_latency / self.successes if self.successes > 0 else None

    @property
    def latency_s(self) -> float | None:
        """Geometric mean over successes: one answer of a minute among quick ones hardly moves it."""
        return None if self.log_latency is None else math.exp(self.log_latency)


class FadedMean(_Fading):
    """A mean of values in [0, 1] in which a value of `half_life_s` seconds ago counts half."""

    __slots__ = ("total", "weight")

    def __init__(self, half_life_s: float) -> None:
        super().__init__(half_life_s)
        self.weight = 0.0
        self.total = 0.0

    def fade(self, now_s: float) -> None:
        """Bring the sums to `now_s`."""
        kept = self._kept(now_s)
        self.weight *= kept
        self.total *= kept

    def add(self, value: float, now_s: float) -> None:
        """One more value."""
        self.fade(now_s)
        self.weight += 1.0
        self.total += value

    @property
    def mean(self) -> float | None:
        """None while there are no values."""
        return self.total / self.weight if self.weight > 0 else None


def rate_upper_bound(successes: float, results: float, *, z: float) -> float:
    """Upper end of the interval of a success rate, in [0, 1]; 1 without results.

    Args:
        z: half-width in standard errors: 1.96 gives the 95 % interval, 3 the 99.7 % one.
    Source: score interval, Wilson (1927), J. Am. Stat. Assoc. 22.
    """
    if results <= 0:
        return 1.0
    rate, share = successes / results, z * z / results
    spread = z * math.sqrt(max(0.0, rate * (1 - rate)) / results + share / (4 * results))
    return min(1.0, (rate + share / 2 + spread) / (1 + share))

"""A histogram of durations with buckets that grow geometrically, so that every percentile has the same relative error.

Sketches of different minutes, combinations and processes can be added up without losing any of that precision.

Source: Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
PVLDB 12 (2019), section 2. Their collapsing of buckets is not needed: durations outside of a microsecond to eleven
days are counted at the ends of that range, so there are never more than 1,400 buckets.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

RELATIVE_ERROR = 0.01
"""A percentile is at most this far from the true one, relative to it."""
SHORTEST_S, LONGEST_S = 1e-6, 1e6
"""The range in which that holds, in seconds."""

_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / math.log(_GAMMA)


@dataclass(slots=True)
class Sketch:
    """Durations in seconds. Changed in place; the owner sees to it that one thread does.

    Attributes:
        buckets: i -> how many lay in (gamma ** (i - 1), gamma ** i].
        n_instant: how many took at most `SHORTEST_S`.
        sum_s, max_s: exact, each duration taken as at most `LONGEST_S`.
    """

    buckets: dict[int, int] = field(default_factory=dict[int, int])
    n_instant: int = 0
    count: int = 0
    sum_s: float = 0.0
    max_s: float = 0.0

    def add_all(self, durations_s: Sequence[float]) -> None:
        """Count them all; what is negative or no number took no time."""
        if not durations_s:
            return
        self.count += len(durations_s)
        # Whole lists at a time, because every request of a busy gateway passes here. The sum tells of a NaN.
        measured, sum_s = durations_s, sum(durations_s)
        if not (min(durations_s) > SHORTEST_S and max(durations_s) <= LONGEST_S and sum_s > 0):
            measured = [min(d, LONGEST_S) for d in durations_s if d > SHORTEST_S]
            self.n_instant += len(durations_s) - len(measured)
            sum_s = sum(measured)
        self.sum_s += sum_s
        self.max_s = max(self.max_s, max(measured, default=0.0))
        buckets, log, ceil = self.buckets, math.log, math.ceil
        for index, n in Counter([ceil(log(d) * _PER_LOG) for d in measured]).items():
            buckets[index] = buckets.get(index, 0) + n

    def merge(self, other: "Sketch") -> None:
        """Count all that `other` counted."""
        buckets = self.buckets
        if buckets:
            for index, n in other.buckets.items():
                buckets[index] = buckets.get(index, 0) + n
        else:
            buckets.update(other.buckets)
        self.n_instant += other.n_instant
        self.count += other.count
        self.sum_s += other.sum_s
        self.max_s = max(self.max_s, other.max_s)

    def quantiles(self, shares: Sequence[float]) -> list[float | None]:
        """The durations below which each share in [0, 1], in ascending order, of them lies; None when there are none.

        Each is in seconds and within `RELATIVE_ERROR` of the element at rank floor(share * (count - 1)) of the sorted
        durations.
        """
        ordered = sorted(self.buckets)
        found: list[float | None] = []
        seen, position, duration_s = self.n_instant, 0, 0.0
        for share in shares:
            rank = math.floor(share * (self.count - 1))
            while seen <= rank and position < len(ordered):
                seen += self.buckets[ordered[position]]
                duration_s = min(_middle(ordered[position]), self.max_s)
                position += 1
            found.append(duration_s if self.count else None)
        return found

    def mean(self) -> float | None:
        """In seconds, exact; None when there are none."""
        return self.sum_s / self.count if self.count else None

    def cumulative(self, bounds_s: Iterable[float]) -> list[int]:
        """For each bound, in ascending order, how many durations lay at or below it, within `RELATIVE_ERROR` of it."""
        ordered = sorted(self.buckets)
        counts: list[int] = []
        total, position = self.n_instant, 0
        for bound_s in bounds_s:
            while position < len(ordered) and _middle(ordered[position]) <= bound_s:
                total += self.buckets[ordered[position]]
                position += 1
            counts.append(total)
        return counts


def _middle(index: int) -> float:
    # The value with the same relative distance to both ends of the bucket.
    return 2 * _GAMMA**index / (1 + _GAMMA)

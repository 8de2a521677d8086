"""How fast something may go: a token bucket whose whole state is one point in time."""

_INSTANT_S = 1e-6
"""Shorter waits are rounding: a clock that counts seconds since 1970 is exact to about a quarter of this."""


class TokenBucket:
    """Holds up to `burst` tokens and gains `rate_per_s` of them each second; it starts full.

    What it remembers is `full_at_s`, when it will be full again. Every token taken moves that point by 1 / rate, so a
    bucket can be shared by adding up what everybody took. Any clock will do that never goes back.
    """

    __slots__ = ("_burst_s", "burst", "full_at_s", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, *, full_at_s: float = 0.0) -> None:
        """Args: rate_per_s, burst: both > 0. Raises ValueError."""
        if not (rate_per_s > 0 and burst > 0):
            raise ValueError(f"A bucket needs a rate and a burst above 0, not {rate_per_s!r} and {burst!r}.")
        self.rate_per_s, self.burst, self.full_at_s = rate_per_s, burst, full_at_s
        self._burst_s = burst / rate_per_s

    def level(self, now_s: float) -> float:
        """How many tokens there are, at most `burst`; negative after more was taken than there was."""
        debt_s = self.full_at_s - now_s
        return self.burst - debt_s * self.rate_per_s if debt_s > 0 else self.burst

    def take(self, amount: float, now_s: float) -> None:
        """Take `amount` >= 0 tokens, whether they are there or not."""
        since_s = self.full_at_s if self.full_at_s > now_s else now_s
        self.full_at_s = since_s + amount / self.rate_per_s

    def wait_s(self, now_s: float, amount: float = 1.0) -> float:
        """How long until `amount` tokens are there, in seconds; for more than `burst`, until the bucket is full."""
        wait_s = self.full_at_s - now_s
        if amount < self.burst:
            wait_s -= self._burst_s - amount / self.rate_per_s
        return wait_s if wait_s > _INSTANT_S else 0.0

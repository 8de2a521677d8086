"""How long to wait: before another try, and for a provider's own rate limit."""

import time
from collections.abc import Awaitable, Callable

from rs_gateway.domain.errors import RateLimitedError
from rs_gateway.domain.rates import TokenBucket

_FIRST_S = 0.25
_MAX_S = 8.0
_SHORT_WAIT_S = 1.0
"""A provider's own rate limit is waited for this long; then somebody else is asked."""


class Backoff:
    """Full jitter (Brooker, AWS Architecture Blog 2015), never sooner than the provider asked for.

    Args:
        draw: uniform in [0, 1).
    """

    def __init__(self, *, draw: Callable[[], float]) -> None:
        self._draw = draw

    def pause_s(self, attempt: int, *, retry_after_s: float | None) -> float:
        """Seconds to wait after try number `attempt`, counted from 0."""
        jitter_s = self._draw() * min(_MAX_S, _FIRST_S * 2**attempt)
        return jitter_s + retry_after_s if retry_after_s is not None else jitter_s

    @staticmethod
    def is_told_to_wait(retry_after_s: float | None) -> bool:
        """Whether a provider asked for a pause that is better spent asking somebody else."""
        return (retry_after_s or 0.0) > _FIRST_S


async def wait_for_turn(
    bucket: TokenBucket | None, *, provider: str, left_s: float, sleep: Callable[[float], Awaitable[None]]
) -> float:
    """Keep the provider's `rate_limit`, if it has one. Returns how long that took, in seconds.

    Args:
        left_s: of the request's deadline.
    Raises:
        RateLimitedError: its turn is too far off.
    """
    if bucket is None:
        return 0.0
    wait_s = bucket.wait_s(time.monotonic())
    if wait_s > _SHORT_WAIT_S or wait_s >= left_s:
        raise RateLimitedError(f"model_providers.{provider}.rate_limit is used up for now.", retry_after_s=wait_s)
    bucket.take(1, time.monotonic())
    if wait_s > 0:
        await sleep(wait_s)
    return wait_s

"""Production goes first: how fast the optimiser may ask a provider, and when it has to wait."""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.rates import TokenBucket
from rs_gateway.domain.stats import MINUTE_S, StatsRow

_RECENT_S = 2 * MINUTE_S
_BEFORE_S = 10 * MINUTE_S
_LEAST_TROUBLES = 5
_LEAST_SHARE = 0.05
"""Fewer troubles, or a smaller share of the requests, are everyday life."""
_POLL_S = 5.0
_TROUBLES = ("provider_overloaded", "provider_unreachable", "provider_timeout", "provider_cut")
"""429, 5xx, and what a server does before it says so. Retries and fallbacks count as well: each had one before."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Load:
    """What production asked of one provider in some minutes; `troubles` did not go well at first."""

    requests: int
    troubles: int

    @property
    def share(self) -> float:
        """Troubles a request; 0 where nothing was asked."""
        return self.troubles / self.requests if self.requests else 0.0


def load_of(rows: Iterable[StatsRow], *, provider: str, since_s: float) -> Load:
    """The load of one provider in the minutes that began at `since_s` or later."""
    found = [r.figures for r in rows if r.key.provider == provider and r.start_s >= since_s and r.period_s == MINUTE_S]
    errors = sum(figures.errors.get(code, 0) for figures in found for code in _TROUBLES)
    return Load(sum(f.requests for f in found), errors + sum(f.retries + f.fallbacks for f in found))


def is_in_trouble(recent: Load, before: Load, *, paused: bool) -> bool:
    """Whether production's 429s and 5xx are rising; once paused, until they are few again.

    Args:
        recent: the last two minutes; before: the ten minutes before them.
    """
    if recent.troubles < _LEAST_TROUBLES or recent.share < _LEAST_SHARE:
        return False
    return paused or recent.share > before.share


class Pace:
    """Lets calls to one provider pass, one by one.

    Args:
        rate_per_s: calls a second, at most; None is no limit.
        stats: since when (seconds since the epoch, a whole minute) -> production's live figures by minute; blocking.
            While it raises a RouteSwitchError, calls do not wait for production; the log says so once.
        on_pause: told why, when calls begin to wait for production, and None when they go on.
        now, clock, sleep: replaced in tests. `now` counts from the epoch, `clock` from anywhere.
    """

    def __init__(
        self,
        provider: str,
        *,
        rate_per_s: float | None,
        stats: Callable[[int], list[StatsRow]],
        on_pause: Callable[[str | None], None],
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._provider, self._stats, self._on_pause = provider, stats, on_pause
        self._now, self._clock, self._sleep = now, clock, sleep
        self._bucket = None if rate_per_s is None else TokenBucket(rate_per_s, max(1.0, 6 * rate_per_s))
        self._looked_at_s: float | None = None
        self._paused, self._sees = False, True
        self._lock = anyio.Lock()

    async def turn(self) -> None:
        """Wait until the next call may be made. Cancelled meanwhile, it has used up nothing."""
        async with self._lock:
            while await self._must_wait():
                await self._sleep(_POLL_S)
            if self._bucket is not None:
                # The lock keeps the others behind, so that the turn need not be taken before it has come.
                while (wait_s := self._bucket.wait_s(self._clock())) > 0:
                    await self._sleep(wait_s)
                self._bucket.take(1, self._clock())

    async def _must_wait(self) -> bool:
        now_s = self._clock()
        if self._looked_at_s is not None and not self._paused and now_s - self._looked_at_s < _POLL_S:
            return False
        minute = int(self._now()) // MINUTE_S * MINUTE_S
        recent_since_s = minute - _RECENT_S
        rows = await self._figures(recent_since_s - _BEFORE_S)
        self._looked_at_s = now_s
        recent = load_of(rows, provider=self._provider, since_s=recent_since_s)
        whole = load_of(rows, provider=self._provider, since_s=recent_since_s - _BEFORE_S)
        before = Load(whole.requests - recent.requests, whole.troubles - recent.troubles)
        trouble = is_in_trouble(recent, before, paused=self._paused)
        if trouble != self._paused:
            self._paused = trouble
            why = f"{recent.troubles} of production's last {recent.requests} requests to {self._provider} met trouble"
            self._on_pause(why if trouble else None)
        return trouble

    async def _figures(self, since_s: int) -> list[StatsRow]:
        try:
            rows = await anyio.to_thread.run_sync(self._stats, since_s)
        except RouteSwitchError as error:
            if self._sees:
                log.warning("production_not_seen", provider=self._provider, error=str(error))
            self._sees = False
            return []
        self._sees = True
        return rows

"""Many waits of one length behind one timer of the event loop; a timer each would cost more than the waiting."""

import asyncio
from collections.abc import Callable
from types import TracebackType


class SharedTimer:
    """Calls back what was not stopped within `delay_s`. Belongs to one event loop.

    All waits are equally long, so they end in the order in which they began, and only the oldest needs a timer. One
    that is left armed when its wait was stopped finds nothing to do, and is set again for the oldest one then.
    """

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self._waits: dict[object, tuple[float, Callable[[], None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_armed = False

    def start(self, callback: Callable[[], None]) -> object:
        """Have `callback` called in `delay_s`; the token stops it."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        token = object()
        ends_at_s = loop.time() + self.delay_s
        self._waits[token] = (ends_at_s, callback)
        if not self._is_armed:
            self._is_armed = True
            loop.call_at(ends_at_s, self._look)
        return token

    def stop(self, token: object) -> None:
        """Never mind. Does nothing when it was called already."""
        self._waits.pop(token, None)

    def _look(self) -> None:
        assert self._loop is not None
        self._is_armed = False
        now_s = self._loop.time()
        while self._waits:
            token, (ends_at_s, callback) = next(iter(self._waits.items()))
            if ends_at_s > now_s:
                self._is_armed = True
                self._loop.call_at(ends_at_s, self._look)
                return
            del self._waits[token]
            callback()


class TimerOf:
    """The shared timer for a length that may change, as configured lengths do."""

    __slots__ = ("_timer",)

    def __init__(self) -> None:
        self._timer: SharedTimer | None = None

    def of(self, delay_s: float) -> SharedTimer:
        """The one of this length; those that wait on another one go on waiting."""
        if self._timer is None or self._timer.delay_s != delay_s:
            self._timer = SharedTimer(delay_s)
        return self._timer


class Limit:
    """As `asyncio.timeout`, of a shared timer's length: raises TimeoutError when the block takes longer."""

    __slots__ = ("_expired", "_task", "_timer", "_token")

    def __init__(self, timer: SharedTimer) -> None:
        self._timer, self._expired = timer, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._token = self._timer.start(self._expire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.stop(self._token)
        # Somebody else may have cancelled the task as well: then that is what counts.
        if self._expired and self._task.uncancel() <= 0 and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

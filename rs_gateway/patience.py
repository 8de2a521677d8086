"""How long a stream may take: the provider has a budget, and the client must not stop reading for ever."""

import asyncio
from types import TracebackType

from rs_gateway.domain.errors import ClientStalledError


class Patience:
    """Watches the current task while it carries a stream, with one timer instead of one a chunk.

    Only one of the two sides is waited for at a time; say which with `on_provider` and `on_client`. Leaving the context
    because time was up raises TimeoutError (the provider's) or ClientStalledError.

    Args:
        budget_s: what the provider may take in all, from now on.
        client_s: how long one write to the client may wait.
    """

    def __init__(self, *, budget_s: float, client_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._budget_s, self._left_s, self._client_s = budget_s, budget_s, client_s
        self._waits_for_client = False
        self._expired = False

    def __enter__(self) -> "Patience":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._since = self._loop.time()
        # Neither side can be overdue sooner than this; `_look` finds out about what is left.
        self._timer = self._loop.call_later(min(self._left_s, self._client_s), self._look)
        return self

    @property
    def provider_s(self) -> float:
        """What the provider has taken so far."""
        return self._budget_s - self._left_s

    def on_client(self) -> None:
        """From now on the client is waited for."""
        now = self._loop.time()
        if not self._waits_for_client:
            self._left_s -= now - self._since
        self._since, self._waits_for_client = now, True

    def on_provider(self) -> None:
        """From now on the provider is waited for."""
        self._since, self._waits_for_client = self._loop.time(), False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._expired and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            if self._waits_for_client:
                raise ClientStalledError(f"The client read nothing for {self._client_s:g} s.") from error
            raise TimeoutError from error

    def _look(self) -> None:
        allowed_s = self._client_s if self._waits_for_client else self._left_s
        left_s = allowed_s - (self._loop.time() - self._since)
        if left_s > 0:
            self._timer = self._loop.call_later(min(left_s, self._client_s), self._look)
        else:
            self._expired = True
            self._task.cancel()

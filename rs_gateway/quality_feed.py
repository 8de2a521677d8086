"""Scores that arrive as feedback, from whichever worker, on their way to the router."""

import asyncio
import time

import anyio.to_thread
import structlog

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.ports import ScoreReader
from rs_gateway.domain.router import Router

log = structlog.get_logger()

_PAGE_ROWS = 1_000


class QualityFeed:
    """Follows the store's scores. Those from before the start are news too: the router forgets by itself."""

    def __init__(self, reader: ScoreReader, router: Router, *, interval_s: float = 2.0) -> None:
        self._reader, self._router, self._interval_s = reader, router, interval_s
        self._after: int | None = None
        self._failing = False

    async def keep_fed(self) -> None:
        """Look for scores every `interval_s`, for ever."""
        while True:
            try:
                while await self.feed():
                    pass
                self._failing = False
            except RouteSwitchError as error:
                if not self._failing:
                    log.error("scores_unreadable", error=str(error))
                self._failing = True
            await asyncio.sleep(self._interval_s)

    async def feed(self) -> bool:
        """Take in one page; whether there may be more. Raises StoreError."""
        if self._after is None:
            self._after = await anyio.to_thread.run_sync(lambda: self._reader.newest_score(keep=_PAGE_ROWS))
        after = self._after
        page = await anyio.to_thread.run_sync(lambda: self._reader.scores(after=after, limit=_PAGE_ROWS))
        now_s = time.monotonic()
        for _, _, combination_id, value in page.rows:
            if isinstance(combination_id, str) and isinstance(value, float) and 0 <= value <= 1:
                self._router.scored(combination_id, value, now_s=now_s)
        self._after = page.last_sequence
        return len(page.rows) == _PAGE_ROWS

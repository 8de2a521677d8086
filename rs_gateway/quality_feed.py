"""Scores that arrive as feedback, from whichever worker, on their way to the router."""

import asyncio
import time

import anyio.to_thread
import structlog

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.ports import ScoreReader
from rs_gateway.domain.router import Router

log = structlog.get_logger()


class QualityFeed:
    """Follows the store's scores. Those from before the start are news too: the router forgets by itself.

    Args:
        page_rows: how many scores are read at once, and how many from before the start at most.
    """

    def __init__(self, reader: ScoreReader, router: Router, *, interval_s: float = 2.0, page_rows: int = 1_000) -> None:
        self._reader, self._router, self._interval_s, self._page_rows = reader, router, interval_s, page_rows
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
            self._after = await anyio.to_thread.run_sync(lambda: self._reader.newest_score(keep=self._page_rows))
        after = self._after
        page = await anyio.to_thread.run_sync(lambda: self._reader.scores(after=after, limit=self._page_rows))
        now_s = time.monotonic()
        for _, _, combination_id, value in page.rows:
            if isinstance(combination_id, str) and isinstance(value, float) and 0 <= value <= 1:
                self._router.scored(combination_id, value, now_s=now_s)
        self._after = page.last_sequence
        if after > 0 and not page.rows:
            newest = await anyio.to_thread.run_sync(lambda: self._reader.newest_score(keep=0))
            if newest < after:
                self._after = None  # another store lies there now, which counts from the beginning
        return len(page.rows) == self._page_rows

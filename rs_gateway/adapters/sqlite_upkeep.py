"""What time makes necessary in a SQLite trace store, in steps so small that no commit is late by more than one.

Each step deletes a few rows in a transaction of its own, and the next one deletes more or fewer according to how long
that took: a row may be a few bytes or an image.
"""

import sqlite3
import time
from collections.abc import Callable
from typing import TypeAlias

from ulid import ULID

from rs_gateway.adapters.sqlite_read_only import primary_code
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.domain.stats import HOUR_S, KEPT_S, MINUTE_S

_STEP_S = 0.003
_FEWEST_ROWS, _MOST_ROWS = 1, 1_000
_TIMESTAMP_CHARS = 10
_BUSY_PAUSE_S = 1.0
_SIZE_CHECK_S = 10.0

# The newest row of a table stays: readers recognise the store by the row that they read last.
_DELETE_PAYLOADS = (
    "DELETE FROM trace_payloads WHERE trace_id IN "
    "(SELECT trace_id FROM trace_payloads WHERE trace_id < ? ORDER BY trace_id LIMIT ?)"
)
_DELETE_TRACES = (
    "DELETE FROM traces WHERE trace_id IN (SELECT trace_id FROM traces WHERE trace_id < ? "
    "AND seq < (SELECT max(seq) FROM traces) ORDER BY trace_id LIMIT ?)"
)
_DELETE_FEEDBACK = (
    "DELETE FROM feedback WHERE seq IN (SELECT seq FROM feedback WHERE created_at < ? "
    "AND seq < (SELECT max(seq) FROM feedback) ORDER BY created_at LIMIT ?)"
)
_DELETE_STATS = (
    "DELETE FROM stats WHERE rowid IN (SELECT rowid FROM stats WHERE period_s = {period_s} AND start_s < ? LIMIT ?)"
)

_DELETE_OLDEST_PAYLOADS = (
    "DELETE FROM trace_payloads WHERE trace_id IN (SELECT trace_id FROM trace_payloads ORDER BY trace_id LIMIT ?)"
)
_DELETE_OLDEST_TRACES = (
    "DELETE FROM traces WHERE trace_id IN (SELECT trace_id FROM traces "
    "WHERE seq < (SELECT max(seq) FROM traces) ORDER BY trace_id LIMIT ?)"
)
_OVER_SIZE = (_DELETE_OLDEST_TRACES, _DELETE_OLDEST_PAYLOADS)

Task: TypeAlias = tuple[str, tuple[object, ...]]
"""A statement, and what it compares with."""


class SqliteUpkeep:
    """Which rows are due, and how many of them at a time. Used by the thread that owns the connection."""

    def __init__(self, retention: Retention, *, clock: Callable[[], float], interval_s: float) -> None:
        """Begin with a round at once, then one every `interval_s`. `clock` gives seconds since the epoch."""
        self._retention, self._clock, self._interval_s = retention, clock, interval_s
        self._round: list[Task] = []
        self._rows = 50

    def step(self, connection: sqlite3.Connection, *, busy_timeout_s: float) -> float:
        """Delete some of what is due; how many seconds to wait before the next step. Raises sqlite3.Error.

        Args:
            busy_timeout_s: how long the connection waits for other writers at all other times.
        """
        if not self._round:
            self._round = self._due(self._clock())
        if self._round[-1][0] in _OVER_SIZE and not self._is_over_size(connection):
            self._round = [task for task in self._round if task[0] not in _OVER_SIZE]
            return self._pause_s()
        statement, bounds = self._round[-1]
        # Somebody else's write is more urgent, and so is what queues up behind this step.
        connection.execute("PRAGMA busy_timeout = 0")
        started = time.perf_counter()
        try:
            connection.execute("BEGIN IMMEDIATE")
            deleted = connection.execute(statement, (*bounds, self._rows)).rowcount
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if primary_code(error) == sqlite3.SQLITE_BUSY:
                return _BUSY_PAUSE_S
            raise
        finally:
            connection.execute(f"PRAGMA busy_timeout = {round(busy_timeout_s * 1000)}")
        if deleted < self._rows:
            self._round.pop()
        elif time.perf_counter() - started < _STEP_S / 2:
            self._rows = min(2 * self._rows, _MOST_ROWS)
        if time.perf_counter() - started > _STEP_S:
            self._rows = max(self._rows // 2, _FEWEST_ROWS)
        return self._pause_s()

    def _pause_s(self) -> float:
        if self._round:
            return 0.0
        # A busy gateway fills a disk faster than it gets old.
        return self._interval_s if self._retention.store_bytes is None else min(self._interval_s, _SIZE_CHECK_S)

    def _is_over_size(self, connection: sqlite3.Connection) -> bool:
        assert self._retention.store_bytes is not None
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * page_bytes > self._retention.store_bytes

    def _due(self, now_s: float) -> list[Task]:
        """The tasks of one round, the last one first."""
        tasks: list[Task] = [
            (_DELETE_STATS.format(period_s=period_s), (now_s - KEPT_S - period_s,)) for period_s in (MINUTE_S, HOUR_S)
        ]
        if self._retention.store_bytes is not None:
            tasks += [(statement, ()) for statement in _OVER_SIZE]
        feedback, traces = self._retention.feedback_before(now_s), self._retention.traces_before(now_s)
        payloads = self._retention.payloads_before(now_s)
        if feedback is not None:
            tasks.append((_DELETE_FEEDBACK, (feedback,)))
        if traces is not None:
            tasks.append((_DELETE_TRACES, (_first_id(traces),)))
        if payloads is not None:
            tasks.append((_DELETE_PAYLOADS, (_first_id(payloads),)))
        return tasks


def _first_id(instant_s: float) -> str:
    """What no trace id from `instant_s` on is smaller than: ids are ULIDs, which begin with their time."""
    return str(ULID.from_timestamp(float(instant_s)))[:_TIMESTAMP_CHARS]

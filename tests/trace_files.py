"""SQLite trace stores for tests: small traces, disks that fail, and what is in a file afterwards."""

import sqlite3
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.traces import Outcome, Trace, TracePayload, Usage


def a_trace(trace_id: str, *, content: str = "hello") -> Trace:
    messages = ({"role": "user", "content": content},)
    payload = TracePayload(messages, {}, {}, messages, {"role": "assistant", "content": content})
    return Trace(trace_id, 1.0, "m", Outcome.COMPLETE, False, 0.1, Usage.unknown(), payload=payload)


def some_feedback(trace_id: str) -> Feedback:
    return Feedback(f"f-{trace_id}", trace_id, FeedbackKind.COMMENT, "good", "human", 1.0)


@contextmanager
def opened(path: Path, **options: Any) -> Generator[SqliteTraceStore]:
    store = SqliteTraceStore(path, **options)
    try:
        yield store
    finally:
        store.close()


def counted(path: Path) -> int:
    """Requests in the figures of all time."""
    with closing(SqliteStatsReader(path)) as reader:
        return sum(row.figures.requests for row in reader.stats(since_s=None))


def ids(path: Path) -> list[str]:
    with closing(SqliteTraceReader(path)) as reader:
        page = reader.traces(after=0, limit=1_000_000)
    return [str(row[page.columns.index("trace_id")]) for row in page.rows]


class FaultyDisk:
    """Opens connections that fail to commit while `broken` is set.

    Once `lying` is set, the next commit of a trace succeeds and reports a failure; once `full` is, it finds no room.
    """

    def __init__(self) -> None:
        self.broken = threading.Event()
        self.lying = threading.Event()
        self.full = threading.Event()
        disk = self

        class Connection(sqlite3.Connection):
            wrote_trace = False

            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if disk.broken.is_set() and sql == "COMMIT":
                    raise sqlite3.OperationalError("disk I/O error")
                if disk.full.is_set() and sql == "COMMIT" and self.wrote_trace:
                    disk.full.clear()
                    no_room = sqlite3.OperationalError("database or disk is full")
                    no_room.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise no_room
                cursor = super().execute(sql, *parameters)
                if sql.startswith(("BEGIN", "INSERT INTO traces")):
                    self.wrote_trace = not sql.startswith("BEGIN")
                if disk.lying.is_set() and sql == "COMMIT" and self.wrote_trace:
                    disk.lying.clear()
                    raise sqlite3.OperationalError("disk I/O error")
                return cursor

        self._factory = Connection

    def connect(self, path: Path, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=self._factory, **options)

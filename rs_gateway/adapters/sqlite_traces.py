"""Traces in one SQLite file: one writer a process, with group commit; readers page by commit sequence.

Several processes may write to one file. SQLite lets one of them write at a time and a sequence number is drawn inside
that one's transaction, so the order of `seq` is the order of commits, and a reader that pages by it misses nothing.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from rs_gateway.adapters.paged_traces import PagedTraces, TraceQueries, integer
from rs_gateway.adapters.queued_traces import QueuedTraces
from rs_gateway.adapters.sqlite_columns import read_columns
from rs_gateway.adapters.sqlite_read_only import ReadOnlyStore
from rs_gateway.adapters.sqlite_trace_database import Connect, SqliteTraceDatabase
from rs_gateway.adapters.sqlite_upkeep import SqliteUpkeep
from rs_gateway.adapters.sqlite_wal import LogPatience
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.adapters.trace_rows import FEEDBACK_COLUMNS, TRACE_COLUMNS
from rs_gateway.adapters.trace_writer import Prepare, TraceWriter, WriterLimits
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.ports import ArrowStream, NewestPositions, StoredColumns

_JOINED = f"SELECT {', '.join(TRACE_COLUMNS)} FROM traces LEFT JOIN trace_payloads USING (trace_id)"  # noqa: S608 ours
_FEEDBACK = f"SELECT {', '.join(FEEDBACK_COLUMNS)} FROM feedback"  # noqa: S608 our names
_QUERIES = TraceQueries(
    traces=f"{_JOINED} WHERE seq > ? ORDER BY seq LIMIT ?",
    feedback=f"{_FEEDBACK} WHERE seq > ? ORDER BY seq LIMIT ?",
    scores=(
        "SELECT feedback.seq, template_id, combination_id, CAST(feedback.value AS REAL) "
        "FROM feedback JOIN traces USING (trace_id) "
        "WHERE kind = 'score' AND combination_id IS NOT NULL AND feedback.seq > ? ORDER BY feedback.seq LIMIT ?"
    ),
    trace=f"{_JOINED} WHERE trace_id = ?",
    newest_score="SELECT seq FROM feedback WHERE kind = 'score' ORDER BY seq DESC LIMIT 1 OFFSET ?",
)
_SELECT_PAGES: Mapping[str, str] = {
    "traces": f"{_JOINED} WHERE seq > {{after}} AND seq <= {{upto}} ORDER BY seq",
    "feedback": f"{_FEEDBACK} WHERE seq > {{after}} AND seq <= {{upto}} ORDER BY seq",
}
_ROWS_A_TRANSACTION = 5_000
_SELECT_NEWEST = "SELECT name, seq FROM sqlite_sequence WHERE name IN ('traces', 'feedback')"
T = TypeVar("T")


def sqlite_path(url: str) -> Path:
    """The file that `sqlite:///relative/path` or `sqlite:////absolute/path` names. Raises ConfigurationError."""
    prefix = "sqlite:///"
    name = url.removeprefix(prefix)
    if not url.startswith(prefix) or not name.strip("/") or name.endswith("/") or name == ":memory:" or "?" in name:
        raise ConfigurationError(
            f"{url!r} names no SQLite file: write sqlite:///data/traces.db, or sqlite:////var/lib/traces.db (four "
            "slashes) for an absolute path; or, for Postgres, postgresql://USER:${POSTGRES_PASSWORD}@HOST/DATABASE."
        )
    return Path(name)


class SqliteTraceStore(QueuedTraces):
    """The gateway's side of the store.

    A group commit that somebody waits for is synced to the disk; one that nobody waits for survives a killed process,
    but a loss of power may take the last moments of it. A failed write is retried until it succeeds, and everybody who
    waits is told of it at once: `committed` returns False though the trace stays queued, feedback is withdrawn.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: WriterLimits = WriterLimits(),  # noqa: B008 it is frozen
        retention: Retention = Retention(),  # noqa: B008 it is frozen
        upkeep_interval_s: float = 3_600.0,
        prepare: Prepare | None = None,
        clock: Callable[[], float] = time.time,
        connect: Connect = sqlite3.connect,
    ) -> None:
        """Open or create the store, and start its writer.

        Args:
            retention: applied at the start and every `upkeep_interval_s`, a few rows at a time between commits.
            prepare: see TraceWriter; what it returns is stored, the live figures count the record as it came.
            clock: seconds since the epoch; retention goes by it.
        Raises:
            SchemaTooNewError, StoreError: the file cannot be used; the message says why and what to do.
        """
        writer = TraceWriter(
            SqliteTraceDatabase(
                path,
                busy_timeout_s=limits.write_timeout_s,
                connect=connect,
                retention=retention,
                upkeep=SqliteUpkeep(retention, clock=clock, interval_s=upkeep_interval_s),
            ),
            name=f"traces {path.name}",
            limits=limits,
            prepare=prepare,
        )
        super().__init__(writer)


class SqliteTraceReader(PagedTraces[str]):
    """The pipelines' side of the store: read-only, one short transaction a page. A file that is not there is empty."""

    def __init__(self, path: Path) -> None:
        self._path, self._store = path, ReadOnlyStore(path)
        self._patience = LogPatience(path)
        super().__init__(self._store, _QUERIES)

    def newest_positions(self) -> NewestPositions:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        found = {str(name): integer(seq) for name, seq in self._store.rows(_SELECT_NEWEST, ())}
        return NewestPositions(found.get("traces", 0), found.get("feedback", 0))

    def columns(
        self, table: Literal["traces", "feedback"], *, after: int, limit: int, load: Callable[[ArrowStream], T]
    ) -> StoredColumns[T] | None:
        """See ColumnReader. Raises SchemaTooNewError, StoreError."""
        newest = self.newest_positions()
        # Numbers are drawn in the order of commits: up to the newest one, all that will ever be there is there.
        last = min(after + limit, newest.traces if table == "traces" else newest.feedback)
        if last <= after:
            return StoredColumns([], after)
        self._store.close()  # see sqlite_columns.py
        self._patience.pause()
        queries = [
            _SELECT_PAGES[table].format(after=start, upto=min(start + _ROWS_A_TRANSACTION, last))
            for start in range(after, last, _ROWS_A_TRANSACTION)
        ]
        chunks = read_columns(self._path, queries, batch_rows=_ROWS_A_TRANSACTION, load=load)
        return None if chunks is None else StoredColumns(chunks, last)

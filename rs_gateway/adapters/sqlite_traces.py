"""Traces in one SQLite file: one writer a process, with group commit; readers page by commit sequence.

Several processes may write to one file. SQLite lets one of them write at a time and a sequence number is drawn inside
that one's transaction, so the order of `seq` is the order of commits, and a reader that pages by it misses nothing.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from rs_gateway.adapters.queued_traces import QueuedTraces
from rs_gateway.adapters.sqlite_columns import read_columns
from rs_gateway.adapters.sqlite_read_only import ReadOnlyStore
from rs_gateway.adapters.sqlite_trace_database import Connect, SqliteTraceDatabase
from rs_gateway.adapters.sqlite_upkeep import SqliteUpkeep
from rs_gateway.adapters.sqlite_wal import LogPatience
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.adapters.trace_rows import FEEDBACK_COLUMNS, SCORE_COLUMNS, TRACE_COLUMNS, Row
from rs_gateway.adapters.trace_writer import Prepare, TraceWriter, WriterLimits
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.ports import ArrowStream, NewestPositions, StoredColumns, StoredRows

_JOINED = f"SELECT {', '.join(TRACE_COLUMNS)} FROM traces LEFT JOIN trace_payloads USING (trace_id)"  # noqa: S608 ours
_SELECT_TRACES = f"{_JOINED} WHERE seq > ? ORDER BY seq LIMIT ?"
_SELECT_TRACE = f"{_JOINED} WHERE trace_id = ?"
_SELECT_FEEDBACK = f"SELECT {', '.join(FEEDBACK_COLUMNS)} FROM feedback WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
_SELECT_SCORES = (
    "SELECT feedback.seq, template_id, combination_id, CAST(feedback.value AS REAL) "
    "FROM feedback JOIN traces USING (trace_id) "
    "WHERE kind = 'score' AND combination_id IS NOT NULL AND feedback.seq > ? ORDER BY feedback.seq LIMIT ?"
)
_SELECT_NEWEST_SCORE = "SELECT seq FROM feedback WHERE kind = 'score' ORDER BY seq DESC LIMIT 1 OFFSET ?"
_SELECT_PAGES: Mapping[str, str] = {
    "traces": f"{_JOINED} WHERE seq > {{after}} AND seq <= {{upto}} ORDER BY seq",
    "feedback": f"SELECT {', '.join(FEEDBACK_COLUMNS)} FROM feedback WHERE seq > {{after}} AND seq <= {{upto}} ORDER BY seq",  # noqa: S608, E501
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
        queue_rows: int = 10_000,
        queue_bytes: int = 256 * 2**20,
        flush_interval_s: float = 0.05,
        max_batch: int = 500,
        busy_timeout_s: float = 2.0,
        close_timeout_s: float = 5.0,
        retention: Retention = Retention(),  # noqa: B008 it is frozen
        upkeep_interval_s: float = 3_600.0,
        prepare: Prepare | None = None,
        clock: Callable[[], float] = time.time,
        connect: Connect = sqlite3.connect,
    ) -> None:
        """Open or create the store, and start its writer.

        Args:
            queue_bytes: bound on what is queued, estimated from the length of its texts.
            busy_timeout_s: how long one write waits for other processes before it counts as failed.
            close_timeout_s: how long `close` goes on trying when the disk fails.
            retention: applied at the start and every `upkeep_interval_s`, a few rows at a time between commits.
            prepare: see TraceWriter; what it returns is stored, the live figures count the record as it came.
            clock: seconds since the epoch; retention goes by it.
        Raises:
            SchemaTooNewError, StoreError: the file cannot be used; the message says why and what to do.
        """
        writer = TraceWriter(
            SqliteTraceDatabase(
                path,
                busy_timeout_s=busy_timeout_s,
                connect=connect,
                retention=retention,
                upkeep=SqliteUpkeep(retention, clock=clock, interval_s=upkeep_interval_s),
            ),
            name=f"traces {path.name}",
            limits=WriterLimits(
                queue_rows=queue_rows,
                queue_bytes=queue_bytes,
                flush_interval_s=flush_interval_s,
                max_batch=max_batch,
                write_timeout_s=busy_timeout_s,
                close_timeout_s=close_timeout_s,
            ),
            prepare=prepare,
        )
        super().__init__(writer)


class SqliteTraceReader:
    """The pipelines' side of the store: read-only, one short transaction a page. A file that is not there is empty."""

    def __init__(self, path: Path) -> None:
        self._path, self._store = path, ReadOnlyStore(path)
        self._patience = LogPatience(path)

    def traces(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        return self._page(_SELECT_TRACES, TRACE_COLUMNS, after=after, limit=limit)

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        return self._page(_SELECT_FEEDBACK, FEEDBACK_COLUMNS, after=after, limit=limit)

    def newest_positions(self) -> NewestPositions:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        found = {str(name): _integer(seq) for name, seq in self._store.rows(_SELECT_NEWEST, ())}
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

    def trace(self, trace_id: str) -> Mapping[str, object] | None:
        """One trace by column name, as `traces` has it (decision and attempts are JSON text); None when unknown.

        Raises:
            SchemaTooNewError, StoreError: the store cannot be read.
        """
        rows = self._store.rows(_SELECT_TRACE, (trace_id,))
        return dict(zip(TRACE_COLUMNS, rows[0], strict=True)) if rows else None

    def newest_score(self, *, keep: int) -> int:
        """See ScoreReader. Raises SchemaTooNewError, StoreError."""
        rows = self._store.rows(_SELECT_NEWEST_SCORE, (keep,))
        return _sequence(rows[0]) if rows else 0

    def scores(self, *, after: int, limit: int) -> StoredRows:
        """Scores given as feedback, with whom they are about: `SCORE_COLUMNS`, in commit order of the feedback.

        Scores of traces that are gone, or that no combination answered, are passed over.

        Raises:
            SchemaTooNewError, StoreError: the store cannot be read.
        """
        return self._page(_SELECT_SCORES, SCORE_COLUMNS, after=after, limit=limit)

    def close(self) -> None:
        """See TraceReader."""
        self._store.close()

    def _page(self, query: str, columns: tuple[str, ...], *, after: int, limit: int) -> StoredRows:
        rows = self._store.rows(query, (after, limit))
        return StoredRows(columns, rows, _sequence(rows[-1]) if rows else after)


def _sequence(row: Row) -> int:
    return _integer(row[0])


def _integer(cell: object) -> int:
    assert isinstance(cell, int)
    return cell

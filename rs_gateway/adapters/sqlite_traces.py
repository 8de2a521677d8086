"""Traces in one SQLite file: one writer a process, with group commit; readers page by commit sequence.

Several processes may write to one file. SQLite lets one of them write at a time and a sequence number is drawn inside
that one's transaction, so the order of `seq` is the order of commits, and a reader that pages by it misses nothing.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from rs_gateway.adapters.sqlite_trace_schema import MIGRATIONS, migrate, schema_version
from rs_gateway.adapters.trace_rows import (
    ENCODING_ERRORS,
    FEEDBACK_COLUMNS,
    TRACE_COLUMNS,
    WRITTEN_FEEDBACK_COLUMNS,
    WRITTEN_PAYLOAD_COLUMNS,
    WRITTEN_TRACE_COLUMNS,
    Row,
    not_storable,
)
from rs_gateway.adapters.trace_writer import QueuedRecord, TraceWriter, WriterLimits
from rs_gateway.domain.errors import ConfigurationError, StoreError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.ports import StoredRows, StoreHealth
from rs_gateway.domain.traces import Trace


def _insert(table: str, columns: Sequence[str]) -> str:
    # A retry may follow a commit that succeeded but reported an error: a row that is there already is left alone.
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 our names


_INSERT_TRACE = _insert("traces", WRITTEN_TRACE_COLUMNS)
_INSERT_PAYLOAD = _insert("trace_payloads", WRITTEN_PAYLOAD_COLUMNS)
_INSERT_FEEDBACK = _insert("feedback", WRITTEN_FEEDBACK_COLUMNS)
_SELECT_TRACES = (
    f"SELECT {', '.join(TRACE_COLUMNS)} FROM traces LEFT JOIN trace_payloads USING (trace_id) "  # noqa: S608 our names
    "WHERE seq > ? ORDER BY seq LIMIT ?"
)
_SELECT_FEEDBACK = f"SELECT {', '.join(FEEDBACK_COLUMNS)} FROM feedback WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608

_WAL_BYTES_KEPT = 64 * 2**20
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)

# What one row can do wrong by itself: a value that SQLite has no type for, too, or a rule of the table.
_ROW_ERRORS = (
    *ENCODING_ERRORS,
    *(sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError),
)

Connect: TypeAlias = Callable[..., sqlite3.Connection]


def sqlite_path(url: str) -> Path:
    """The file that `sqlite:///relative/path` or `sqlite:////absolute/path` names. Raises ConfigurationError."""
    prefix = "sqlite:///"
    name = url.removeprefix(prefix)
    if not url.startswith(prefix) or not name.strip("/") or name.endswith("/") or name == ":memory:" or "?" in name:
        raise ConfigurationError(
            f"{url!r} names no SQLite file: write sqlite:///data/traces.db, "
            "or sqlite:////var/lib/traces.db (four slashes) for an absolute path."
        )
    return Path(name)


class SqliteTraceStore:
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
        connect: Connect = sqlite3.connect,
    ) -> None:
        """Open or create the store, and start its writer.

        Args:
            queue_bytes: bound on what is queued, estimated from the length of its texts.
            busy_timeout_s: how long one write waits for other processes before it counts as failed.
            close_timeout_s: how long `close` goes on trying when the disk fails.
        Raises:
            SchemaTooNewError, StoreError: the file cannot be used; the message says why and what to do.
        """
        self._writer = TraceWriter(
            _Database(path, busy_timeout_s=busy_timeout_s, connect=connect),
            name=f"traces {path.name}",
            limits=WriterLimits(
                queue_rows=queue_rows,
                queue_bytes=queue_bytes,
                flush_interval_s=flush_interval_s,
                max_batch=max_batch,
                write_timeout_s=busy_timeout_s,
                close_timeout_s=close_timeout_s,
            ),
        )

    def append(self, trace: Trace) -> None:
        """See TraceStore. The trace is encoded later, in the writer thread: do not change its messages afterwards."""
        self._writer.put(trace)

    async def committed(self, trace: Trace) -> bool:
        """See TraceStore. False after a failed write too, though the trace stays queued and may be stored later."""
        return await self._writer.commit(trace) is None

    async def add_feedback(self, feedback: Feedback) -> None:
        """See TraceStore. The same `feedback_id` twice is stored once."""
        verdict = await self._writer.commit(feedback)
        if verdict is not None:
            raise verdict

    def health(self) -> StoreHealth:
        """See TraceStore."""
        return self._writer.health()

    def close(self) -> None:
        """See TraceStore. With a failing disk it gives up after `close_timeout_s` and counts what is lost."""
        self._writer.close()


class SqliteTraceReader:
    """The pipelines' side of the store: read-only, one short transaction a page. A file that is not there is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def traces(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        return self._page(_SELECT_TRACES, TRACE_COLUMNS, after=after, limit=limit)

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        return self._page(_SELECT_FEEDBACK, FEEDBACK_COLUMNS, after=after, limit=limit)

    def close(self) -> None:
        """See TraceReader."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _page(self, query: str, columns: tuple[str, ...], *, after: int, limit: int) -> StoredRows:
        try:
            connection = self._connected()
            if connection is None:
                return StoredRows(columns, [], after)
            # Fetched whole: an open cursor would be an open transaction, and that keeps the WAL from shrinking.
            rows: list[Row] = connection.execute(query, (after, limit)).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(self._path, error) from error
        return StoredRows(columns, rows, _sequence(rows[-1]) if rows else after)

    def _connected(self) -> sqlite3.Connection | None:
        if self._connection is not None:
            return self._connection
        if not self._path.exists():
            return None
        # A reader may be handed from thread to thread, as Dagster does; SQLite itself serialises its calls.
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            version = schema_version(connection, self._path)
        except BaseException:
            connection.close()
            raise
        if version == 0:  # its writer is about to create the tables
            connection.close()
            return None
        if version < len(MIGRATIONS):
            connection.close()
            raise StoreError(
                f"The trace store {self._path} has schema {version} and this program reads {len(MIGRATIONS)}: "
                "start the gateway once, it migrates the file."
            )
        self._connection = connection
        return connection


class _Database:
    """The writer's connection: opens, migrates, writes a batch as one transaction, and opens again after a fault."""

    def __init__(self, path: Path, *, busy_timeout_s: float, connect: Connect) -> None:
        self._path, self._busy_timeout_s, self._connect = path, busy_timeout_s, connect
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None

    def open(self) -> None:
        """See TraceDatabase. Raises SchemaTooNewError too."""
        self._open()

    def write(self, batch: Sequence[QueuedRecord]) -> None:
        """See TraceDatabase."""
        try:
            self._write(batch)
        except (sqlite3.Error, OSError) as error:  # the writer says the rest
            raise StoreError(str(error)) from error

    def close(self) -> None:
        """See TraceDatabase."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(sqlite3.Error):  # another process still reads: then the last one to close does it
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(sqlite3.Error):
            connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connect(
                self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                self._use_wal(connection)
                migrate(connection, self._path)
                self._inode = self._path.stat().st_ino
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise _unreadable(self._path, error) from error
        self._connection = connection
        return connection

    def _write(self, batch: Sequence[QueuedRecord]) -> None:
        connection = self._connection
        if connection is None or self._moved():
            self.close()
            connection = self._open()
        # Whoever waits was promised the disk, not just the operating system.
        synchronous = "FULL" if any(item.awaited for item in batch) else "NORMAL"
        try:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("BEGIN IMMEDIATE")
            for item in batch:
                if item.rows is not None:
                    _write_item(connection, item)
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back(connection, error)
            raise

    def _roll_back(self, connection: sqlite3.Connection, error: BaseException) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()
        # After anything but a wait for others or for space, the next try starts from a fresh connection.
        if not isinstance(error, sqlite3.Error) or _primary_code(error) not in _PASSING:
            self.close()

    def _moved(self) -> bool:
        # SQLite goes on writing to a file that was deleted or replaced under it, and reports success.
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                # Another process converts the same new file: SQLite does not apply its busy timeout here.
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise StoreError(f"The trace store {self._path} cannot use a write-ahead log: put it on a local disk.")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")


def _write_item(connection: sqlite3.Connection, item: QueuedRecord) -> None:
    assert item.rows is not None
    row, payload = item.rows
    item.missed = False
    try:
        if isinstance(item.record, Trace):
            connection.execute(_INSERT_TRACE, row)
            if payload is not None:
                connection.execute(_INSERT_PAYLOAD, payload)
            return
        known = connection.execute("SELECT 1 FROM traces WHERE trace_id = ?", (item.record.trace_id,)).fetchone()
        if known is None:
            item.missed = True
        else:
            connection.execute(_INSERT_FEEDBACK, row)
    except _ROW_ERRORS as error:
        item.rows, item.verdict = None, not_storable(item.record, error)


def _sequence(row: Row) -> int:
    assert isinstance(row[0], int)
    return row[0]


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _unreadable(path: Path, error: Exception) -> StoreError:
    if isinstance(error, sqlite3.Error) and _primary_code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreError(
            f"The trace store {path} is damaged or no SQLite database ({error}): restore a backup, or move it and its "
            "-wal and -shm files aside, and the gateway starts a new one."
        )
    return StoreError(
        f"The trace store {path} cannot be opened ({error}): check that the path is a file in a directory that this "
        "user may write to, that the disk is not full, and that no other program holds the file locked."
    )

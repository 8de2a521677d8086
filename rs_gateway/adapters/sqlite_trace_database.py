"""The writer's side of a SQLite trace store: a batch of rows and the figures that count them, in one transaction."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import structlog

from rs_gateway.adapters.queued_record import QueuedRecord
from rs_gateway.adapters.sqlite_read_only import primary_code, unreadable
from rs_gateway.adapters.sqlite_stats import SqliteStatsWriter
from rs_gateway.adapters.sqlite_trace_schema import TRACE_SCHEMA
from rs_gateway.adapters.sqlite_upkeep import SqliteUpkeep
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.adapters.trace_rows import (
    ENCODING_ERRORS,
    WRITTEN_FEEDBACK_COLUMNS,
    WRITTEN_PAYLOAD_COLUMNS,
    WRITTEN_TRACE_COLUMNS,
    not_storable,
)
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.stats import Tally
from rs_gateway.domain.traces import Trace

log = structlog.get_logger()


def _insert(table: str, columns: Sequence[str]) -> str:
    # A retry may follow a commit that succeeded but reported an error: a row that is there already is left alone.
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 our names


_INSERT_TRACE = _insert("traces", WRITTEN_TRACE_COLUMNS)
_INSERT_PAYLOAD = _insert("trace_payloads", WRITTEN_PAYLOAD_COLUMNS)
_INSERT_FEEDBACK = _insert("feedback", WRITTEN_FEEDBACK_COLUMNS)

_WAL_BYTES_KEPT = 64 * 2**20
_CLOSED_PAUSE_S = 1.0
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)

# What one row can do wrong by itself: a value that SQLite has no type for, too, or a rule of the table.
_ROW_ERRORS = (
    *ENCODING_ERRORS,
    *(sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError),
)

Connect: TypeAlias = Callable[..., sqlite3.Connection]


class SqliteTraceDatabase:
    """The writer's connection: opens, migrates, writes a batch as one transaction, and opens again after a fault."""

    def __init__(
        self, path: Path, *, busy_timeout_s: float, connect: Connect, retention: Retention, upkeep: SqliteUpkeep
    ) -> None:
        self._path, self._busy_timeout_s, self._connect = path, busy_timeout_s, connect
        self._retention, self._upkeep = retention, upkeep
        self._stats = SqliteStatsWriter()
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

    def maintain(self) -> float:
        """See TraceDatabase."""
        connection = self._connection
        if connection is None:  # the next write opens it
            return _CLOSED_PAUSE_S
        self._stats.forget()  # some of it may be deleted
        try:
            return self._upkeep.step(connection, busy_timeout_s=self._busy_timeout_s)
        except sqlite3.Error as error:
            self._roll_back(connection, error)
            raise StoreError(str(error)) from error

    def close(self) -> None:
        """See TraceDatabase."""
        connection, self._connection = self._connection, None
        self._stats.forget()
        if connection is None:
            return
        with suppress(sqlite3.Error):  # another process still reads: then the last one to close does it
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(sqlite3.Error):
            connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)  # a new store is its owner's alone; one that is there keeps its mode
            connection = self._connect(
                self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                self._use_wal(connection)
                TRACE_SCHEMA.migrate(connection, self._path)
                self._inode = self._path.stat().st_ino
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise unreadable(self._path, error) from error
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
            tally = Tally()
            for item in batch:
                if item.rows is not None:
                    _write_item(connection, item, tally)
            self._count(connection, tally)
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back(connection, error)
            raise

    def _count(self, connection: sqlite3.Connection, tally: Tally) -> None:
        try:
            self._stats.add(connection, tally)
        except _ROW_ERRORS as error:
            # Traces are worth more than the figures about them.
            log.error("figures_not_storable", error=str(error))

    def _roll_back(self, connection: sqlite3.Connection, error: BaseException) -> None:
        self._stats.forget()
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()
        # After anything but a wait for others or for space, the next try starts from a fresh connection.
        if not isinstance(error, sqlite3.Error) or primary_code(error) not in _PASSING:
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
                if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise StoreError(f"The trace store {self._path} cannot use a write-ahead log: put it on a local disk.")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
        # What has expired is overwritten, not just unlinked; a page that grows into two keeps no copies of its rows.
        connection.execute(f"PRAGMA secure_delete = {'ON' if self._retention.forgets else 'FAST'}")


def _write_item(connection: sqlite3.Connection, item: QueuedRecord, tally: Tally) -> None:
    assert item.rows is not None
    row, payload = item.rows
    item.missed = False
    try:
        if isinstance(item.record, Trace):
            if row is not None and connection.execute(_INSERT_TRACE, row).rowcount != 1:
                return  # a retry after a commit that succeeded but reported an error: it was counted then
            if payload is not None:
                connection.execute(_INSERT_PAYLOAD, payload)
            tally.add(item.record)
            return
        known = connection.execute("SELECT 1 FROM traces WHERE trace_id = ?", (item.record.trace_id,)).fetchone()
        if known is None:
            item.missed = True
        elif row is not None:
            connection.execute(_INSERT_FEEDBACK, row)
    except _ROW_ERRORS as error:
        item.rows, item.verdict = None, not_storable(item.record, error)

"""Taking traces out of a SQLite trace store for good, while a gateway writes to it."""

import sqlite3
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from rs_gateway.adapters.sqlite_read_only import open_read_only, unreadable
from rs_gateway.adapters.sqlite_trace_schema import MIGRATIONS, TRACE_SCHEMA
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.ports import Erased, StoredInput

_ROWS_A_COMMIT = 200
_BUSY_TIMEOUT_S = 10.0
_CHECKPOINT_TIMEOUT_S = 30.0
_INPUTS_OF_USER = """SELECT trace_id, template_id, variables, request_messages
    FROM traces LEFT JOIN trace_payloads USING (trace_id) WHERE end_user = ?"""
_INPUTS_OF_NAMED = """SELECT trace_id, template_id, variables, request_messages
    FROM traces LEFT JOIN trace_payloads USING (trace_id) WHERE trace_id IN (SELECT trace_id FROM temp.named)"""
_TABLES = ("trace_payloads", "traces")


class SqliteEraser:
    """See TraceEraser. What it deletes is overwritten, in the file and in its write-ahead log."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of_user(self, end_user: str) -> Sequence[StoredInput]:
        """See TraceEraser."""
        with self._read() as connection:
            rows = [] if connection is None else connection.execute(_INPUTS_OF_USER, (end_user,))
            return [StoredInput(*row) for row in rows]

    def of_ids(self, trace_ids: Collection[str]) -> Sequence[StoredInput]:
        """See TraceEraser."""
        with self._read() as connection:
            if connection is None:
                return []
            _name(connection, trace_ids)
            rows = connection.execute(_INPUTS_OF_NAMED)
            return [StoredInput(*row) for row in rows]

    def n_feedback(self, trace_ids: Collection[str]) -> int:
        """See TraceEraser."""
        with self._read() as connection:
            if connection is None:
                return 0
            _name(connection, trace_ids)
            return len(_feedback(connection))

    def erase(self, trace_ids: Collection[str]) -> Erased:
        """See TraceEraser."""
        with self._opened() as connection:
            if connection is None:
                return Erased(0, 0)
            _name(connection, trace_ids)
            deleted = dict.fromkeys((*_TABLES, "feedback"), 0)
            for some in _chunks(sorted(trace_ids)):
                with _transaction(connection):
                    for table in _TABLES:
                        deleted[table] += _delete(connection, table, "trace_id", some)
            # Last: feedback on a trace that is gone is refused, so no more comes.
            for some in _chunks(_feedback(connection)):
                with _transaction(connection):
                    deleted["feedback"] += _delete(connection, "feedback", "seq", some)
            self._empty_log(connection)
            return Erased(deleted["traces"], deleted["feedback"])

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """The log still has the pages as they were before."""
        deadline = time.monotonic() + _CHECKPOINT_TIMEOUT_S
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"The rows are deleted from {self._path}, but a reader keeps its write-ahead log from being "
                    "emptied: end the program that has been reading it, and restart the gateway."
                )
            time.sleep(0.05)

    @contextmanager
    def _read(self) -> Generator[sqlite3.Connection | None]:
        """For looking only, so that it works where nothing may be written. A file of an older program is migrated."""
        if not self._path.exists():
            yield None
            return
        try:
            connection, _ = open_read_only(self._path, timeout_s=_BUSY_TIMEOUT_S)
            with closing(connection):
                connection.execute("PRAGMA temp_store = MEMORY")
                if TRACE_SCHEMA.version(connection, self._path) == len(MIGRATIONS):
                    yield connection
                    return
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error
        with self._opened() as connection:
            yield connection

    @contextmanager
    def _opened(self) -> Generator[sqlite3.Connection | None]:
        if not self._path.exists():
            yield None
            return
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as connection:
                TRACE_SCHEMA.migrate(connection, self._path)
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("PRAGMA temp_store = MEMORY")
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error


def _name(connection: sqlite3.Connection, trace_ids: Collection[str]) -> None:
    connection.execute("CREATE TEMP TABLE named (trace_id TEXT PRIMARY KEY)")
    connection.executemany("INSERT OR IGNORE INTO temp.named VALUES (?)", [(trace_id,) for trace_id in trace_ids])


def _feedback(connection: sqlite3.Connection) -> list[int]:
    rows = connection.execute("SELECT seq FROM feedback WHERE trace_id IN (SELECT trace_id FROM temp.named)")
    return [seq for (seq,) in rows]


def _delete(connection: sqlite3.Connection, table: str, column: str, values: Sequence[str | int]) -> int:
    marks = ", ".join("?" * len(values))
    return connection.execute(f"DELETE FROM {table} WHERE {column} IN ({marks})", values).rowcount  # noqa: S608 our names


def _chunks(values: Sequence[str] | Sequence[int]) -> Generator[Sequence[str] | Sequence[int]]:
    for start in range(0, len(values), _ROWS_A_COMMIT):
        yield values[start : start + _ROWS_A_COMMIT]


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")

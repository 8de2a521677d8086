"""Client keys and their accounts in one SQLite file, shared by all workers and the command line."""

import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rs_gateway.adapters.access_rows import KEY_COLUMNS, key_of, record_of, row_of
from rs_gateway.adapters.sqlite_access_schema import ACCESS_SCHEMA, SELECT_KEY, SELECT_RECORDS
from rs_gateway.domain.access import BUDGET_PERIODS, ClientKey, KeyNotFoundError, period_name
from rs_gateway.domain.access_store import IN_FLIGHT_LEASE_S, AccessPicture, KeyRecord, UsageBatch
from rs_gateway.domain.errors import InvalidRequestError, StoreError

_INSERT_KEY = (
    f"INSERT INTO keys ({', '.join(KEY_COLUMNS)}, secret_hash, revision) "  # noqa: S608 our names
    f"VALUES ({', '.join('?' * len(KEY_COLUMNS))}, ?, ?)"
)
_UPDATE_KEY = f"UPDATE keys SET {', '.join(f'{name} = ?' for name in KEY_COLUMNS)}, revision = ? WHERE key_id = ?"  # noqa: S608
_ADD_USAGE = """INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    tokens = tokens + excluded.tokens,
    cost_usd = cost_usd + excluded.cost_usd,
    unpriced_requests = unpriced_requests + excluded.unpriced_requests"""
_ADD_DEBT = """UPDATE keys SET revision = :revision,
    requests_full_at = CASE WHEN :requests > 0 THEN max(requests_full_at, :at) + :requests ELSE requests_full_at END,
    tokens_full_at = CASE WHEN :tokens > 0 THEN max(tokens_full_at, :at) + :tokens ELSE tokens_full_at END
    WHERE key_id = :key_id"""
_SEEN = "INSERT INTO workers VALUES (?, 0, ?) ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at"
_SELECT_ELSEWHERE = """SELECT key_id, sum(requests) FROM in_flight JOIN workers USING (worker_id)
    WHERE worker_id <> ? AND abs(? - seen_at) < ? GROUP BY key_id"""

_WORKER_KEPT_S = 86_400.0
"""Longer than anybody tries to store one batch again."""


class SqliteAccessStore:
    """See AccessStore. A write survives a killed process; a loss of power may take the last moments of usage.

    A file that vanishes is an error and not an empty store, for an empty store lets everybody in. One that was
    replaced, as by a restored backup, is read anew.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 2.0) -> None:
        """Open or create the store.

        Args:
            busy_timeout_s: how long one call waits for other processes before it counts as failed.
        Raises:
            SchemaTooNewError, StoreError: the file cannot be used; the message says why and what to do.
        """
        self._path, self._busy_timeout_s = path, busy_timeout_s
        self._lock = threading.Lock()
        self._generation = 0
        self._inode = 0
        self._connection: sqlite3.Connection | None = None
        with self._lock, self._translated():
            self._connection = self._open()

    def create(self, key: ClientKey, *, secret_hash: bytes) -> None:
        """See AccessStore."""
        with self._writing("FULL") as connection:
            try:
                connection.execute(_INSERT_KEY, (*row_of(key), secret_hash, _next_revision(connection)))
            except sqlite3.IntegrityError as error:
                raise InvalidRequestError(f"There is a client key {key.key_id!r} already.", param="key_id") from error

    def update(self, key_id: str, change: Callable[[ClientKey], ClientKey]) -> ClientKey:
        """See AccessStore."""
        with self._writing("FULL") as connection:
            row = connection.execute(SELECT_KEY, (key_id,)).fetchone()
            if row is None:
                raise KeyNotFoundError(key_id)
            key = key_of(row)
            changed = change(key)
            connection.execute(_UPDATE_KEY, (*row_of(changed), _next_revision(connection), key_id))
            if changed.limits.requests_per_minute != key.limits.requests_per_minute:
                connection.execute("UPDATE keys SET requests_full_at = 0 WHERE key_id = ?", (key_id,))
            if changed.limits.tokens_per_minute != key.limits.tokens_per_minute:
                connection.execute("UPDATE keys SET tokens_full_at = 0 WHERE key_id = ?", (key_id,))
            return changed

    def records(self, *, now_s: float) -> Sequence[KeyRecord]:
        """See AccessStore."""
        with self._connected() as connection:
            return _records(connection, after=-1, now_s=now_s)

    def exchange(
        self,
        worker_id: str,
        *,
        batch: UsageBatch | None,
        in_flight: Mapping[str, int] | None,
        now_s: float,
        since: tuple[int, int] | None,
    ) -> AccessPicture:
        """See AccessStore."""
        if batch is not None or in_flight is not None:
            with self._writing("NORMAL") as connection:
                _store_worker(connection, worker_id, now_s)
                if batch is not None:
                    _store_batch(connection, worker_id, batch)
                if in_flight is not None:
                    _store_in_flight(connection, worker_id, in_flight)
        with self._connected() as connection:
            connection.execute("BEGIN")  # one moment for all three reads
            try:
                (revision,) = connection.execute("SELECT revision FROM changes").fetchone()
                whole = since is None or since[0] != self._generation or since[1] > revision
                known = -1 if whole or since is None else since[1]
                records = _records(connection, after=known, now_s=now_s) if known < revision else []
                elsewhere = connection.execute(_SELECT_ELSEWHERE, (worker_id, now_s, IN_FLIGHT_LEASE_S)).fetchall()
            finally:
                connection.execute("COMMIT")
            return AccessPicture(records, whole, dict(elsewhere), (self._generation, revision))

    def close(self) -> None:
        """See AccessStore."""
        with self._lock:
            self._drop()

    @contextmanager
    def _writing(self, synchronous: str) -> Generator[sqlite3.Connection]:
        """One transaction: committed at the end of the block, undone when it raises."""
        with self._connected() as connection:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        with self._lock, self._translated():
            connection = self._connection
            if connection is not None and self._current_inode() != self._inode:
                self._drop()
                connection = None
            if connection is None:
                connection = self._connection = self._open()
            yield connection

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise StoreError(_advice(self._path, error)) from error
        except (ValueError, TypeError) as error:
            raise StoreError(f"The access store {self._path} holds what no program wrote there: {error}.") from error

    def _current_inode(self) -> int:
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            raise StoreError(
                f"The access store {self._path} is gone: restore a backup, or restart the gateway to start a new one."
            ) from None

    def _open(self) -> sqlite3.Connection:
        if self._generation:
            self._current_inode()  # it was there once: a missing file is not made anew
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)  # a new store is its owner's alone; one that is there keeps its mode
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._use_wal(connection)
            ACCESS_SCHEMA.migrate(connection, self._path)
            self._inode = self._path.stat().st_ino
        except BaseException:
            connection.close()
            raise
        self._generation += 1
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError:
                # Another process converts the same new file: SQLite does not apply its busy timeout here.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise StoreError(f"The access store {self._path} cannot use a write-ahead log: put it on a local disk.")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _records(connection: sqlite3.Connection, *, after: int, now_s: float) -> list[KeyRecord]:
    periods = [period_name(period, now_s) for period in BUDGET_PERIODS]
    return [record_of(row) for row in connection.execute(SELECT_RECORDS, (*periods, after))]


def _next_revision(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE changes SET revision = revision + 1")
    (revision,) = connection.execute("SELECT revision FROM changes").fetchone()
    return revision


def _store_worker(connection: sqlite3.Connection, worker_id: str, now_s: float) -> None:
    connection.execute(_SEEN, (worker_id, now_s))
    connection.execute("DELETE FROM workers WHERE abs(? - seen_at) > ?", (now_s, _WORKER_KEPT_S))
    connection.execute("DELETE FROM in_flight WHERE worker_id NOT IN (SELECT worker_id FROM workers)")


def _store_batch(connection: sqlite3.Connection, worker_id: str, batch: UsageBatch) -> None:
    (last,) = connection.execute("SELECT batch FROM workers WHERE worker_id = ?", (worker_id,)).fetchone()
    if batch.number <= last:
        return
    connection.execute("UPDATE workers SET batch = ? WHERE worker_id = ?", (batch.number, worker_id))
    revision = _next_revision(connection)
    periods = [period_name(period, batch.at_s) for period in BUDGET_PERIODS]
    amounts = [
        (key_id, (delta.usage.requests, delta.usage.tokens, delta.usage.cost_usd, delta.usage.unpriced_requests))
        for key_id, delta in batch.deltas.items()
    ]
    connection.executemany(_ADD_USAGE, [(key_id, period, *used) for key_id, used in amounts for period in periods])
    debts = [
        {"key_id": key_id, "requests": delta.requests_debt_s, "tokens": delta.tokens_debt_s}
        for key_id, delta in batch.deltas.items()
    ]
    connection.executemany(_ADD_DEBT, [{**debt, "at": batch.at_s, "revision": revision} for debt in debts])


def _store_in_flight(connection: sqlite3.Connection, worker_id: str, in_flight: Mapping[str, int]) -> None:
    connection.execute("DELETE FROM in_flight WHERE worker_id = ?", (worker_id,))
    rows = [(worker_id, key_id, requests) for key_id, requests in in_flight.items() if requests > 0]
    connection.executemany("INSERT INTO in_flight VALUES (?, ?, ?)", rows)


def _advice(path: Path, error: Exception) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return (
            f"The access store {path} is damaged or no SQLite database ({error}): restore a backup. Without one, move "
            "it and its -wal and -shm files aside and make new keys: the old ones cannot be read back."
        )
    return (
        f"The access store {path} cannot be used ({error}): check that the path is a file in a directory that this "
        "user may write to, that the disk is not full, and that no other program holds the file locked."
    )

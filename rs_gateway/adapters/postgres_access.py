"""Client keys and their accounts in Postgres, shared by gateways on several hosts."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import psycopg
from psycopg import errors

from rs_gateway.adapters.access_rows import KEY_COLUMNS, RECORD_COLUMNS, key_of, record_of, row_of
from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_schema import PostgresSchema
from rs_gateway.domain.access import BUDGET_PERIODS, ClientKey, KeyNotFoundError, period_name
from rs_gateway.domain.access_store import IN_FLIGHT_LEASE_S, AccessPicture, KeyRecord, UsageBatch
from rs_gateway.domain.errors import InvalidRequestError, StoreError

MIGRATIONS = (
    (
        # Keys are never deleted: a store that has had one stays closed, and traces go on naming them.
        """CREATE TABLE route_switch.keys (
            seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            key_id TEXT NOT NULL UNIQUE,
            secret_hash BYTEA NOT NULL UNIQUE,
            name TEXT NOT NULL,
            created_at DOUBLE PRECISION NOT NULL,
            created_by TEXT NOT NULL,
            templates TEXT,
            models TEXT,
            admin SMALLINT NOT NULL,
            requests_per_minute BIGINT,
            tokens_per_minute BIGINT,
            concurrency BIGINT,
            budget_usd DOUBLE PRECISION,
            budget_period TEXT NOT NULL,
            allow_unpriced SMALLINT NOT NULL,
            store TEXT,
            expires_at DOUBLE PRECISION,
            revoked_at DOUBLE PRECISION,
            requests_full_at DOUBLE PRECISION NOT NULL DEFAULT 0,
            tokens_full_at DOUBLE PRECISION NOT NULL DEFAULT 0,
            revision BIGINT NOT NULL
        )""",
        "CREATE INDEX keys_by_revision ON route_switch.keys (revision)",
        """CREATE TABLE route_switch.usage (
            key_id TEXT NOT NULL,
            period TEXT NOT NULL,
            requests BIGINT NOT NULL,
            tokens BIGINT NOT NULL,
            cost_usd DOUBLE PRECISION NOT NULL,
            unpriced_requests BIGINT NOT NULL,
            PRIMARY KEY (key_id, period)
        )""",
        """CREATE TABLE route_switch.workers (
            worker_id TEXT PRIMARY KEY,
            batch BIGINT NOT NULL,
            seen_at DOUBLE PRECISION NOT NULL
        )""",
        """CREATE TABLE route_switch.in_flight (
            worker_id TEXT NOT NULL,
            key_id TEXT NOT NULL,
            requests BIGINT NOT NULL,
            PRIMARY KEY (worker_id, key_id)
        )""",
        # One row: counts every change of a key or its usage, so that workers read only what is new to them. Whoever
        # counts holds the row until the commit, so the order of revisions is the order of commits.
        "CREATE TABLE route_switch.access_changes (revision BIGINT NOT NULL)",
        "INSERT INTO route_switch.access_changes VALUES (0)",
    ),
)
"""Forward only: entry n takes a store from schema n to n + 1. Never edit one that was released; append."""

ACCESS_SCHEMA = PostgresSchema("access store", "stores.access", MIGRATIONS)

_JOINS = " ".join(
    f"LEFT JOIN route_switch.usage AS usage_{period} "
    f"ON usage_{period}.key_id = keys.key_id AND usage_{period}.period = %s"
    for period in BUDGET_PERIODS
)
_SELECT_RECORDS = (
    f"SELECT {', '.join(RECORD_COLUMNS)} FROM route_switch.keys {_JOINS} "  # noqa: S608 our names
    "WHERE keys.revision > %s ORDER BY keys.seq"
).encode()
_SELECT_KEY = f"SELECT {', '.join(KEY_COLUMNS)} FROM route_switch.keys WHERE key_id = %s FOR UPDATE".encode()  # noqa: S608
_INSERT_KEY = (
    f"INSERT INTO route_switch.keys ({', '.join(KEY_COLUMNS)}, secret_hash, revision) "  # noqa: S608 our names
    f"VALUES ({', '.join(['%s'] * (len(KEY_COLUMNS) + 2))})"
).encode()
_UPDATE_KEY = (
    f"UPDATE route_switch.keys SET {', '.join(f'{name} = %s' for name in KEY_COLUMNS)}, revision = %s "  # noqa: S608
    "WHERE key_id = %s"
).encode()
_FILL_REQUESTS = b"UPDATE route_switch.keys SET requests_full_at = 0 WHERE key_id = %s"
_FILL_TOKENS = b"UPDATE route_switch.keys SET tokens_full_at = 0 WHERE key_id = %s"
_NEXT_REVISION = b"UPDATE route_switch.access_changes SET revision = revision + 1 RETURNING revision"
_SELECT_REVISION = b"SELECT revision FROM route_switch.access_changes"
_ADD_USAGE = b"""INSERT INTO route_switch.usage AS known VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (key_id, period) DO UPDATE SET
    requests = known.requests + excluded.requests,
    tokens = known.tokens + excluded.tokens,
    cost_usd = known.cost_usd + excluded.cost_usd,
    unpriced_requests = known.unpriced_requests + excluded.unpriced_requests"""
_ADD_DEBT = b"""UPDATE route_switch.keys SET revision = %(revision)s,
    requests_full_at = CASE WHEN %(requests)s::double precision > 0
        THEN greatest(requests_full_at, %(at)s) + %(requests)s ELSE requests_full_at END,
    tokens_full_at = CASE WHEN %(tokens)s::double precision > 0
        THEN greatest(tokens_full_at, %(at)s) + %(tokens)s ELSE tokens_full_at END
    WHERE key_id = %(key_id)s"""
_SEEN = b"""INSERT INTO route_switch.workers VALUES (%s, 0, %s)
    ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at RETURNING batch"""
_FORGET_WORKERS = b"DELETE FROM route_switch.workers WHERE abs(%s - seen_at) > %s"
_FORGET_IN_FLIGHT = (
    b"DELETE FROM route_switch.in_flight WHERE worker_id NOT IN (SELECT worker_id FROM route_switch.workers)"
)
_COUNT_BATCH = b"UPDATE route_switch.workers SET batch = %s WHERE worker_id = %s"
_CLEAR_IN_FLIGHT = b"DELETE FROM route_switch.in_flight WHERE worker_id = %s"
_ADD_IN_FLIGHT = b"INSERT INTO route_switch.in_flight VALUES (%s, %s, %s)"
_SELECT_ELSEWHERE = b"""SELECT key_id, sum(requests)::bigint FROM route_switch.in_flight
    JOIN route_switch.workers USING (worker_id)
    WHERE worker_id <> %s AND abs(%s - seen_at) < %s GROUP BY key_id"""

_Read = TypeVar("_Read")

_WORKER_KEPT_S = 86_400.0
"""Longer than anybody tries to store one batch again."""


def has_access_store(place: PostgresPlace) -> bool:
    """Whether there are tables. Raises SchemaTooNewError, StoreError, ConfigurationError: it cannot be told."""
    database = PostgresDatabase(place, ACCESS_SCHEMA)
    try:
        with database.reading() as connection:
            return connection is not None
    finally:
        database.close()


class PostgresAccessStore:
    """See AccessStore. The clocks of the hosts that share it have to agree, as those of NTP do.

    Tables that vanish are an error and not an empty store, for an empty store lets everybody in. After every break of
    the connection everything is read anew: another server, or a restored backup, may be behind the same name.
    """

    def __init__(self, place: PostgresPlace, *, busy_timeout_s: float = 2.0) -> None:
        """Connect, and create or migrate the tables.

        Args:
            busy_timeout_s: how long one call waits for other sessions before it counts as failed.
        Raises:
            SchemaTooNewError, StoreError, ConfigurationError: the message says why and what to do.
        """
        self._database = PostgresDatabase(place, ACCESS_SCHEMA, busy_timeout_s=busy_timeout_s, when_gone="refuse")
        self._database.open()

    def create(self, key: ClientKey, *, secret_hash: bytes) -> None:
        """See AccessStore."""
        with self._database.writing() as connection:
            try:
                connection.execute(_INSERT_KEY, (*row_of(key), secret_hash, _next_revision(connection)))
            except errors.UniqueViolation as error:
                raise InvalidRequestError(f"There is a client key {key.key_id!r} already.", param="key_id") from error

    def update(self, key_id: str, change: Callable[[ClientKey], ClientKey]) -> ClientKey:
        """See AccessStore."""
        with self._database.writing() as connection:
            revision = _next_revision(connection)  # first, as in `exchange`: whoever locks keys has locked this
            row = connection.execute(_SELECT_KEY, (key_id,)).fetchone() if "\0" not in key_id else None
            if row is None:
                raise KeyNotFoundError(key_id)
            key = self._checked(lambda: key_of(row))
            changed = change(key)
            connection.execute(_UPDATE_KEY, (*row_of(changed), revision, key_id))
            if changed.limits.requests_per_minute != key.limits.requests_per_minute:
                connection.execute(_FILL_REQUESTS, (key_id,))
            if changed.limits.tokens_per_minute != key.limits.tokens_per_minute:
                connection.execute(_FILL_TOKENS, (key_id,))
            return changed

    def records(self, *, now_s: float) -> Sequence[KeyRecord]:
        """See AccessStore."""
        with self._database.reading() as connection:
            assert connection is not None  # tables that are gone are an error here
            return self._records(connection, after=-1, now_s=now_s)

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
            with self._database.writing() as connection:
                last = _store_worker(connection, worker_id, now_s)
                if batch is not None and batch.number > last:
                    _store_batch(connection, worker_id, batch)
                if in_flight is not None:
                    _store_in_flight(connection, worker_id, in_flight)
        with self._database.reading() as connection:
            assert connection is not None
            (revision,) = connection.execute(_SELECT_REVISION).fetchone() or (0,)
            generation = self._database.generation
            whole = since is None or since[0] != generation or since[1] > revision
            known = -1 if whole or since is None else since[1]
            records = self._records(connection, after=known, now_s=now_s) if known < revision else []
            elsewhere = connection.execute(_SELECT_ELSEWHERE, (worker_id, now_s, IN_FLIGHT_LEASE_S)).fetchall()
            return AccessPicture(records, whole, dict(elsewhere), (generation, revision))

    def close(self) -> None:
        """See AccessStore."""
        self._database.close()

    def _records(self, connection: psycopg.Connection, *, after: int, now_s: float) -> list[KeyRecord]:
        periods = [period_name(period, now_s) for period in BUDGET_PERIODS]
        rows = connection.execute(_SELECT_RECORDS, (*periods, after)).fetchall()
        return self._checked(lambda: [record_of(row) for row in rows])

    def _checked(self, read: Callable[[], _Read]) -> _Read:
        try:
            return read()
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"The access store {self._database.url} holds what no program wrote there: {error}."
            ) from error


def _next_revision(connection: psycopg.Connection) -> int:
    row = connection.execute(_NEXT_REVISION).fetchone()
    assert row is not None
    return row[0]


def _store_worker(connection: psycopg.Connection, worker_id: str, now_s: float) -> int:
    """Note that the worker is alive, and forget those that are long gone; the number of its last batch."""
    row = connection.execute(_SEEN, (worker_id, now_s)).fetchone()
    assert row is not None
    connection.execute(_FORGET_WORKERS, (now_s, _WORKER_KEPT_S))
    connection.execute(_FORGET_IN_FLIGHT)
    return row[0]


def _store_batch(connection: psycopg.Connection, worker_id: str, batch: UsageBatch) -> None:
    connection.execute(_COUNT_BATCH, (batch.number, worker_id))
    revision = _next_revision(connection)
    periods = [period_name(period, batch.at_s) for period in BUDGET_PERIODS]
    amounts = [
        (key_id, (delta.usage.requests, delta.usage.tokens, delta.usage.cost_usd, delta.usage.unpriced_requests))
        for key_id, delta in batch.deltas.items()
    ]
    debts = [
        {"key_id": key_id, "requests": delta.requests_debt_s, "tokens": delta.tokens_debt_s}
        for key_id, delta in batch.deltas.items()
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_ADD_USAGE, [(key_id, period, *used) for key_id, used in amounts for period in periods])
        cursor.executemany(_ADD_DEBT, [{**debt, "at": batch.at_s, "revision": revision} for debt in debts])


def _store_in_flight(connection: psycopg.Connection, worker_id: str, in_flight: Mapping[str, int]) -> None:
    connection.execute(_CLEAR_IN_FLIGHT, (worker_id,))
    rows = [(worker_id, key_id, requests) for key_id, requests in in_flight.items() if requests > 0]
    with connection.cursor() as cursor:
        cursor.executemany(_ADD_IN_FLIGHT, rows)

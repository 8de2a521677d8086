"""The access store in Postgres: what can happen to it."""

import signal
import subprocess
import sys
from collections.abc import Generator

import psycopg
import pytest

from rs_gateway.adapters.postgres_access import PostgresAccessStore, has_access_store
from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.domain.access import ClientKey, KeyNotFoundError
from rs_gateway.domain.access_store import AccessPicture, AccessStore
from rs_gateway.domain.errors import StoreError
from tests.access_fakes import NOON
from tests.postgres import Cluster

KEY = ClientKey("k1", "shop", NOON, "ann")


@pytest.fixture
def store(database: str) -> Generator[PostgresAccessStore]:
    opened = PostgresAccessStore(PostgresPlace(database), busy_timeout_s=1.0)
    yield opened
    opened.close()


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def news(store: AccessStore, picture: AccessPicture) -> AccessPicture:
    return store.exchange("w", batch=None, in_flight=None, now_s=NOON, since=picture.mark)


def test_looking_whether_there_is_a_store_makes_none(database: str) -> None:
    place = PostgresPlace(database)
    assert not has_access_store(place)
    assert not has_access_store(place)
    PostgresAccessStore(place).close()
    assert has_access_store(place)


def test_tables_that_vanished_are_an_error_and_let_nobody_in(
    store: PostgresAccessStore, postgres: Cluster, database: str
) -> None:
    store.create(KEY, secret_hash=b"1" * 32)
    execute(database, "DROP SCHEMA route_switch CASCADE")
    for _ in range(2):
        with pytest.raises(StoreError):
            store.records(now_s=NOON)
    with postgres.stopped():
        pass
    for attempt in (lambda: store.records(now_s=NOON), lambda: store.create(KEY, secret_hash=b"1" * 32)):
        with pytest.raises(StoreError, match="is gone: restore a backup, or restart the gateway"):
            attempt()
    assert not has_access_store(PostgresPlace(database))


def test_after_a_break_everything_is_read_anew(store: PostgresAccessStore, postgres: Cluster) -> None:
    store.create(KEY, secret_hash=b"1" * 32)
    first = store.exchange("w", batch=None, in_flight=None, now_s=NOON, since=None)
    assert not news(store, first).whole
    with postgres.stopped("immediate"), pytest.raises(StoreError, match="cannot be reached"):
        news(store, first)
    again = news(store, first)
    assert again.whole
    assert [record.key for record in again.records] == [KEY]


def test_a_row_that_a_person_spoilt_is_an_error_and_no_crash(store: PostgresAccessStore, database: str) -> None:
    store.create(KEY, secret_hash=b"1" * 32)
    execute(database, "UPDATE route_switch.keys SET budget_period = 'week'")
    with pytest.raises(StoreError, match="'week'"):
        store.records(now_s=NOON)
    with pytest.raises(StoreError, match="'week'"):
        store.update("k1", lambda key: key)
    execute(database, "UPDATE route_switch.keys SET budget_period = 'day', templates = '[1, {]'")
    with pytest.raises(StoreError, match="holds what no program wrote"):
        store.records(now_s=NOON)


def test_a_store_that_somebody_holds_is_an_error_and_works_again_afterwards(
    store: PostgresAccessStore, database: str
) -> None:
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE route_switch.keys")
        with pytest.raises(StoreError, match="held by another session"):
            store.create(KEY, secret_hash=b"1" * 32)
    store.create(KEY, secret_hash=b"1" * 32)
    assert [record.key for record in store.records(now_s=NOON)] == [KEY]


def test_names_that_no_text_of_postgres_holds_are_refused_and_unknown(store: PostgresAccessStore) -> None:
    with pytest.raises(StoreError, match="NUL"):
        store.create(ClientKey("k2", "a\0b", NOON, "ann"), secret_hash=b"2" * 32)
    with pytest.raises(KeyNotFoundError):
        store.update("k\0", lambda key: key)
    assert store.records(now_s=NOON) == []


def test_a_worker_that_is_killed_leaves_whole_batches(store: PostgresAccessStore, database: str) -> None:
    store.create(KEY, secret_hash=b"1" * 32)
    program = (
        "import itertools, sys\n"
        "from rs_gateway.adapters.postgres_access import PostgresAccessStore\n"
        "from rs_gateway.adapters.postgres_database import PostgresPlace\n"
        "from rs_gateway.domain.access_store import KeyUsage, UsageBatch, UsageDelta\n"
        f"store, at_s = PostgresAccessStore(PostgresPlace(sys.argv[1])), {NOON}\n"
        "for n in itertools.count(1):\n"
        "    batch = UsageBatch(n, at_s, {'k1': UsageDelta(KeyUsage(1, 1, 0.5, 1), 2.0, 0.0)})\n"
        "    store.exchange('w', batch=batch, in_flight={'k1': 1}, now_s=at_s, since=None)\n"
        "    print(n, flush=True)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, database], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    lines = [worker.stdout.readline() for _ in range(30)]
    worker.send_signal(signal.SIGKILL)
    lines += worker.stdout.readlines()
    worker.stdout.close()
    worker.wait()
    told = max(int(line) for line in lines if line.endswith("\n"))
    (record,) = store.records(now_s=NOON)
    total = record.usage["total"]
    assert told <= total.requests <= told + 1
    assert (total.tokens, total.cost_usd, total.unpriced_requests) == (
        *(total.requests, 0.5 * total.requests, total.requests),
    )
    assert record.requests_full_at_s == NOON + 2.0 * total.requests

"""What every access store promises, whatever it writes to."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rs_gateway.adapters.postgres_access import PostgresAccessStore
from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.domain.access import ClientKey, KeyLimits, KeyNotFoundError
from rs_gateway.domain.access_store import (
    IN_FLIGHT_LEASE_S,
    AccessPicture,
    AccessStore,
    KeyRecord,
    KeyUsage,
    UsageBatch,
    UsageDelta,
)
from rs_gateway.domain.errors import InvalidRequestError
from rs_gateway.domain.traces import StoreMode
from tests.access_fakes import NOON, MemoryAccessStore

FULL = ClientKey(
    key_id="k1",
    name="Böse'; DROP TABLE keys; --",
    created_at=NOON,
    created_by="ann",
    templates=frozenset({"support", "orders"}),
    models=frozenset(),
    admin=True,
    limits=KeyLimits(60, 1000, 4, 2.5, "month", allow_unpriced=True),
    store=StoreMode.METRICS,
    expires_at=NOON + 100,
    revoked_at=NOON + 50,
)
BARE = ClientKey("k2", "bare", NOON, "ann")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AccessStore]:
    opened: AccessStore
    if request.param == "memory":
        opened = MemoryAccessStore()
    elif request.param == "postgres":
        opened = PostgresAccessStore(PostgresPlace(request.getfixturevalue("database")))
    else:
        opened = SqliteAccessStore(tmp_path / "data/access.db")
    yield opened
    opened.close()


def used(requests: int = 1, tokens: int = 0, cost_usd: float = 0.0, unpriced: int = 0) -> KeyUsage:
    return KeyUsage(requests, tokens, cost_usd, unpriced)


def report(
    store: AccessStore,
    worker_id: str,
    number: int | None = None,
    *,
    key_id: str = "k2",
    usage: KeyUsage | None = None,
    requests_debt_s: float = 0.0,
    at_s: float = NOON,
    now_s: float = NOON,
    in_flight: dict[str, int] | None = None,
    since: tuple[int, int] | None = None,
) -> AccessPicture:
    delta = UsageDelta(usage or used(), requests_debt_s, 0.0)
    batch = None if number is None else UsageBatch(number, at_s, {key_id: delta})
    return store.exchange(worker_id, batch=batch, in_flight=in_flight, now_s=now_s, since=since)


def record(store: AccessStore, key_id: str = "k2", *, now_s: float = NOON) -> KeyRecord:
    return next(r for r in store.records(now_s=now_s) if r.key.key_id == key_id)


def test_keys_read_back_as_they_were_oldest_first(store: AccessStore) -> None:
    store.create(FULL, secret_hash=b"1" * 32)
    store.create(BARE, secret_hash=b"2" * 32)
    assert [(r.key, r.secret_hash, dict(r.usage)) for r in store.records(now_s=NOON)] == [
        (FULL, b"1" * 32, {}),
        (BARE, b"2" * 32, {}),
    ]


def test_a_key_id_is_taken_once(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"1" * 32)
    with pytest.raises(InvalidRequestError, match="k2"):
        store.create(replace(BARE, name="other"), secret_hash=b"2" * 32)
    assert [r.key.name for r in store.records(now_s=NOON)] == ["bare"]


def test_an_update_replaces_the_key_and_keeps_what_it_used(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"1" * 32)
    report(store, "w", 1, usage=used(tokens=5))
    changed = store.update("k2", lambda key: replace(key, name="new", limits=KeyLimits(concurrency=1)))
    assert record(store).key == changed == replace(BARE, name="new", limits=KeyLimits(concurrency=1))
    assert record(store).usage["total"].tokens == 5


def test_an_update_that_fails_changes_nothing(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"1" * 32)

    def refuse(key: ClientKey) -> ClientKey:
        raise InvalidRequestError("no")

    with pytest.raises(InvalidRequestError, match="no"):
        store.update("k2", refuse)
    with pytest.raises(KeyNotFoundError, match="k9"):
        store.update("k9", lambda key: key)
    assert record(store).key == BARE


def test_a_changed_rate_starts_with_a_full_bucket(store: AccessStore) -> None:
    store.create(replace(BARE, limits=KeyLimits(requests_per_minute=1)), secret_hash=b"1" * 32)
    report(store, "w", 1, requests_debt_s=600.0)
    store.update("k2", lambda key: replace(key, name="still limited"))
    assert record(store).requests_full_at_s == NOON + 600
    store.update("k2", lambda key: replace(key, limits=KeyLimits(requests_per_minute=2)))
    assert record(store).requests_full_at_s == 0


def test_usage_adds_up_by_day_month_and_for_ever(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"1" * 32)
    day = 86_400
    for number, at_s in enumerate((NOON - 30 * day, NOON - day, NOON), start=1):
        report(store, "w", number, usage=used(2, 10, 0.5, 1), at_s=at_s)
    assert record(store).usage == {
        "day": used(2, 10, 0.5, 1),
        "month": used(4, 20, 1.0, 2),
        "total": used(6, 30, 1.5, 3),
    }
    assert record(store, now_s=NOON + day).usage.get("day") is None


def test_the_same_batch_sent_twice_counts_once(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"1" * 32)
    for _ in range(2):
        report(store, "w", 1, requests_debt_s=3.0)
    assert record(store).usage["total"].requests == 1
    assert record(store).requests_full_at_s == NOON + 3
    report(store, "another", 1)
    assert record(store).usage["total"].requests == 2


def test_debts_of_all_workers_add_up_from_now_on(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"1" * 32)
    report(store, "a", 1, requests_debt_s=5.0)
    report(store, "b", 1, requests_debt_s=5.0)
    assert record(store).requests_full_at_s == NOON + 10
    report(store, "b", 2, requests_debt_s=5.0, at_s=NOON + 60)
    assert record(store).requests_full_at_s == NOON + 65


def test_a_worker_is_told_only_what_changed_since_its_mark(store: AccessStore) -> None:
    store.create(FULL, secret_hash=b"1" * 32)
    store.create(BARE, secret_hash=b"2" * 32)
    first = report(store, "a")
    assert first.whole
    assert {r.key.key_id for r in first.records} == {"k1", "k2"}
    quiet = report(store, "a", since=first.mark)
    assert (quiet.whole, quiet.records) == (False, [])
    report(store, "b", 1, usage=used(tokens=7))
    after_use = report(store, "a", since=quiet.mark)
    assert [(r.key.key_id, r.usage["day"].tokens) for r in after_use.records] == [("k2", 7)]
    store.update("k1", lambda key: replace(key, name="renamed"))
    after_update = report(store, "a", since=after_use.mark)
    assert [r.key.name for r in after_update.records] == ["renamed"]


def test_a_worker_is_told_what_it_stored_in_the_same_exchange(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"2" * 32)
    mark = report(store, "a").mark
    picture = report(store, "a", 1, usage=used(tokens=7), since=mark)
    assert [r.usage["total"].tokens for r in picture.records] == [7]


def test_requests_in_flight_are_those_of_the_other_workers(store: AccessStore) -> None:
    store.create(BARE, secret_hash=b"1" * 32)
    assert report(store, "a", in_flight={"k2": 2}).in_flight_elsewhere == {}
    assert report(store, "b", in_flight={"k2": 3}).in_flight_elsewhere == {"k2": 2}
    assert report(store, "c").in_flight_elsewhere == {"k2": 5}
    report(store, "a", 1)
    assert report(store, "c").in_flight_elsewhere == {"k2": 5}
    report(store, "a", in_flight={})
    assert report(store, "c").in_flight_elsewhere == {"k2": 3}


@pytest.mark.parametrize("clock_went", [IN_FLIGHT_LEASE_S, -3_600.0])
def test_a_worker_that_was_killed_holds_no_place_for_long(store: AccessStore, clock_went: float) -> None:
    store.create(BARE, secret_hash=b"1" * 32)
    report(store, "killed", in_flight={"k2": 3})
    assert report(store, "a", now_s=NOON + IN_FLIGHT_LEASE_S - 1).in_flight_elsewhere == {"k2": 3}
    assert report(store, "a", now_s=NOON + clock_went).in_flight_elsewhere == {}

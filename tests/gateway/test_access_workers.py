"""Several workers on one store, restarts, and a store that fails."""

import asyncio
import contextlib
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rs_gateway.access import Access
from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.domain.access import ClientKey, KeyLimits
from rs_gateway.domain.access_store import IN_FLIGHT_LEASE_S, AccessPicture
from rs_gateway.domain.errors import (
    BudgetExceededError,
    ForbiddenError,
    RateLimitedError,
    StoreError,
    UnauthorizedError,
)
from rs_gateway.keys import Grant, issue_key, update_key
from tests.access_fakes import MemoryAccessStore, World, admitted, bearer, spend, sync


@pytest.fixture(params=["memory", "sqlite"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[World, Access, Access]:
    if request.param == "memory":
        world = World()
        return world, world.worker(), world.worker()
    world = World(SqliteAccessStore(tmp_path / "access.db"))
    other = World(SqliteAccessStore(tmp_path / "access.db"))
    other.clock = world.clock
    request.addfinalizer(world.store.close)
    request.addfinalizer(other.store.close)
    return world, world.worker(), other.worker()


def test_workers_share_the_request_rate(shared: tuple[World, Access, Access]) -> None:
    world, one, two = shared
    key = world.issue(limits=KeyLimits(requests_per_minute=10))
    sync(one, two)
    for _ in range(6):
        spend(one, key)
    sync(one, two)
    for _ in range(4):
        spend(two, key)
    with pytest.raises(RateLimitedError):
        two.admit(bearer(key))
    sync(two, one)
    with pytest.raises(RateLimitedError) as refusal:
        one.admit(bearer(key))
    assert refusal.value.retry_after_s == pytest.approx(6)


def test_workers_share_the_token_rate_and_the_budget(shared: tuple[World, Access, Access]) -> None:
    world, one, two = shared
    tokens, budget = world.issue(limits=KeyLimits(tokens_per_minute=100)), world.issue(limits=KeyLimits(budget_usd=1.0))
    sync(one, two)
    spend(one, tokens, tokens=100)
    spend(one, budget, cost_usd=0.5)
    spend(two, budget, cost_usd=0.5)
    sync(one, two, one)
    for worker in (one, two):
        with pytest.raises(RateLimitedError):
            worker.admit(bearer(tokens))
        with pytest.raises(BudgetExceededError):
            worker.admit(bearer(budget))


def test_workers_share_places_and_a_killed_one_gives_its_back(shared: tuple[World, Access, Access]) -> None:
    world, one, two = shared
    key = world.issue(limits=KeyLimits(concurrency=3))
    sync(one, two)
    streams = admitted(one, key, 2)
    sync(one, two)
    assert len(admitted(two, key, 5)) == 1
    streams[0].settle(tokens=0, cost_usd=None)
    sync(one, two)
    assert len(admitted(two, key, 5)) == 1
    with pytest.raises(RateLimitedError):
        two.admit(bearer(key))
    world.clock.pass_s(IN_FLIGHT_LEASE_S)  # `one` was killed with a stream in flight: it says nothing any more
    sync(two)
    assert len(admitted(two, key, 5)) == 1


def test_a_long_stream_keeps_its_place_while_its_worker_lives(shared: tuple[World, Access, Access]) -> None:
    world, one, two = shared
    key = world.issue(limits=KeyLimits(concurrency=1))
    sync(one, two)
    assert len(admitted(one, key, 1)) == 1
    for _ in range(20):
        sync(one, two)
        assert admitted(two, key, 1) == []
        world.clock.pass_s(1.0)


def test_what_is_counted_between_two_syncs_is_never_lost_nor_doubled(shared: tuple[World, Access, Access]) -> None:
    world, one, two = shared
    key = world.issue()
    sync(one, two)

    async def traffic(worker: Access, n: int) -> None:
        for number in range(n):
            spend(worker, key, tokens=1, cost_usd=0.25)
            if number % 7 == 0:
                await asyncio.sleep(0)

    async def syncing(worker: Access, n: int) -> None:
        for _ in range(n):
            await worker.sync()

    async def everything() -> None:
        await asyncio.gather(traffic(one, 500), traffic(two, 500), syncing(one, 20), syncing(two, 20))
        await one.sync()
        await two.sync()

    asyncio.run(everything())
    (record,) = world.store.records(now_s=world.clock())
    total = record.usage["total"]
    assert (total.requests, total.tokens, total.cost_usd) == (1_000, 1_000, 250.0)


def test_a_changed_key_counts_within_one_sync(shared: tuple[World, Access, Access]) -> None:
    world, one, two = shared
    key = world.issue(limits=KeyLimits(requests_per_minute=1))
    sync(one, two)
    spend(one, key)
    sync(one, two)
    assert admitted(two, key, 1) == []

    def raise_limit(known: ClientKey) -> ClientKey:
        return replace(known, limits=KeyLimits(requests_per_minute=5), models=frozenset())

    update_key(world.store, key.key.key_id, raise_limit)
    sync(one, two)
    assert len(admitted(two, key, 10)) == 5
    with pytest.raises(ForbiddenError):
        one.admit(bearer(key)).check(template_id=None, model="gpt")


# A store that fails


def test_a_failing_store_keeps_the_last_known_keys_in_force_and_loses_no_count() -> None:
    store = MemoryAccessStore()
    world = World(store)
    key = world.issue(limits=KeyLimits(budget_usd=1.0))
    access = world.worker()
    store.failing = "the disk is full"
    for _ in range(3):
        spend(access, key, cost_usd=0.25)
        sync(access)
    assert access.error == "the disk is full"
    with pytest.raises(UnauthorizedError):
        access.admit([])
    store.failing = None
    sync(access, access)
    assert access.error is None
    (record,) = store.records(now_s=world.clock())
    assert (record.usage["total"].requests, record.usage["total"].cost_usd) == (3, 0.75)
    spend(access, key, cost_usd=0.25)
    with pytest.raises(BudgetExceededError):
        access.admit(bearer(key))


def test_a_batch_that_was_stored_though_its_commit_reported_a_failure_counts_once() -> None:
    store = MemoryAccessStore()
    world = World(store)
    key = world.issue()
    access = world.worker()
    spend(access, key, cost_usd=0.25)
    store.forgetful = True
    sync(access)
    assert access.error is not None
    store.forgetful = False
    asyncio.run(access.aclose())
    (record,) = store.records(now_s=world.clock())
    assert record.usage["total"].cost_usd == 0.25


def test_a_place_is_free_for_the_others_though_the_failing_store_had_heard_it_was_taken() -> None:
    store = MemoryAccessStore()
    world = World(store)
    key = world.issue(limits=KeyLimits(concurrency=1))
    one, two = world.worker(), world.worker()
    (stream,) = admitted(one, key, 1)
    store.forgetful = True
    sync(one)
    store.forgetful = False
    stream.settle(tokens=0, cost_usd=None)
    sync(one, two)
    assert len(admitted(two, key, 1)) == 1


def test_a_gateway_does_not_start_with_keys_that_it_cannot_read() -> None:
    store = MemoryAccessStore()
    store.failing = "no such disk"
    with pytest.raises(StoreError, match="no such disk"):
        World(store).worker()


def test_closing_stores_what_was_counted_last(tmp_path: Path) -> None:
    path = tmp_path / "access.db"
    world = World(SqliteAccessStore(path))
    key = world.issue()
    access = world.worker()

    async def serve() -> None:
        syncing = asyncio.create_task(access.keep_synced())
        spend(access, key, tokens=3, cost_usd=0.5)
        await asyncio.sleep(0)
        syncing.cancel()
        await access.aclose()

    asyncio.run(serve())
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("SELECT requests, tokens, cost_usd FROM usage").fetchall() == [(1, 3, 0.5)] * 3
    finally:
        connection.close()


def test_keys_are_kept_in_step_by_themselves(tmp_path: Path) -> None:
    store = SqliteAccessStore(tmp_path / "access.db")
    access = Access(SqliteAccessStore(tmp_path / "access.db"), sync_interval_s=0.005)

    async def until_closed() -> None:
        syncing = asyncio.create_task(access.keep_synced())
        issue_key(store, Grant("late"), by="ann", now_s=access.now_s())
        async with asyncio.timeout(20):
            while not access.required:  # noqa: ASYNC110 it has no event to wait for
                await asyncio.sleep(0.001)
        syncing.cancel()
        await access.aclose()

    asyncio.run(until_closed())
    store.close()


class SlowStore(MemoryAccessStore):
    """Holds every exchange in its thread until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.let_go = threading.Event(), threading.Event()
        self.let_go.set()

    def exchange(self, worker_id: str, **news: Any) -> AccessPicture:
        self.entered.set()
        assert self.let_go.wait(20)
        return super().exchange(worker_id, **news)


def test_a_shutdown_in_the_middle_of_an_exchange_counts_everything_once() -> None:
    store = SlowStore()
    world = World(store)
    key = world.issue()
    access = world.worker()

    async def stop_while_storing() -> None:
        spend(access, key, cost_usd=0.25)
        store.entered.clear()
        store.let_go.clear()
        storing = asyncio.create_task(access.sync())
        await asyncio.to_thread(store.entered.wait, 20)
        spend(access, key, cost_usd=0.25)
        storing.cancel()
        await asyncio.sleep(0)
        store.let_go.set()
        with contextlib.suppress(asyncio.CancelledError):
            await storing
        await access.aclose()

    asyncio.run(stop_while_storing())
    (record,) = store.records(now_s=world.clock())
    assert (record.usage["total"].requests, record.usage["total"].cost_usd) == (2, 0.5)


def test_what_is_counted_during_an_exchange_goes_on_counting_after_it() -> None:
    store = SlowStore()
    world = World(store)
    limits = (KeyLimits(requests_per_minute=2), KeyLimits(tokens_per_minute=10), KeyLimits(budget_usd=0.5))
    keys = [world.issue(limits=limit) for limit in limits]
    access = world.worker()

    async def use_all_while_storing() -> None:
        for key in keys:
            spend(access, key, tokens=5, cost_usd=0.25)
        store.entered.clear()
        store.let_go.clear()
        storing = asyncio.create_task(access.sync())
        await asyncio.to_thread(store.entered.wait, 20)
        for key in keys:
            spend(access, key, tokens=5, cost_usd=0.25)
        store.let_go.set()
        await storing

    asyncio.run(use_all_while_storing())
    for key, refused in zip(keys, (RateLimitedError, RateLimitedError, BudgetExceededError), strict=True):
        with pytest.raises(refused):
            access.admit(bearer(key))

"""Scores given as feedback on their way to the router: none lost, none counted twice, and they shift traffic."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.ports import StoredRows
from rs_gateway.domain.router import Router
from rs_gateway.domain.routing import RouterRules
from rs_gateway.quality_feed import QualityFeed
from tests import upstream as wire
from tests.contracts.test_trace_store import a_trace
from tests.gateway.routing_pools import GOOD, call, pool_of
from tests.gateway.test_chat import HELP, configuration
from tests.running import eventually, register, running_gateway
from tests.upstream import Upstream


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteTraceStore]:
    with closing(SqliteTraceStore(tmp_path / "traces.db")) as traces:
        yield traces


@pytest.fixture
def reader(tmp_path: Path, store: SqliteTraceStore) -> Iterator[SqliteTraceReader]:
    with closing(SqliteTraceReader(tmp_path / "traces.db")) as scores:
        yield scores


def a_router(*combination_ids: str) -> Router:
    router = Router(RouterRules("performance_based"))
    router.keep_only(combination_ids)
    return router


def score(
    store: SqliteTraceStore, trace_id: str, value: str | float | bool, *, of: str | None = "c0", kind: str = "score"
) -> None:
    """One more trace that `of` answered, and a feedback on it."""

    async def both() -> None:
        await store.committed(replace(a_trace(trace_id), combination_id=of))
        await store.add_feedback(Feedback(f"f-{trace_id}", trace_id, FeedbackKind(kind), value, "user", 1.0))

    asyncio.run(both())


def quality(router: Router, combination_id: str = "c0") -> float | None:
    state = router.states(0.0).get(combination_id)
    return None if state is None else state.quality


def test_scores_from_before_the_start_and_after_it_arrive_once_each(
    store: SqliteTraceStore, reader: SqliteTraceReader
) -> None:
    given = list[tuple[str, float]]()

    class Listener(Router):
        def scored(self, combination_id: str, score: float, *, now_s: float) -> None:
            given.append((combination_id, score))

    feed = QualityFeed(reader, Listener(RouterRules("random")))
    score(store, "t1", 0.25)
    asyncio.run(feed.feed())
    score(store, "t2", 1.0, of="c1")
    for _ in range(3):
        asyncio.run(feed.feed())
    assert given == [("c0", 0.25), ("c1", 1.0)]


def test_a_score_of_a_combination_that_nobody_chose_yet_is_kept_for_it(
    store: SqliteTraceStore, reader: SqliteTraceReader
) -> None:
    router = a_router("c0", "c1")
    score(store, "t1", 0.25)
    asyncio.run(QualityFeed(reader, router).feed())
    assert quality(router) == 0.25
    pool = pool_of([1, 1])
    router.choose("t", pool, draw=0.0, now_s=0.0)
    assert quality(router) == 0.25


def test_a_score_of_what_is_not_configured_leaves_nothing_behind() -> None:
    router = a_router("c0")
    router.scored("gone", 1.0, now_s=0.0)
    assert router.states(0.0) == {}
    router.scored("c0", 1.0, now_s=0.0)
    router.keep_only(["c1"])
    assert router.states(0.0) == {}


@pytest.mark.parametrize(
    ("value", "kind", "of"), [("wonderful", "label", "c0"), (True, "outcome", "c0"), (1.0, "score", None)]
)
def test_only_scores_of_what_a_combination_answered_count(
    store: SqliteTraceStore, reader: SqliteTraceReader, value: Any, kind: str, of: str | None
) -> None:
    router = a_router("c0")
    score(store, "t1", value, kind=kind, of=of)
    score(store, "t2", 0.5)
    asyncio.run(QualityFeed(reader, router).feed())
    assert quality(router) == 0.5


def test_a_start_looks_back_on_the_newest_scores_only(store: SqliteTraceStore, reader: SqliteTraceReader) -> None:
    for number in range(5):
        score(store, f"t{number}", 0.5)
    after = reader.newest_score(keep=2)
    assert len(reader.scores(after=after, limit=10).rows) == 2
    assert reader.newest_score(keep=5) == 0
    assert reader.newest_score(keep=99) == 0


def test_a_page_that_is_full_is_followed_by_the_next(store: SqliteTraceStore, reader: SqliteTraceReader) -> None:
    router = a_router("c0")
    feed = QualityFeed(reader, router, page_rows=2)
    assert asyncio.run(feed.feed()) is False
    for number in range(5):
        score(store, f"t{number}", number / 4)
    assert [asyncio.run(feed.feed()) for _ in range(3)] == [True, True, False]
    assert quality(router) == pytest.approx(0.5)


def test_another_store_in_the_same_place_is_followed_from_its_beginning(tmp_path: Path) -> None:
    path, router = tmp_path / "traces.db", a_router("c0")
    with closing(SqliteTraceReader(path)) as reader:
        feed = QualityFeed(reader, router)
        with closing(SqliteTraceStore(path)) as first:
            for number in range(3):
                score(first, f"t{number}", 0.0)
        asyncio.run(feed.feed())
        for file in tmp_path.glob("traces.db*"):
            file.unlink()
        with closing(SqliteTraceStore(path)) as second:
            score(second, "u1", 1.0)
            for _ in range(2):
                asyncio.run(feed.feed())
    assert quality(router) == pytest.approx(0.25, rel=1e-3)  # it fades a little while the test runs


class FailingReader:
    """Cannot be read until `heal` is called."""

    def __init__(self) -> None:
        self.failing, self.read = True, 0

    def newest_score(self, *, keep: int) -> int:
        return 0 if self.failing or keep else 1

    def scores(self, *, after: int, limit: int) -> StoredRows:
        self.read += 1
        if self.failing:
            raise StoreError("The disk is gone.")
        columns = ("seq", "template_id", "combination_id", "value")
        return StoredRows(columns, [(1, "t", "c0", 0.75)] if after < 1 else [], 1)

    def close(self) -> None:
        pass


def test_a_store_that_cannot_be_read_is_tried_again() -> None:
    reader, router = FailingReader(), a_router("c0")

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 what it waits for is a number, and nobody tells when it changes
            await asyncio.sleep(0.001)

    async def fail_then_heal() -> None:
        feeding = asyncio.ensure_future(QualityFeed(reader, router, interval_s=0.001).keep_fed())
        async with asyncio.timeout(60):
            await until(lambda: reader.read >= 3)
            assert quality(router) is None
            reader.failing = False
            await until(lambda: quality(router) == 0.75)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

    asyncio.run(fail_then_heal())


def test_scores_shift_performance_based_to_what_users_like() -> None:
    router, pool = a_router("c0", "c1"), pool_of([1, 1])
    for combination_id, value in (("c0", 0.1), ("c1", 0.9)):
        for _ in range(50):
            call(router, combination_id, GOOD, now_s=0.0)
            router.scored(combination_id, value, now_s=0.0)
    chosen = Counter(router.choose("t", pool, draw=draw / 100, now_s=0.0).chosen for draw in range(100))
    assert chosen["c1"] > 3 * chosen["c0"]


def test_feedback_over_the_wire_shifts_what_answers(tmp_path: Path) -> None:
    register(tmp_path)
    with Upstream([wire.answers("no")]).running() as bad, Upstream([wire.answers("yes")]).running() as good:
        settings = configuration(bad, good, strategy="performance_based")
        settings |= {
            "telemetry": {"request_log": False},
            "stores": {"durability": "sync", "flush_interval_seconds": 0.001},
        }
        with running_gateway(tmp_path, settings) as gateway, gateway.client() as client:

            def ask() -> tuple[str, str]:
                headers = client.post("/v1/chat/completions", json=HELP).headers
                return headers["x-route-switch-combination"], headers["x-route-switch-trace-id"]

            for _ in range(120):
                combination, trace_id = ask()
                value = 1.0 if combination == "on-p2" else 0.0
                told = client.post("/v1/feedback", json={"trace_id": trace_id, "kind": "score", "value": value})
                assert told.status_code in (200, 201, 202, 204), told.text

            def known() -> bool:
                shown = client.get("/status").json()["templates"]["support"]["combinations"]
                return [c["health"]["quality"] for c in shown] == [0.0, 1.0]

            eventually(known)
            chosen = Counter(ask()[0] for _ in range(60))
    assert chosen["on-p2"] > 2 * chosen["on-p1"]

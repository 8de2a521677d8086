"""When the same provider is asked again, how soon, and on which connection."""

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.stage import ALONE, GREETING, Stage, read_answer, staged
from tests.running import eventually
from tests.upstream import Behaviour, Exchange

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def in_seconds(seconds: float) -> str:
    """An HTTP date so far from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@STREAMS
def test_faults_that_pass_are_tried_again_and_the_client_notices_nothing(tmp_path: Path, stream: bool) -> None:
    script = [wire.resets, wire.fails(500), wire.answers(GREETING)]
    with staged(tmp_path, script, max_retries=2) as stage:
        assert stage.ask(stream=stream).content == GREETING
        assert stage.attempts() == [
            ("on-p1", "provider_unreachable"),
            ("on-p1", "provider_overloaded"),
            ("on-p1", None),
        ]
        assert stage.trace()["outcome"] == "complete"


def test_an_account_without_quota_is_not_asked_again_and_the_fallback_is(tmp_path: Path) -> None:
    quota = {
        "error": {"message": "You exceeded your quota.", "type": "insufficient_quota", "code": "insufficient_quota"}
    }
    with staged(tmp_path, wire.fails(429, quota), wire.answers(GREETING), max_retries=2) as stage:
        assert stage.ask().content == GREETING
        assert stage.attempts() == [("on-p1", "provider_overloaded"), ("on-p2", None)]


@STREAMS
@pytest.mark.parametrize("status", [400, 422])
def test_a_request_that_is_refused_as_bad_goes_nowhere_else(tmp_path: Path, stream: bool, status: int) -> None:
    with staged(tmp_path, wire.fails(status), wire.answers("never"), max_retries=2) as stage:
        seen = stage.ask(stream=stream)
        assert (seen.status, seen.error["code"]) == (status, "some_code")
        assert (len(stage.first.requests), len(stage.upstreams[1].requests)) == (1, 0)
        assert stage.trace()["outcome"] == "provider_error"
        assert stage.health()["success_rate"] is None


@pytest.mark.parametrize(("status", "stream"), [(429, False), (503, True)], ids=["429-plain", "503-stream"])
def test_a_pause_that_was_asked_for_is_kept(tmp_path: Path, stream: bool, status: int) -> None:
    with staged(
        tmp_path, [wire.fails(status, extra="retry-after: 1\r\n"), wire.answers(GREETING)], max_retries=2
    ) as stage:
        seen = stage.ask(stream=stream)
        assert seen.content == GREETING
        assert 1.0 <= seen.took_s < 4
        assert float(seen.headers["x-route-switch-overhead-ms"]) < 900
        assert stage.attempts() == [("on-p1", "provider_overloaded"), ("on-p1", None)]


def test_a_pause_that_was_asked_for_as_a_date_is_kept(tmp_path: Path) -> None:
    async def busy(exchange: Exchange) -> None:
        await wire.fails(503, extra=f"retry-after: {in_seconds(2)}\r\n")(exchange)

    with staged(tmp_path, [busy, wire.answers(GREETING)], max_retries=2) as stage:
        seen = stage.ask()
        assert seen.content == GREETING
        assert 0.9 <= seen.took_s < 4.5  # a date has whole seconds


@STREAMS
@pytest.mark.parametrize("value", ["7", "6.2", "date"])
def test_whoever_is_told_to_wait_is_left_alone_and_the_last_error_says_how_long(
    tmp_path: Path, stream: bool, value: str
) -> None:
    busy = wire.fails(429, extra=f"retry-after: {in_seconds(3_600) if value == 'date' else value}\r\n")
    with staged(tmp_path, busy, wire.answers(GREETING), max_retries=2) as stage:
        seen = stage.ask(stream=stream)
        assert seen.content == GREETING
        assert seen.took_s < 4
        assert stage.attempts() == [("on-p1", "provider_overloaded"), ("on-p2", None)]
        # Nobody else is left: there is no point in waiting beyond the deadline.
        seen = stage.ask(stream=stream, model=ALONE)
        assert (seen.status, seen.error["type"]) == (429, "some_type")
        waits_s = int(seen.headers["retry-after"])
        assert waits_s == 7 if value != "date" else 3_500 < waits_s <= 3_601
        assert seen.took_s < 4
        assert stage.trace(at=1)["outcome"] == "provider_error"


@pytest.mark.parametrize("value", ["soon", "-5", "nan", "inf", "1e999", "Wed, 99 Foo", ""])
def test_a_retry_after_that_means_nothing_hurts_nobody(stage: Stage, value: str) -> None:
    stage.play(wire.fails(429, extra=f"retry-after: {value}\r\n"))
    seen = stage.ask(model=ALONE)
    assert seen.status == 429
    assert seen.headers.get("retry-after", "0") == "0"


def hangs_up_on_the_second_request(*, politely: bool) -> Behaviour:
    """Answers each connection once. What comes on it next meets a closed door."""
    served: set[Any] = set()

    async def behave(exchange: Exchange) -> None:
        connection = exchange.writer.get_extra_info("peername")
        if connection not in served:
            served.add(connection)
            await wire.answers(GREETING)(exchange)
        elif politely:
            exchange.writer.close()
            await exchange.hung_up.wait()
        else:
            exchange.cut()

    return behave


@STREAMS
@pytest.mark.parametrize("max_retries", [0, 2])
@pytest.mark.parametrize("politely", [True, False], ids=["closed", "reset"])
def test_a_kept_connection_that_closes_under_a_request_is_replaced_unnoticed(
    tmp_path: Path, stream: bool, politely: bool, max_retries: int
) -> None:
    with staged(tmp_path, hangs_up_on_the_second_request(politely=politely), max_retries=max_retries) as stage:
        for _ in range(3):
            seen = stage.ask(stream=stream)
            assert (seen.status, seen.content) == (200, GREETING)
        assert [stage.trace(at=i)["outcome"] for i in range(3)] == ["complete"] * 3
        assert stage.first.n_accepted == 3
        assert stage.circuit() == "closed"


def test_connections_that_all_went_stale_cost_one_request_nothing(tmp_path: Path) -> None:
    n_connections = 6
    answers_once = hangs_up_on_the_second_request(politely=False)
    n_begun, all_begun = itertools.count(1), asyncio.Event()

    async def together(exchange: Exchange) -> None:
        if next(n_begun) == n_connections:
            all_begun.set()
        await all_begun.wait()
        await answers_once(exchange)

    with staged(tmp_path, together, concurrency=n_connections, max_retries=2) as stage:
        connections = [stage.connect() for _ in range(n_connections)]
        for connection in connections:
            stage.post(connection, stream=False)
        assert {read_answer(connection, 0.0).content for connection in connections} == {GREETING}
        assert stage.first.n_open == n_connections
        assert stage.ask().content == GREETING
        assert stage.circuit() == "closed"


def test_a_kept_connection_that_closed_while_idle_is_not_used(tmp_path: Path) -> None:
    async def once(exchange: Exchange) -> None:
        await wire.answers(GREETING)(exchange)
        exchange.writer.close()

    with staged(tmp_path, once) as stage:
        for n_requests in (1, 2, 3):
            assert stage.ask().content == GREETING
            eventually(lambda: stage.first.n_open == 0)
            assert stage.first.n_accepted == n_requests
        assert stage.attempts(at=2) == [("on-p1", None)]


def test_pauses_between_tries_are_short_when_nobody_asked_for_them(tmp_path: Path) -> None:
    with staged(tmp_path, wire.fails(500), max_retries=2) as stage:
        began = time.monotonic()
        assert stage.ask().status == 502
        assert time.monotonic() - began < 0.25 + 0.5 + 3  # for three answers, on a busy machine
        assert len(stage.first.requests) == 3

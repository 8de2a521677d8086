"""Silence and slowness: one deadline for a whole request, whatever is tried within it."""

from pathlib import Path
from typing import Any

import pytest

from rs_gateway.setting_sections import ApiSettings
from tests import upstream as wire
from tests.gateway.fault_wall.faults import late
from tests.gateway.fault_wall.stage import BEGUN, FINISH, GREETING, error_in, staged
from tests.running import eventually
from tests.upstream import Behaviour

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def test_the_defaults_end_a_stall_of_30_seconds() -> None:
    defaults = ApiSettings()
    assert defaults.idle_timeout_seconds == 30
    assert defaults.client_stall_seconds == 30
    assert defaults.first_byte_timeout_seconds == 60
    assert defaults.connect_timeout_seconds == 5
    assert defaults.timeout_seconds == 120


@STREAMS
def test_silence_is_a_504_at_the_deadline_and_blames_nobody_else(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path, wire.hangs, wire.answers(GREETING), timeout_seconds=1) as stage:
        seen = stage.ask(stream=stream)
        assert (seen.status, seen.error["code"]) == (504, "provider_timeout")
        assert 1 <= seen.took_s < 2  # a second budget would end at 2
        eventually(lambda: stage.first.hang_ups == 1)
        assert stage.trace()["outcome"] == "provider_error"
        assert stage.attempts() == [("on-p1", "provider_timeout")]
        assert stage.health()["success_rate"] == 0.0
        # Nothing is left of the time: whoever were asked now could only fail, and be blamed for it.
        assert stage.upstreams[1].requests == []
        assert stage.health("on-p2")["success_rate"] is None


@STREAMS
def test_retries_share_the_deadline_of_the_first_try(tmp_path: Path, stream: bool) -> None:
    script = [late(wire.fails(500), by_s=0.8), wire.hangs]
    with staged(tmp_path, script, timeout_seconds=1.5, max_retries=3) as stage:
        seen = stage.ask(stream=stream)
        assert seen.status == 504
        assert 1.5 <= seen.took_s < 2.3  # a second budget would end at 2.3
        assert stage.attempts() == [("on-p1", "provider_overloaded"), ("on-p1", "provider_timeout")]


@STREAMS
def test_fallbacks_share_the_deadline_of_the_first_try(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path, late(wire.fails(500), by_s=0.8), wire.hangs, timeout_seconds=1) as stage:
        seen = stage.ask(stream=stream)
        assert seen.status == 504
        assert 1 <= seen.took_s < 1.8  # a second budget would end at 1.8
        assert stage.attempts() == [("on-p1", "provider_overloaded"), ("on-p2", "provider_timeout")]


@STREAMS
@pytest.mark.parametrize("fault", [wire.hangs, wire.sends([], then="stall")], ids=["no head", "a head and no more"])
def test_a_provider_that_is_silent_early_is_not_asked_twice_while_there_is_a_fallback(
    tmp_path: Path, stream: bool, fault: Behaviour
) -> None:
    # The ratio of the defaults, 60 to 120 s: two silent tries would be the whole deadline.
    limits: dict[str, Any] = {"first_byte_timeout_seconds": 1, "timeout_seconds": 2, "max_retries": 2}
    with staged(tmp_path, fault, wire.answers(GREETING), **limits) as stage:
        seen = stage.ask(stream=stream)
        assert seen.content == GREETING
        assert 1 <= seen.took_s < 2
        assert stage.attempts() == [("on-p1", "provider_timeout"), ("on-p2", None)]
        eventually(lambda: stage.first.hang_ups == 1)


def test_a_plain_answer_that_nobody_else_can_give_has_the_whole_deadline(tmp_path: Path) -> None:
    slow = late(wire.answers(GREETING), by_s=0.3)
    with staged(tmp_path, slow, first_byte_timeout_seconds=0.1) as stage:
        assert stage.ask().content == GREETING


def test_a_stream_that_goes_on_beyond_the_deadline_is_cut_at_it(tmp_path: Path) -> None:
    async def behave(exchange: wire.Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        for number in range(1_000):
            await late(lambda e, n=number: e.chunk(wire.chunk({"content": f"{n} "})), by_s=0.01)(exchange)

    with staged(tmp_path, behave, timeout_seconds=0.4) as stage:
        seen = stage.ask(stream=True)
        assert 0.4 <= seen.took_s < 5  # it would go on for 10 s
        assert error_in(seen.events[-1])["code"] == "provider_timeout"
        eventually(lambda: stage.first.hang_ups == 1)
        trace = stage.trace()
        assert (trace["outcome"], trace["error_code"]) == ("provider_cut", "provider_timeout")
        assert trace["response"]["content"] == seen.content


def test_pauses_shorter_than_the_idle_timeout_are_no_silence(tmp_path: Path) -> None:
    async def behave(exchange: wire.Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        for event in (*BEGUN, FINISH, wire.DONE):
            await late(lambda e, data=event: e.chunk(data), by_s=0.25)(exchange)
        await exchange.end()

    with staged(tmp_path, behave, idle_timeout_seconds=1) as stage:
        seen = stage.ask(stream=True)
        assert (seen.content, seen.events[-1]) == ("Paris", "[DONE]")
        assert seen.took_s > 1

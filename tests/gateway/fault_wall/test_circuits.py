"""Failures that go on: the circuit opens, a probe closes it, a bad success rate demotes, as seen from outside."""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rs_gateway.domain.routing import CircuitRules
from tests import upstream as wire
from tests.gateway.fault_wall.stage import GREETING, Stage, staged
from tests.running import eventually
from tests.upstream import Exchange

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


class Fickle:
    """Answers, or fails, as it is set."""

    def __init__(self) -> None:
        self.fails = True

    async def __call__(self, exchange: Exchange) -> None:
        await (wire.fails(500) if self.fails else wire.answers("from the first"))(exchange)


def open_for_long(stage: Stage) -> None:
    """Let circuits open for a minute, and not the usual seconds: time enough to look at one on a busy machine."""

    def adopt() -> None:
        router = stage.inside.app.app.state.router
        router.adopt(replace(router._rules, circuit=CircuitRules(open_s=60.0)))

    stage.inside.call(adopt)


def until_half_open(stage: Stage) -> None:
    """Wait for the end of the open circuit's time, which comes soon now."""

    def hurry() -> None:
        stage.inside.app.app.state.router._health["on-p1"].circuit._until_s = time.monotonic() + 0.1

    stage.inside.call(hurry)
    eventually(lambda: stage.circuit() == "half_open")


@STREAMS
def test_a_provider_that_goes_on_failing_is_left_alone_until_a_probe_succeeds(tmp_path: Path, stream: bool) -> None:
    first = Fickle()
    with staged(tmp_path, first, wire.answers(GREETING)) as stage:
        open_for_long(stage)
        assert [stage.ask(stream=stream).content for _ in range(5)] == [GREETING] * 5
        assert stage.circuit() == "open"
        assert stage.health()["retry_in_s"] > 0
        # While it is open nobody waits for it.
        asked = len(stage.first.requests)
        assert stage.ask(stream=stream).content == GREETING
        assert len(stage.first.requests) == asked == 5
        assert stage.attempts(at=5) == [("on-p2", None)]

        until_half_open(stage)
        assert stage.ask(stream=stream).content == GREETING  # the probe fails, and it opens again
        assert len(stage.first.requests) == 6
        assert stage.circuit() == "open"

        first.fails = False
        until_half_open(stage)
        assert stage.ask(stream=stream).content == "from the first"
        assert stage.circuit() == "closed"
        assert stage.ask(stream=stream).content == "from the first"


def test_with_nobody_else_an_open_circuit_refuses_no_request(tmp_path: Path) -> None:
    first = Fickle()
    with staged(tmp_path, first) as stage:
        open_for_long(stage)
        assert [stage.ask().status for _ in range(6)] == [502] * 6
        assert stage.circuit() == "open"
        first.fails = False
        assert stage.ask().content == "from the first"


def test_with_every_circuit_open_the_chosen_one_is_asked_all_the_same(tmp_path: Path) -> None:
    first, second = Fickle(), Fickle()
    with staged(tmp_path, first, second) as stage:
        open_for_long(stage)
        for _ in range(8):
            stage.ask()
        assert (stage.circuit(), stage.circuit("on-p2")) == ("open", "open")
        first.fails = False
        assert stage.ask().content == "from the first"
        assert stage.attempts(at=8) == [("on-p1", None)]


def test_with_every_circuit_open_the_fallback_is_asked_too(tmp_path: Path) -> None:
    first, second = Fickle(), Fickle()
    with staged(tmp_path, first, second) as stage:
        open_for_long(stage)
        for _ in range(8):
            stage.ask()
        assert (stage.circuit(), stage.circuit("on-p2")) == ("open", "open")
        second.fails = False
        assert stage.ask().content == "from the first"
        assert stage.attempts(at=8)[-1] == ("on-p2", None)


@STREAMS
def test_of_equals_the_one_with_the_open_circuit_gets_no_requests(tmp_path: Path, stream: bool) -> None:
    equals = {"strategy": "round_robin"}
    with staged(tmp_path, wire.resets, wire.answers(GREETING), gateway=equals, equal_weights=True) as stage:
        open_for_long(stage)
        assert [stage.ask(stream=stream).content for _ in range(20)] == [GREETING] * 20
        assert len(stage.first.requests) == 5
        assert stage.circuit() == "open"
        assert stage.trace(at=19)["outcome"] == "complete"


def test_streams_that_break_open_the_circuit_too(tmp_path: Path) -> None:
    begun = [wire.chunk({"role": "assistant", "content": "Par"})]
    with staged(tmp_path, wire.sends(begun, then="cut")) as stage:
        open_for_long(stage)
        for _ in range(5):
            assert "error" in stage.ask(stream=True).events[-1]
        assert stage.circuit() == "open"


def test_clients_that_leave_open_no_circuit(tmp_path: Path) -> None:
    with staged(tmp_path, wire.hangs) as stage:
        for n_left in range(1, 8):
            connection = stage.connect()
            stage.post(connection, stream=False)
            eventually(lambda n_left=n_left: len(stage.first.requests) == n_left)
            connection.close()
            eventually(lambda n_left=n_left: stage.first.hang_ups == n_left)
        eventually(lambda: stage.health()["in_flight"] == 0)
        assert stage.circuit() == "closed"
        assert stage.health()["success_rate"] is None


class HalfGood:
    """Fails every other request until it is mended: too good for the circuit, too bad for the threshold."""

    def __init__(self) -> None:
        self.mended = False
        self._count = itertools.count()

    async def __call__(self, exchange: Exchange) -> None:
        fails = next(self._count) % 2 and not self.mended
        await (wire.fails(500) if fails else wire.answers("from the first"))(exchange)


def test_a_success_rate_below_the_threshold_demotes_and_recovery_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = HalfGood()
    rules: dict[str, Any] = {"fallback_threshold": 0.9, "strategy": "round_robin"}
    with staged(tmp_path, first, wire.answers(GREETING), gateway=rules, equal_weights=True) as stage:

        def who_answers(n_requests: int) -> list[str]:
            return [stage.ask().headers["x-route-switch-combination"] for _ in range(n_requests)]

        who_answers(40)
        assert stage.health()["demoted"]
        assert stage.health()["success_rate"] < 0.9
        assert stage.health("on-p2")["demoted"] is False
        assert stage.circuit() == "closed"
        asked = len(stage.first.requests)
        assert set(who_answers(40)) >= {"on-p2"}
        assert len(stage.first.requests) - asked < 14  # 20 of equals, 2 on average of one that is demoted

        first.mended = True
        monkeypatch.setattr("rs_gateway.domain.router.PROBING_SHARE", 0.5)
        eventually(lambda: not (who_answers(10) and stage.health()["demoted"]))
        assert set(who_answers(2)) == {"on-p1", "on-p2"}

"""`model_providers.<name>.rate_limit`: a short wait, then somebody else, then a 429 that says how long."""

import time
from pathlib import Path

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.stage import ALONE, GREETING, read_answer, staged

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@STREAMS
def test_beyond_its_limit_a_provider_is_left_alone_and_somebody_else_answers(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path, wire.answers("first"), wire.answers(GREETING), provider={"rate_limit": 10}) as stage:
        assert stage.ask(stream=stream).content == "first"
        seen = stage.ask(stream=stream)
        assert (seen.content, seen.headers["x-route-switch-combination"]) == (GREETING, "on-p2")
        assert seen.took_s < 4  # a turn comes every 6 s
        assert len(stage.first.requests) == 1
        assert stage.trace(at=1)["outcome"] == "complete"
        # Our own limit says nothing against the provider.
        assert stage.health()["success_rate"] == 1.0


@STREAMS
def test_with_nobody_else_it_is_a_429_that_says_how_long(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path, wire.answers("first"), provider={"rate_limit": 10}) as stage:
        began = time.monotonic()
        assert stage.ask(stream=stream).status == 200
        seen = stage.ask(stream=stream)
        since_s = time.monotonic() - began
        assert (seen.status, seen.error["code"]) == (429, "rate_limit_exceeded")
        assert 6 - since_s <= int(seen.headers["retry-after"]) <= 6
        assert seen.took_s < 4
        assert len(stage.first.requests) == 1
        trace = stage.trace(at=1)
        assert (trace["outcome"], trace["error_code"]) == ("rejected", "rate_limit_exceeded")
        assert trace["usage_source"] == "unknown"


def test_a_turn_that_is_near_is_waited_for(tmp_path: Path) -> None:
    # Ten may come at once, then one every 0.6 s.
    with staged(tmp_path, wire.answers("first"), concurrency=11, provider={"rate_limit": 100}) as stage:
        connections = [stage.connect() for _ in range(11)]
        began = time.monotonic()
        for number, connection in enumerate(connections):
            stage.post(connection, stream=bool(number % 2))
        seen = [read_answer(connection, began) for connection in connections]
        assert [s.status for s in seen] == [200] * 11
        assert max(s.took_s for s in seen) >= 0.6 - 0.05
        # The wait is the provider's, not the gateway's.
        assert max(float(s.headers["x-route-switch-overhead-ms"]) for s in seen) < 500
        assert len(stage.first.requests) == 11


def test_templates_and_bare_models_share_the_limit_of_their_provider(tmp_path: Path) -> None:
    with staged(tmp_path, wire.answers("first"), provider={"rate_limit": 10}) as stage:
        assert stage.ask(model=ALONE).status == 200
        assert stage.ask().status == 429


def test_a_client_that_leaves_while_it_waits_for_its_turn_leaves_nothing_behind(tmp_path: Path) -> None:
    with staged(tmp_path, wire.answers("first"), provider={"rate_limit": 100}) as stage:
        for _ in range(10):
            assert stage.ask().status == 200
        connection = stage.connect()
        stage.post(connection, stream=False)
        connection.close()
        trace = stage.trace(at=10)
        assert (trace["outcome"], trace["attempts"]) == ("client_cancelled", [])
        assert len(stage.first.requests) == 10

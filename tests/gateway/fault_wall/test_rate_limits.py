"""`model_providers.<name>.rate_limit`: a short wait, then somebody else, then a 429 that says how long."""

import time
from pathlib import Path

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.stage import ALONE, GREETING, staged

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@STREAMS
def test_beyond_its_limit_a_provider_is_left_alone_and_somebody_else_answers(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path, wire.answers("first"), wire.answers(GREETING), provider={"rate_limit": 10}) as stage:
        assert stage.ask(stream=stream).content == "first"
        seen = stage.ask(stream=stream)
        assert (seen.content, seen.headers["x-route-switch-combination"]) == (GREETING, "on-p2")
        assert seen.took_s < 0.5
        assert len(stage.first.requests) == 1
        assert stage.trace(at=1)["outcome"] == "complete"
        # Our own limit says nothing against the provider.
        assert stage.health()["success_rate"] == 1.0


@STREAMS
def test_with_nobody_else_it_is_a_429_that_says_how_long(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path, wire.answers("first"), provider={"rate_limit": 10}) as stage:
        assert stage.ask(stream=stream).status == 200
        seen = stage.ask(stream=stream)
        assert (seen.status, seen.error["code"]) == (429, "rate_limit_exceeded")
        assert int(seen.headers["retry-after"]) in (5, 6)
        assert seen.took_s < 0.5
        assert len(stage.first.requests) == 1
        trace = stage.trace(at=1)
        assert (trace["outcome"], trace["error_code"]) == ("rejected", "rate_limit_exceeded")
        assert trace["usage_source"] == "unknown"


def test_a_turn_that_is_near_is_waited_for(tmp_path: Path) -> None:
    # Ten may come at once, then one every 0.6 s.
    with staged(tmp_path, wire.answers("first"), provider={"rate_limit": 100}) as stage:
        began = time.monotonic()
        seen = [stage.ask(stream=bool(n % 2)) for n in range(12)]
        assert [s.status for s in seen] == [200] * 12
        assert time.monotonic() - began >= 2 * 0.6 - 0.05
        assert seen[-1].took_s > 0.3
        assert float(seen[-1].headers["x-route-switch-overhead-ms"]) < 200
        assert len(stage.first.requests) == 12


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

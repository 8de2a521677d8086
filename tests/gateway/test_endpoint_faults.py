"""Embeddings, Responses and Messages: what goes wrong there, and how it counts against their providers.

`on_stage` checks after every test that nothing leaked.
"""

import json
import socket
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rs_gateway.domain.endpoints import Endpoint, EndpointProvider
from rs_gateway.domain.traces import Outcome
from tests.fakes import eventually
from tests.gateway.endpoint_stage import Stage, impatient, native, on_stage
from tests.gateway.test_endpoints import ASK, RESPONSE, STREAMED, event, events_of, in_two, speaks
from tests.running import running_gateway
from tests.upstream import Behaviour, Exchange, Upstream, fails, hangs, page, resets, sends


@pytest.mark.parametrize("endpoint", STREAMED)
def test_an_attempt_is_under_way_until_its_stream_has_ended(endpoint: Endpoint) -> None:
    go_on, whole = threading.Event(), events_of(endpoint)
    combination_id = {"responses": "openai/gpt", "messages": "anthropic/claude"}[endpoint]

    async def behave(exchange: Exchange) -> None:
        await in_two(whole[:1], whole[1:], go_on)(exchange)

    with (
        Upstream([behave]).running() as up,
        on_stage(up) as stage,
        stage.client() as client,
        client.stream("POST", f"/v1/{endpoint}", json={**ASK[endpoint], "stream": True}) as response,
    ):
        pieces = response.iter_raw()
        next(pieces)
        assert stage.health(combination_id).in_flight == 1
        go_on.set()
        assert b"".join(pieces)
        eventually(lambda: stage.health(combination_id).in_flight == 0)
        assert stage.health(combination_id).success_rate == 1.0


async def half_a_body(exchange: Exchange) -> None:
    await exchange.head(200, "application/json", length=1_000)
    await exchange.send(b'{"half": ')
    exchange.cut()


FAILED: dict[str, tuple[Behaviour, bool]] = {
    "500": (fails(500), False),
    "401": (fails(401), False),
    "reset": (resets, False),
    "half a body": (half_a_body, False),
    "garbage": (page(), False),
    "cut stream": (sends(events_of("responses")[:3], then="cut"), True),
    "stalled stream": (sends(events_of("responses")[:3], then="stall"), True),
    "failed response": (
        sends([event({"type": "response.failed", "response": {**RESPONSE, "status": "failed"}})]),
        True,
    ),
}


@pytest.mark.parametrize("fault", FAILED)
def test_a_provider_that_fails_and_fails_is_known_for_it_and_asked_as_there_is_no_other(fault: str) -> None:
    broken, stream = FAILED[fault]

    def ask(stage: Stage) -> None:
        if stream:
            stage.stream("responses", ASK["responses"])
        else:
            stage.post("responses", ASK["responses"])

    script = [broken, broken, broken, speaks("responses")]
    with Upstream(script).running() as up, on_stage(up, max_retries=0, providers=impatient) as stage:
        for circuit in ("closed", "closed", "open"):
            ask(stage)
            eventually(lambda: stage.health("openai/gpt").in_flight == 0)
            assert stage.health("openai/gpt").circuit == circuit
        assert stage.health("openai/gpt").success_rate == 0.0
        ask(stage)
    *_, last = stage.traces(4)
    assert last.outcome == Outcome.COMPLETE
    assert last.decision is not None
    assert (last.decision.chosen, last.decision.fallbacks) == ("openai/gpt", ())
    assert "every circuit is open" in last.decision.reason


def test_what_the_provider_says_of_the_request_is_not_held_against_it() -> None:
    with Upstream([fails(400)]).running() as up, on_stage(up) as stage:
        for _ in range(4):
            assert stage.post("messages", ASK["messages"]).status_code == 400
        health = stage.health("anthropic/claude")
    assert (health.circuit, health.success_rate, health.in_flight) == ("closed", None, 0)


def nowhere(upstream: Upstream) -> dict[tuple[str, Endpoint], EndpointProvider]:
    """Providers at an address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()[1]
    return native(replace(upstream, base_url=f"http://127.0.0.1:{address}/v1"))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("endpoint", STREAMED)
def test_a_provider_that_is_not_there_is_tried_again_and_named(endpoint: Endpoint, *, stream: bool) -> None:
    with Upstream([hangs]).running() as up, on_stage(up, providers=nowhere) as stage:
        response = stage.post(endpoint, {**ASK[endpoint], "stream": stream})
        assert response.status_code == 502
        assert "127.0.0.1" not in response.text
        assert [attempt.error_code for attempt in stage.trace().attempts] == ["provider_unreachable"] * 2


def leave(connection: socket.socket, how: str) -> None:
    """Hang up, politely or not."""
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["before a plain answer", "before a stream", "in a stream"])
def test_a_client_that_leaves_ends_the_upstream_call_and_blames_nobody(when: str, how: str) -> None:
    body = json.dumps({**ASK["messages"], "stream": when != "before a plain answer"}).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    begun = sends(events_of("messages")[:4], then="stall")
    with (
        Upstream([begun if when == "in a stream" else hangs]).running() as up,
        on_stage(up, timeout_s=30) as stage,
        socket.create_connection(("127.0.0.1", urlsplit(stage.url).port or 0), timeout=60) as connection,
    ):
        connection.sendall(head + body)
        if when == "in a stream":
            eventually(lambda: b"Paris" in connection.recv(100_000, socket.MSG_PEEK))
        eventually(lambda: len(up.requests) == 1)
        leave(connection, how)
        eventually(lambda: up.hang_ups == 1, within_s=20)
        assert stage.trace().outcome == Outcome.CLIENT_CANCELLED
        assert [attempt.error_code for attempt in stage.trace().attempts] == [
            None if when == "in a stream" else "client_cancelled"
        ]
        eventually(lambda: stage.health("anthropic/claude").in_flight == 0)
        assert stage.health("anthropic/claude").success_rate is None


def test_chat_and_the_other_endpoints_know_the_same_of_a_model_of_a_provider(tmp_path: Path) -> None:
    with Upstream([fails(500)]).running() as up:
        provider = {"base_url": up.base_url, "kind": "openai_compatible", "models": ["raw"]}
        configuration = {"model_providers": {"p1": provider}, "api": {"max_retries": 0}}
        with running_gateway(tmp_path, configuration) as gateway, gateway.client() as client:
            assert gateway.inside is not None
            inside = gateway.inside
            for _ in range(2):
                assert gateway.ask({"model": "raw", "messages": [{"role": "user", "content": "hi"}]}).status_code == 502
            for _ in range(3):
                assert client.post("/v1/embeddings", json={"model": "raw", "input": "hi"}).status_code == 502
            states = inside.call(lambda: inside.app.app.state.router.states(time.monotonic()))
    assert states.keys() == {"p1/raw"}
    assert (states["p1/raw"].circuit, states["p1/raw"].in_flight) == ("open", 0)

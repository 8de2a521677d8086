"""What clients see when the gateway is told to end and their requests take longer than it waits."""

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import upstream as wire
from tests.running import RunningGateway, eventually, running_gateway
from tests.upstream import Behaviour, Upstream

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES = {"model": "m", "input": "hi"}
CREATED = b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"id":"r"}}\n\n'


@contextmanager
def without_grace(folder: Path, behaviour: Behaviour) -> Generator[tuple[RunningGateway, Upstream]]:
    """A gateway that waits for nobody when it is told to end."""
    with Upstream([behaviour]).running() as upstream:
        provider = {"base_url": upstream.base_url, "models": ["m"], "endpoints": ["responses"]}
        with running_gateway(folder, {"model_providers": {"p": provider}}) as gateway:
            assert gateway.inside is not None
            gateway.inside.server.config.timeout_graceful_shutdown = 0
            yield gateway, upstream


def end(gateway: RunningGateway) -> None:
    assert gateway.inside is not None
    gateway.inside.server.should_exit = True


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSES)])
def test_a_plain_call_gets_an_error_that_says_so(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    with without_grace(tmp_path, wire.hangs) as (gateway, upstream), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, gateway.url + path, json=body, timeout=120)
        eventually(lambda: len(upstream.requests) == 1)
        end(gateway)
        response = asked.result(timeout=120)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "shutting_down"
    (trace,) = gateway.traces()
    assert (trace["outcome"], trace["error_code"]) == ("rejected", "shutting_down")
    assert [attempt["error_code"] for attempt in json.loads(trace["attempts"])] == ["shutting_down"]


@pytest.mark.parametrize(
    ("path", "body", "event"),
    [("/v1/chat/completions", CHAT, wire.chunk({"content": "Pa"})), ("/v1/responses", RESPONSES, CREATED)],
)
def test_a_stream_ends_with_an_error_event(tmp_path: Path, path: str, body: dict[str, Any], event: bytes) -> None:
    with (
        without_grace(tmp_path, wire.sends([event], then="stall")) as (gateway, _),
        httpx.stream("POST", gateway.url + path, json={**body, "stream": True}, timeout=120) as response,
    ):
        pieces = response.iter_raw()
        received = next(pieces)
        end(gateway)
        received += b"".join(pieces)
    last = received.strip().rpartition(b"\n\n")[2]
    assert b"shutting_down" in last and b"[DONE]" not in received
    (trace,) = gateway.traces()
    assert (trace["outcome"], trace["error_code"]) == ("provider_cut", "shutting_down")

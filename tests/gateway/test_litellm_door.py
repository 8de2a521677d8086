"""Providers that do not speak OpenAI's protocol, through litellm: Anthropic's real wire format, plain and streamed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.running import RunningGateway, register, running_gateway
from tests.upstream import Behaviour, Exchange, Upstream

# litellm is a large library with warnings of its own; they are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]
ASK: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "messages": [{"role": "user", "content": "Help me"}],
    "variables": {"customer_name": "Jordan"},
    "max_tokens": 50,
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Paris is lovely"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 12, "output_tokens": 4},
}


def events(*, whole: bool) -> list[dict[str, Any]]:
    started = {**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 12, "output_tokens": 1}}
    first = [
        {"type": "message_start", "message": started},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Paris "}},
    ]
    last = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "is lovely"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    return [*first, *last] if whole else first


def anthropic(*, whole: bool = True) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        if not exchange.body.get("stream"):
            await exchange.json(200, MESSAGE)
            return
        await exchange.head(200, "text/event-stream")
        for event in events(whole=whole):
            await exchange.chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        await exchange.end()

    return behave


def overloaded(status: int) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        error = {"type": "error", "error": {"type": "some_error", "message": f"upstream says {status}"}}
        await exchange.json(status, error)

    return behave


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    register(tmp_path)
    return tmp_path


def configuration(upstream: Upstream) -> dict[str, Any]:
    combination = {"id": "claude", "template_id": "support", "model": "claude-sonnet-4-5", "provider": "anthropic"}
    return {
        "model_providers": {"anthropic": {"kind": "litellm", "base_url": upstream.base_url.removesuffix("/v1")}},
        "gateway": {"combinations": [combination]},
        "api": {"timeout_seconds": 60, "max_retries": 0},
    }


def trace_of(gateway: RunningGateway) -> dict[str, Any]:
    return gateway.traces()[0]


def test_a_plain_call_is_translated_and_comes_back_in_openais_shape(folder: Path) -> None:
    with Upstream([anthropic()]).running() as up, running_gateway(folder, configuration(up)) as gateway:
        with gateway.client() as client:
            response = client.post("/v1/chat/completions", json=ASK, timeout=60)
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["message"]["content"] == "Paris is lovely"
        assert up.headers[0]["x-api-key"] == "sk-ant-secret"
        assert "You help Jordan." in json.dumps(up.requests[0]["system"])
        trace = trace_of(gateway)
    assert (trace["outcome"], trace["input_tokens"], trace["usage_source"]) == ("complete", 12, "provider")


def test_a_stream_is_translated(folder: Path) -> None:
    with Upstream([anthropic()]).running() as up, running_gateway(folder, configuration(up)) as gateway:
        status, text = gateway.stream(ASK)
        trace = trace_of(gateway)
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert json.loads(trace["response"])["content"] == "Paris is lovely"
    assert trace["outcome"] == "complete"


def test_a_stream_that_breaks_off_is_not_passed_off_as_whole(folder: Path) -> None:
    with Upstream([anthropic(whole=False)]).running() as up, running_gateway(folder, configuration(up)) as gateway:
        _, text = gateway.stream(ASK)
        trace = trace_of(gateway)
    assert "[DONE]" not in text
    assert trace["outcome"] == "provider_cut"


@pytest.mark.parametrize(("status", "seen"), [(429, 429), (529, 502), (400, 400), (401, 401)])
def test_an_error_keeps_its_meaning(folder: Path, status: int, seen: int) -> None:
    with (
        Upstream([overloaded(status)]).running() as up,
        running_gateway(folder, configuration(up)) as gateway,
        gateway.client() as client,
    ):
        response = client.post("/v1/chat/completions", json=ASK, timeout=60)
    assert response.status_code == seen
    assert "sk-ant-secret" not in response.text

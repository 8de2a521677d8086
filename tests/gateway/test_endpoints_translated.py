"""Responses and Messages of a provider that only speaks chat: translated there and back, and never made whole."""

import json
from typing import Any

import pytest

from rs_gateway.domain.endpoints import Endpoint
from rs_gateway.domain.traces import Outcome, UsageSource
from tests.fakes import eventually
from tests.gateway.endpoint_stage import SECRET, on_stage, translated
from tests.upstream import (
    DONE,
    USAGE_CHUNK,
    Behaviour,
    Exchange,
    Upstream,
    answers,
    chunk,
    completion,
    fails,
    page,
    sends,
)

# litellm is a large library with warnings of its own; they are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")
ASK: dict[Endpoint, dict[str, Any]] = {
    "responses": {"model": "gpt", "input": "Where?", "instructions": "Be brief.", "max_output_tokens": 9},
    "messages": {
        "model": "claude",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Where?"}],
        "max_tokens": 9,
    },
}
BOTH: tuple[Endpoint, ...] = ("responses", "messages")
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}
TOOL_CHUNKS = [
    chunk({"role": "assistant", "content": None}),
    chunk({"tool_calls": [{**CALL, "index": 0, "function": {"name": "weather", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]}),
    chunk({}, finish_reason="tool_calls"),
    USAGE_CHUNK,
    DONE,
]


def data_of(stream: bytes) -> list[dict[str, Any]]:
    """What the events of a stream say, each checked against its `event:` line."""
    said: list[dict[str, Any]] = []
    for raw in stream.decode().split("\n\n")[:-1]:
        name, data = raw.split("\n")
        said.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {said[-1]['type']}"
    return said


@pytest.mark.parametrize("endpoint", BOTH)
def test_a_plain_answer_is_translated_there_and_back(endpoint: Endpoint) -> None:
    with Upstream([answers("Paris is lovely")]).running() as up, on_stage(up, providers=translated) as stage:
        response = stage.post(endpoint, ASK[endpoint])
    answer = response.json()
    asked = up.requests[0]
    assert response.status_code == 200, answer
    assert asked == {
        "model": ASK[endpoint]["model"],
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}],
        "max_tokens": 9,
    }
    if endpoint == "messages":
        assert (answer["type"], answer["stop_reason"]) == ("message", "end_turn")
        assert answer["content"] == [{"type": "text", "text": "Paris is lovely"}]
    else:
        assert (answer["object"], answer["status"]) == ("response", "completed")
        assert answer["output"][0]["content"][0]["text"] == "Paris is lovely"
    trace = stage.trace()
    assert (trace.outcome, trace.usage.input_tokens, trace.usage.output_tokens) == (Outcome.COMPLETE, 11, 3)


@pytest.mark.parametrize("endpoint", BOTH)
def test_a_stream_is_translated_event_by_event(endpoint: Endpoint) -> None:
    with Upstream([answers("Paris is lovely")]).running() as up, on_stage(up, providers=translated) as stage:
        status, body = stage.stream(endpoint, ASK[endpoint])
    events = data_of(body)
    assert status == 200
    if endpoint == "messages":
        texts = [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"]
        assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    else:
        texts = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
        assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
        assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert [text for text in texts if text] == ["Paris", " is", " lovely"]
    trace = stage.trace()
    assert (trace.outcome, trace.usage.source, trace.usage.input_tokens) == (
        Outcome.COMPLETE,
        UsageSource.PROVIDER,
        11,
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", BOTH)
def test_tools_and_their_results_are_translated(endpoint: Endpoint, *, stream: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    if endpoint == "messages":
        asked: dict[str, Any] = {
            **ASK[endpoint],
            "tools": [{"name": "weather", "description": "The weather.", "input_schema": schema}],
            "tool_choice": {"type": "any"},
            "messages": [
                {"role": "user", "content": "Where?"},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c0", "name": "weather", "input": {"city": "Rome"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c0", "content": "sunny"}]},
            ],
        }
    else:
        asked = {
            **ASK[endpoint],
            "tools": [{"type": "function", "name": "weather", "description": "The weather.", "parameters": schema}],
            "tool_choice": "required",
            "input": [
                {"role": "user", "content": "Where?"},
                {"type": "function_call", "call_id": "c0", "name": "weather", "arguments": '{"city": "Rome"}'},
                {"type": "function_call_output", "call_id": "c0", "output": "sunny"},
            ],
        }

    async def behave(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await sends(TOOL_CHUNKS)(exchange)
            return
        value = completion("", finish_reason="tool_calls")
        value["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        await exchange.json(200, value)

    with Upstream([behave]).running() as up, on_stage(up, providers=translated) as stage:
        if stream:
            stage.stream(endpoint, asked)
        else:
            assert stage.post(endpoint, asked).status_code == 200
    messages = up.requests[0]["messages"]
    assert messages[2]["tool_calls"][0]["id"] == messages[3]["tool_call_id"] == "c0"
    assert json.loads(messages[2]["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert "index" not in messages[2]["tool_calls"][0]
    assert up.requests[0]["tools"][0]["function"]["parameters"] == schema
    assert up.requests[0]["tool_choice"] == "required"
    trace = stage.trace()
    assert trace.outcome == Outcome.COMPLETE
    assert trace.payload is not None
    assert trace.payload.response is not None
    if endpoint == "messages":
        calls = [b for b in trace.payload.response["content"] if b["type"] == "tool_use"]
        assert (calls[0]["name"], calls[0]["input"]) == ("weather", {"city": "Paris"})
    else:
        calls = [i for i in trace.payload.response["output"] if i["type"] == "function_call"]
        assert (calls[0]["call_id"], json.loads(calls[0]["arguments"])) == ("c1", {"city": "Paris"})


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize("endpoint", BOTH)
def test_a_stream_that_just_stops_is_not_given_an_end(endpoint: Endpoint, then: str) -> None:
    async def behave(exchange: Exchange) -> None:
        await sends(TOOL_CHUNKS[:4], then=then)(exchange)

    with Upstream([behave]).running() as up, on_stage(up, providers=translated, max_retries=0) as stage:
        _, body = stage.stream(endpoint, ASK[endpoint])
    *_, last = data_of(body)
    kinds = {event["type"] for event in data_of(body)}
    assert last["type"] == "error"
    assert not kinds & {
        *("message_stop", "message_delta", "content_block_stop", "response.completed", "response.output_item.done"),
        *("response.function_call_arguments.done",),
    }
    assert stage.trace().outcome == Outcome.PROVIDER_CUT


@pytest.mark.parametrize("endpoint", BOTH)
def test_an_end_marker_without_a_finish_reason_is_no_end(endpoint: Endpoint) -> None:
    script = [sends([*TOOL_CHUNKS[:4], DONE])]
    with Upstream(script).running() as up, on_stage(up, providers=translated, max_retries=0) as stage:
        _, body = stage.stream(endpoint, ASK[endpoint])
    assert data_of(body)[-1]["type"] == "error"
    assert stage.trace().outcome == Outcome.PROVIDER_CUT


@pytest.mark.parametrize("broken", [page(), fails(500), sends([DONE]), sends([b'data: {"error": {"code": 1}}\n\n'])])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", BOTH)
def test_a_failure_before_the_first_chunk_is_tried_again(
    endpoint: Endpoint, broken: Behaviour, *, stream: bool
) -> None:
    with Upstream([broken, answers("Paris")]).running() as up, on_stage(up, providers=translated) as stage:
        response = stage.post(endpoint, {**ASK[endpoint], "stream": stream})
    assert response.status_code == 200
    assert len(up.requests) == 2
    assert stage.trace().outcome == Outcome.COMPLETE


def test_a_stream_without_counted_tokens_is_estimated() -> None:
    script = [sends([*TOOL_CHUNKS[:5], DONE])]
    with Upstream(script).running() as up, on_stage(up, providers=translated) as stage:
        stage.stream("messages", ASK["messages"])
    usage = stage.trace().usage
    assert usage.source is UsageSource.ESTIMATED
    assert usage.input_tokens is not None
    assert usage.input_tokens > 0


@pytest.mark.parametrize(
    ("endpoint", "extra", "param"),
    [
        ("responses", {"previous_response_id": "resp_0"}, "previous_response_id"),
        ("responses", {"store": True}, "store"),
        ("responses", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ("responses", {"api_base": "http://evil.example"}, "api_base"),
        ("messages", {"base_url": "http://evil.example"}, "base_url"),
        ("messages", {"mcp_servers": [{"url": "http://evil.example"}]}, "mcp_servers"),
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ("messages", {"max_tokens": None}, "max_tokens"),
        ("messages", {"messages": []}, "messages"),
        ("responses", {"input": None}, "input"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(endpoint: Endpoint, extra: dict[str, Any], param: str) -> None:
    with Upstream([answers("Paris")]).running() as up, on_stage(up, providers=translated) as stage:
        response = stage.post(endpoint, {**ASK[endpoint], **extra})
    assert response.status_code == 400
    assert param.split(".", maxsplit=1)[0] in response.json()["error"]["message"]
    assert up.requests == []


@pytest.mark.parametrize(
    ("endpoint", "extra"),
    [
        ("responses", {"input": [{"type": "nonsense"}]}),
        ("responses", {"input": [17]}),
        ("responses", {"tools": {"a": 1}}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}),
        ("messages", {"messages": [None]}),
        ("messages", {"tools": [{}]}),
        ("messages", {"system": {"a": 1}}),
    ],
)
def test_nonsense_never_becomes_a_server_error(endpoint: Endpoint, extra: dict[str, Any]) -> None:
    with Upstream([answers("Paris")]).running() as up, on_stage(up, providers=translated) as stage:
        response = stage.post(endpoint, {**ASK[endpoint], **extra})
    assert response.status_code in (200, 400)


@pytest.mark.parametrize("status", [400, 401, 404, 429])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", BOTH)
def test_a_refusal_keeps_its_status(endpoint: Endpoint, status: int, *, stream: bool) -> None:
    body = {"error": {"message": f"no luck with {SECRET}", "type": "t", "param": None, "code": "c"}}
    script = [fails(status, body)]
    with Upstream(script).running() as up, on_stage(up, providers=translated, max_retries=0) as stage:
        response = stage.post(endpoint, {**ASK[endpoint], "stream": stream})
    assert response.status_code == status
    assert "no luck" in response.json()["error"]["message"]
    assert SECRET not in response.text


@pytest.mark.parametrize("endpoint", BOTH)
def test_a_client_that_leaves_ends_the_upstream_call(endpoint: Endpoint) -> None:
    script = [sends(TOOL_CHUNKS[:3], then="stall")]
    with (
        Upstream(script).running() as up,
        on_stage(up, providers=translated, timeout_s=30) as stage,
        stage.client() as client,
    ):
        with client.stream("POST", f"/v1/{endpoint}", json={**ASK[endpoint], "stream": True}) as response:
            next(response.iter_raw())
        eventually(lambda: up.hang_ups == 1)
        assert stage.trace().outcome == Outcome.CLIENT_CANCELLED

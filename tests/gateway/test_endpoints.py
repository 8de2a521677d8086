"""Embeddings, Responses and Messages of providers that speak them: what goes up, comes back, and is recorded."""

import asyncio
import base64
import json
import struct
import threading
from typing import Any

import httpx
import pytest

from rs_gateway.domain.access import OpenAdmission
from rs_gateway.domain.endpoints import Endpoint
from rs_gateway.domain.errors import ForbiddenError, RateLimitedError, UnauthorizedError
from rs_gateway.domain.rates import TokenBucket
from rs_gateway.domain.traces import Outcome, StoreMode, Usage, UsageSource
from tests.fakes import eventually
from tests.gateway.endpoint_stage import SECRET, Stage, impatient, on_stage
from tests.upstream import Behaviour, Exchange, Upstream, fails, hangs, page, resets, sends

VECTOR = base64.b64encode(struct.pack("<3f", 0.5, -1.25, 3.0)).decode()
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
    "model": "embedder-v1",
    "usage": {"prompt_tokens": 7, "total_tokens": 7},
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "status": "completed",
    "model": "gpt-v1",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Paris is lovely", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 21,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 30,
    },
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-v1",
    "content": [{"type": "text", "text": "Paris is lovely"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 12,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 30,
        "output_tokens": 4,
    },
}
ASK: dict[Endpoint, dict[str, Any]] = {
    "embeddings": {"model": "embedder", "input": "hello", "encoding_format": "base64"},
    "responses": {"model": "gpt", "input": "hello"},
    "messages": {"model": "claude", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50},
}
ANSWER: dict[Endpoint, dict[str, Any]] = {"embeddings": EMBEDDINGS, "responses": RESPONSE, "messages": MESSAGE}
ALL: tuple[Endpoint, ...] = ("embeddings", "responses", "messages")
STREAMED: tuple[Endpoint, ...] = ("responses", "messages")


def event(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def events_of(endpoint: Endpoint) -> list[bytes]:
    """A whole stream."""
    if endpoint == "messages":
        begun = {**MESSAGE, "content": [], "stop_reason": None, "usage": {**MESSAGE["usage"], "output_tokens": 1}}
        return [
            event({"type": "message_start", "message": begun}),
            event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            event({"type": "ping"}),
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Paris "}}),
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "is lovely"}}),
            event({"type": "content_block_stop", "index": 0}),
            event(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                    "usage": {"output_tokens": 4},
                }
            ),
            event({"type": "message_stop"}),
        ]
    begun = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}
    item = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    values: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
        {"type": "response.output_text.delta", **place, "delta": "Paris ", "logprobs": []},
        {"type": "response.output_text.delta", **place, "delta": "is lovely", "logprobs": []},
        {"type": "response.completed", "response": RESPONSE},
    ]
    return [event({**value, "sequence_number": number}) for number, value in enumerate(values)]


def speaks(endpoint: Endpoint) -> Behaviour:
    """A good answer, streamed if the request asks for a stream."""

    async def behave(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await sends(events_of(endpoint))(exchange)
        else:
            await exchange.json(200, ANSWER[endpoint])

    return behave


@pytest.mark.parametrize("endpoint", ALL)
def test_a_plain_answer_is_the_providers_own_bytes(endpoint: Endpoint) -> None:
    with Upstream([speaks(endpoint)]).running() as up, on_stage(up) as stage:
        response = stage.post(endpoint, ASK[endpoint])
    assert response.status_code == 200
    assert response.content == json.dumps(ANSWER[endpoint]).encode()
    assert response.headers["x-request-id"] == response.headers["x-route-switch-trace-id"] == stage.trace().trace_id
    assert float(response.headers["x-route-switch-overhead-ms"]) >= 0
    assert response.headers["x-route-switch-combination"].endswith(ASK[endpoint]["model"])
    assert (stage.trace().outcome, stage.trace().endpoint) == (Outcome.COMPLETE, endpoint)


@pytest.mark.parametrize("endpoint", STREAMED)
def test_a_stream_is_the_providers_own_bytes(endpoint: Endpoint) -> None:
    with Upstream([speaks(endpoint)]).running() as up, on_stage(up) as stage:
        status, body = stage.stream(endpoint, ASK[endpoint])
    assert (status, body) == (200, b"".join(events_of(endpoint)))
    trace = stage.trace()
    assert (trace.outcome, trace.stream, trace.response_model) == (
        Outcome.COMPLETE,
        True,
        ANSWER[endpoint]["model"],
    )
    assert trace.time_to_first_token_s is not None


@pytest.mark.parametrize("endpoint", STREAMED)
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_stream_survives_any_chunk_borders_and_line_ends(endpoint: Endpoint, size: int) -> None:
    whole = b": hello\r\n\r\n" + b"".join(events_of(endpoint)).replace(b"\n", b"\r\n")
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    with Upstream([sends(pieces)]).running() as up, on_stage(up) as stage:
        _, body = stage.stream(endpoint, ASK[endpoint])
    assert body == whole
    assert stage.trace().outcome == Outcome.COMPLETE


@pytest.mark.parametrize("endpoint", ALL)
def test_every_field_goes_up_as_it_came_and_only_the_model_is_set(endpoint: Endpoint) -> None:
    asked = {**ASK[endpoint], "a_field_of_tomorrow": {"deep": [1, None, "ü"]}, "temperature": None}
    with (
        Upstream([speaks(endpoint)]).running() as up,
        on_stage(up, options={"service_tier": "flex", "max_tokens": 9, "user": "us"}) as stage,
    ):
        stage.post(endpoint, asked)
    expected = dict(asked)
    if endpoint != "embeddings":
        expected |= {"service_tier": "flex"}
    if endpoint != "messages":
        expected |= {"user": "us"}  # and the client's own max_tokens wins over the option
    assert up.requests[0] == expected


def test_the_key_goes_where_each_protocol_wants_it_and_no_header_of_the_client_does() -> None:
    script = [speaks("responses"), speaks("messages")]
    headers = {
        "authorization": "Bearer sk-client",
        "x-api-key": "sk-client",
        "x-forwarded-host": "evil.example",
        "anthropic-beta": "files-api-2025-04-14",
        "anthropic-version": "2023-01-01",
    }
    with Upstream(script).running() as up, on_stage(up) as stage:
        stage.post("responses", ASK["responses"], headers=headers)
        stage.post("messages", ASK["messages"], headers=headers)
        stage.post("messages", ASK["messages"])
    openai, anthropic, plain = up.headers
    assert openai["authorization"] == f"Bearer {SECRET}"
    assert not {"x-api-key", "anthropic-beta", "anthropic-version"} & openai.keys()
    assert (anthropic["x-api-key"], anthropic.get("authorization")) == (SECRET, None)
    assert (anthropic["anthropic-version"], anthropic["anthropic-beta"]) == ("2023-01-01", "files-api-2025-04-14")
    assert plain["anthropic-version"] == "2023-06-01"
    assert "anthropic-beta" not in plain
    assert not any("sk-client" in value or "evil" in value for asked in up.headers for value in asked.values())


@pytest.mark.parametrize(
    ("endpoint", "usage"),
    [
        ("embeddings", Usage(7, 0, UsageSource.PROVIDER)),
        ("responses", Usage(21, 9, UsageSource.PROVIDER, cached_input_tokens=8, reasoning_tokens=2)),
        ("messages", Usage(142, 4, UsageSource.PROVIDER, cached_input_tokens=100, cache_write_tokens=30)),
    ],
)
def test_the_trace_counts_tokens_as_the_provider_does_in_plain_answers_and_streams(
    endpoint: Endpoint, usage: Usage
) -> None:
    with Upstream([speaks(endpoint)]).running() as up, on_stage(up) as stage:
        stage.post(endpoint, ASK[endpoint])
        if endpoint != "embeddings":
            stage.stream(endpoint, ASK[endpoint])
    n = 1 if endpoint == "embeddings" else 2
    assert [trace.usage for trace in stage.traces(n)] == [usage] * n


def test_the_payload_holds_what_was_said_but_no_vectors() -> None:
    with Upstream([speaks(e) for e in ALL]).running() as up, on_stage(up) as stage:
        for endpoint in ALL:
            stage.post(endpoint, ASK[endpoint])
    embeddings, response, message = [trace.payload for trace in stage.traces(3)]
    assert embeddings is not None
    assert response is not None
    assert message is not None
    assert embeddings.response == {"n_embeddings": 1}
    assert embeddings.parameters == {"input": "hello", "encoding_format": "base64"}
    assert response.request_messages == message.request_messages == ({"role": "user", "content": "hello"},)
    assert response.response == {"output": RESPONSE["output"]}
    assert message.response == {"role": "assistant", "content": MESSAGE["content"]}
    assert message.parameters == {"max_tokens": 50}


def test_a_streamed_message_with_a_tool_call_is_put_together_for_the_trace() -> None:
    stream = events_of("messages")
    tool: list[dict[str, Any]] = [
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"ci'}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": 'ty":1}'}},
        {"type": "content_block_stop", "index": 1},
    ]
    stream[6:6] = [event(value) for value in tool]
    with Upstream([sends(stream)]).running() as up, on_stage(up) as stage:
        stage.stream("messages", ASK["messages"])
        payload = stage.trace().payload
    assert payload is not None
    assert payload.response == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Paris is lovely"},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": 1}},
        ],
    }


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize("endpoint", STREAMED)
def test_a_stream_that_breaks_off_ends_with_one_error_event_of_its_protocol(endpoint: Endpoint, then: str) -> None:
    whole = events_of(endpoint)
    half = [*whole[:-2], whole[-2][:-9]]  # the last one stops in the middle
    with Upstream([sends(half, then=then)]).running() as up, on_stage(up) as stage:
        _, body = stage.stream(endpoint, ASK[endpoint])
    sent = b"".join(whole[:-2])
    assert body.startswith(sent)
    name, data = body.removeprefix(sent).decode().rstrip("\n").split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert error["type"] == "error"
    if endpoint == "messages":
        assert error["error"]["type"] == "api_error"
        assert error["request_id"] == stage.trace().trace_id
    else:
        assert (error["code"], error["sequence_number"]) == ("provider_cut", len(whole) - 2)
        assert error["error"]["code"] == "provider_cut"
    trace = stage.trace()
    assert (trace.outcome, trace.error_code) == (Outcome.PROVIDER_CUT, "provider_cut")
    assert trace.usage.source is UsageSource.ESTIMATED
    assert trace.payload is not None
    assert "Paris" in json.dumps(trace.payload.response)


def in_two(first: list[bytes], rest: list[bytes], go_on: threading.Event) -> Behaviour:
    """A stream that stops until `go_on` is set."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        await exchange.chunk(b"".join(first))
        await asyncio.to_thread(go_on.wait, 10)
        await exchange.chunk(b"".join(rest))
        await exchange.end()

    return behave


@pytest.mark.parametrize(
    ("endpoint", "broken"),
    [
        ("responses", b'data: {"type": "response.output_text.delta", "delta"\n\n'),
        ("messages", b"data: [1, 2]\n\n"),
        ("messages", b"this is no field\n\n"),
    ],
)
def test_a_malformed_event_is_not_passed_on(endpoint: Endpoint, broken: bytes) -> None:
    good, go_on = events_of(endpoint), threading.Event()
    script = [in_two(good[:1], [good[1], broken, *good[2:]], go_on)]
    with Upstream(script).running() as up, on_stage(up) as stage:
        first, rest = stage.stream_in_two(endpoint, ASK[endpoint], go_on)
    assert first == good[0]
    assert rest.startswith(good[1] + b"event: error\n")
    assert rest.count(b"event:") == 2
    assert stage.trace().outcome == Outcome.PROVIDER_CUT


@pytest.mark.parametrize("endpoint", STREAMED)
def test_a_stream_that_breaks_before_anything_went_out_is_tried_again(endpoint: Endpoint) -> None:
    broken = b"".join([events_of(endpoint)[0], b"data: nonsense\n\n"])
    with Upstream([sends([broken]), speaks(endpoint)]).running() as up, on_stage(up) as stage:
        status, body = stage.stream(endpoint, ASK[endpoint])
    assert (status, body) == (200, b"".join(events_of(endpoint)))


def test_an_error_within_a_stream_keeps_its_type_and_not_its_words() -> None:
    reported = {"type": "error", "error": {"type": "overloaded_error", "message": f"host 10.0.0.1 {SECRET}"}}
    go_on = threading.Event()
    script = [in_two(events_of("messages")[:1], [event(reported)], go_on)]
    with Upstream(script).running() as up, on_stage(up) as stage:
        _, rest = stage.stream_in_two("messages", ASK["messages"], go_on)
    assert json.loads(rest.split(b"data: ")[1])["error"]["type"] == "overloaded_error"
    assert b"10.0.0.1" not in rest
    assert stage.trace().error_code == "provider_overloaded"


def test_a_response_that_failed_is_passed_on_and_recorded_as_a_failure() -> None:
    failed = {**RESPONSE, "status": "failed", "output": [], "error": {"code": "server_error", "message": "no"}}
    stream = [*events_of("responses")[:2], event({"type": "response.failed", "sequence_number": 2, "response": failed})]
    with Upstream([sends(stream)]).running() as up, on_stage(up) as stage:
        _, body = stage.stream("responses", ASK["responses"])
    assert body == b"".join(stream)
    assert (stage.trace().outcome, stage.trace().error_code) == (Outcome.PROVIDER_ERROR, "provider_error")


@pytest.mark.parametrize(
    ("endpoint", "change", "outcome", "reason"),
    [
        ("messages", {"stop_reason": "max_tokens"}, Outcome.TRUNCATED, "max_tokens"),
        ("messages", {"stop_reason": "refusal"}, Outcome.CONTENT_FILTERED, "refusal"),
        ("messages", {"stop_reason": "tool_use"}, Outcome.COMPLETE, "tool_use"),
        (
            "responses",
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            Outcome.TRUNCATED,
            "max_output_tokens",
        ),
        (
            "responses",
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            Outcome.CONTENT_FILTERED,
            "content_filter",
        ),
    ],
)
def test_an_answer_that_is_not_all_there_is_is_not_called_complete(
    endpoint: Endpoint, change: dict[str, Any], outcome: Outcome, reason: str
) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.json(200, {**ANSWER[endpoint], **change})

    with Upstream([behave]).running() as up, on_stage(up) as stage:
        assert stage.post(endpoint, ASK[endpoint]).status_code == 200
    assert (stage.trace().outcome, stage.trace().finish_reason) == (outcome, reason)


@pytest.mark.parametrize(
    "broken", [page(), resets, fails(500), fails(529), sends([], content_type="application/json"), fails(429)]
)
@pytest.mark.parametrize("endpoint", ALL)
def test_a_plain_failure_is_tried_again(endpoint: Endpoint, broken: Behaviour) -> None:
    with Upstream([broken, speaks(endpoint)]).running() as up, on_stage(up) as stage:
        assert stage.post(endpoint, ASK[endpoint]).status_code == 200
    trace = stage.trace()
    assert len(up.requests) == len(trace.attempts) == 2
    assert trace.attempts[0].error_code is not None
    assert trace.outcome == Outcome.COMPLETE


@pytest.mark.parametrize("broken", [page(), resets, fails(503), sends([]), sends([b": hi\n\n"])])
@pytest.mark.parametrize("endpoint", STREAMED)
def test_a_stream_that_does_not_begin_is_tried_again(endpoint: Endpoint, broken: Behaviour) -> None:
    with Upstream([broken, speaks(endpoint)]).running() as up, on_stage(up) as stage:
        status, body = stage.stream(endpoint, ASK[endpoint])
    assert (status, body) == (200, b"".join(events_of(endpoint)))
    assert len(up.requests) == 2


def test_an_error_as_the_first_event_is_tried_again() -> None:
    reported = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    with Upstream([sends([reported]), speaks("messages")]).running() as up, on_stage(up) as stage:
        status, body = stage.stream("messages", ASK["messages"])
    assert (status, body) == (200, b"".join(events_of("messages")))


def test_a_provider_that_asks_for_a_pause_gets_it() -> None:
    script = [fails(429, extra="retry-after: 2\r\n"), speaks("messages")]
    with Upstream(script).running() as up, on_stage(up) as stage:
        assert stage.post("messages", ASK["messages"]).status_code == 200
    assert stage.pauses[0] >= 2


@pytest.mark.parametrize(
    ("upstream_status", "status", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (401, 401, "authentication_error"),
        (404, 404, "not_found_error"),
        (429, 429, "rate_limit_error"),
        (500, 502, "api_error"),
        (529, 503, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_on_messages_has_anthropics_shape(
    upstream_status: int, status: int, kind: str, *, stream: bool
) -> None:
    body = {"type": "error", "error": {"type": "its_own", "message": f"no luck with {SECRET}"}}
    script = [fails(upstream_status, body, extra="retry-after: 3\r\n")]
    with Upstream(script).running() as up, on_stage(up, max_retries=0) as stage:
        response = stage.post("messages", {**ASK["messages"], "stream": stream})
    error = response.json()
    assert response.status_code == status
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert error["request_id"] == response.headers["request-id"] == stage.trace().trace_id
    assert "no luck" in error["error"]["message"]
    assert SECRET not in response.text
    assert response.headers.get("retry-after") == ("3" if upstream_status in (429, 500, 529) else None)
    assert stage.trace().outcome == Outcome.PROVIDER_ERROR


@pytest.mark.parametrize("endpoint", ["embeddings", "responses"])
def test_an_error_elsewhere_has_openais_shape_and_the_providers_code(endpoint: Endpoint) -> None:
    with Upstream([fails(400)]).running() as up, on_stage(up) as stage:
        response = stage.post(endpoint, ASK[endpoint])
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "openai: upstream says 400",
        "type": "some_type",
        "param": None,
        "code": "some_code",
    }
    assert len(up.requests) == 1


@pytest.mark.parametrize("endpoint", ALL)
def test_an_unknown_model_is_told_which_there_are(endpoint: Endpoint) -> None:
    with Upstream([speaks(endpoint)]).running() as up, on_stage(up) as stage:
        response = stage.post(endpoint, {**ASK[endpoint], "model": "nothing"})
    assert response.status_code == 404
    assert "claude, embedder, gpt" in response.json()["error"]["message"]
    assert (stage.trace().outcome, stage.trace().error_code) == (Outcome.REJECTED, "model_not_found")
    assert up.requests == []


@pytest.mark.parametrize("endpoint", ALL)
def test_a_template_is_sent_to_chat(endpoint: Endpoint) -> None:
    with Upstream([speaks(endpoint)]).running() as up, on_stage(up) as stage:
        response = stage.post(endpoint, {**ASK[endpoint], "model": "support"})
    assert response.status_code == 400
    assert "/v1/chat/completions" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("endpoint", "body", "words"),
    [
        ("responses", b"{nonsense", "valid JSON"),
        ("responses", b"[]", "JSON object"),
        ("messages", b"{}", "`model`"),
        ("messages", b'{"model": "claude", "stream": "yes"}', "`stream`"),
        ("embeddings", b'{"model": "embedder", "stream": true}', "no streams"),
        ("responses", b'{"model": "gpt", "background": true}', "`background`"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_and_counted(endpoint: Endpoint, body: bytes, words: str) -> None:
    with Upstream([hangs]).running() as up, on_stage(up) as stage, stage.client() as client:
        response = client.post(f"/v1/{endpoint}", content=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
    trace = stage.trace()
    assert (trace.outcome, trace.endpoint, trace.store) == (Outcome.REJECTED, endpoint, StoreMode.NONE)
    assert response.headers["x-request-id"] == trace.trace_id


def test_a_header_that_names_no_feature_is_refused() -> None:
    with Upstream([hangs]).running() as up, on_stage(up) as stage:
        response = stage.post("messages", ASK["messages"], headers={"anthropic-beta": "x" * 2000})
    assert response.status_code == 400
    assert "anthropic-beta" in response.json()["error"]["message"]
    assert up.requests == []


class Counted(OpenAdmission):
    """An admission that covers the model `gpt` only, and remembers how it was settled."""

    key_id = "key-1"
    store = StoreMode.METRICS

    def __init__(self) -> None:
        self.settled: list[int] = []

    def check(self, *, template_id: str | None, model: str) -> None:
        if model != "gpt":
            raise ForbiddenError(f"The key may not use {model}.", param="model")

    def settle(self, *, tokens: int, cost_usd: float | None) -> None:
        self.settled.append(tokens)


def test_a_key_is_held_to_its_models_and_charged_once() -> None:
    admissions: list[Counted] = []

    def admit(headers: object) -> Counted:
        admissions.append(Counted())
        return admissions[-1]

    with Upstream([speaks("responses")]).running() as up, on_stage(up, admit=admit) as stage:
        forbidden = stage.post("messages", ASK["messages"])
        stage.post("responses", ASK["responses"])
        stage.stream("responses", ASK["responses"])
        stage.post("responses", {"model": "gpt", "background": True})
    assert (forbidden.status_code, forbidden.json()["error"]["type"]) == (403, "permission_error")
    assert [admission.settled for admission in admissions] == [[0], [30], [30], [0]]
    assert {trace.key_id for trace in stage.traces(4)} == {"key-1"}
    assert stage.traces(4)[1].store is StoreMode.METRICS
    assert len(up.requests) == 2


@pytest.mark.parametrize("endpoint", list(ASK))
def test_a_client_with_a_key_is_not_told_what_others_may_ask_for(endpoint: Endpoint) -> None:
    with Upstream([hangs]).running() as up:
        with on_stage(up, admit=lambda headers: Counted()) as stage:
            keyed = stage.post(endpoint, {**ASK[endpoint], "model": "gpt-9"})
        with on_stage(up) as stage:
            open_to_all = stage.post(endpoint, {**ASK[endpoint], "model": "gpt-9"})
    assert (keyed.status_code, open_to_all.status_code) == (404, 404)
    assert "You can ask for: " in open_to_all.json()["error"]["message"]
    assert "You can ask for: " not in keyed.json()["error"]["message"]


def test_nobody_gets_in_without_a_key_and_anthropics_clients_can_read_why() -> None:
    def admit(headers: object) -> Counted:
        raise UnauthorizedError("Send a key.")

    with Upstream([hangs]).running() as up, on_stage(up, admit=admit) as stage:
        messages = stage.post("messages", ASK["messages"])
        embeddings = stage.post("embeddings", ASK["embeddings"])
    assert (messages.status_code, messages.json()["error"]["type"]) == (401, "authentication_error")
    assert (embeddings.status_code, embeddings.json()["error"]["code"]) == (401, "invalid_api_key")


def test_the_providers_rate_limit_holds_here_too() -> None:
    bucket = TokenBucket(1 / 60, 1)
    with Upstream([speaks("responses")]).running() as up, on_stage(up, rate_limits={"openai": bucket}) as stage:
        assert stage.post("responses", ASK["responses"]).status_code == 200
        limited = stage.post("responses", ASK["responses"])
    assert limited.status_code == 429
    assert int(limited.headers["retry-after"]) > 30
    assert limited.json()["error"]["code"] == RateLimitedError.code
    assert len(up.requests) == 1


def test_a_provider_that_says_nothing_is_given_up_at_the_deadline() -> None:
    with Upstream([hangs]).running() as up, on_stage(up, timeout_s=0.3) as stage:
        assert stage.post("messages", ASK["messages"]).status_code == 504
        eventually(lambda: up.hang_ups == 1)
    assert stage.trace().attempts[0].error_code == "provider_timeout"


async def only_comments(exchange: Exchange) -> None:
    """Alive, but it never begins to answer."""
    await exchange.head(200, "text/event-stream")
    while not exchange.hung_up.is_set():
        await exchange.chunk(b": wait\n\n")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("endpoint", STREAMED)
def test_comments_are_no_answer_and_do_not_put_off_the_limit_for_the_first_event(endpoint: Endpoint) -> None:
    with (
        Upstream([only_comments, speaks(endpoint)]).running() as up,
        on_stage(up, providers=impatient, timeout_s=30) as stage,
    ):
        status, body = stage.stream(endpoint, ASK[endpoint])
        eventually(lambda: up.hang_ups == 1)
    assert (status, body) == (200, b"".join(events_of(endpoint)))
    first, second = stage.trace().attempts
    assert (first.error_code, second.error_code) == ("provider_timeout", None)
    assert 0.5 <= first.latency_s < 10


def test_comments_between_events_keep_a_stream_alive() -> None:
    whole = events_of("messages")

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        await exchange.chunk(whole[0])
        for _ in range(14):
            await exchange.chunk(b": wait\n\n")
            await asyncio.sleep(0.05)
        await exchange.chunk(b"".join(whole[1:]))
        await exchange.end()

    with Upstream([behave]).running() as up, on_stage(up, providers=impatient) as stage:
        stage.stream("messages", ASK["messages"])
    assert stage.trace().outcome == Outcome.COMPLETE


def test_a_stream_that_stalls_ends_at_the_deadline_with_an_error() -> None:
    script = [sends(events_of("messages")[:3], then="stall")]
    with Upstream(script).running() as up, on_stage(up, timeout_s=0.5) as stage:
        _, body = stage.stream("messages", ASK["messages"])
        eventually(lambda: up.hang_ups == 1)
    assert b'"timeout_error"' in body
    assert (stage.trace().outcome, stage.trace().error_code) == (Outcome.PROVIDER_CUT, "provider_timeout")


@pytest.mark.parametrize("endpoint", STREAMED)
def test_a_client_that_leaves_a_stream_ends_the_upstream_call(endpoint: Endpoint) -> None:
    script = [sends(events_of(endpoint)[:4], then="stall")]
    with Upstream(script).running() as up, on_stage(up, timeout_s=30) as stage, stage.client() as client:
        with client.stream("POST", f"/v1/{endpoint}", json={**ASK[endpoint], "stream": True}) as response:
            next(response.iter_raw())
        eventually(lambda: up.hang_ups == 1)
        assert stage.trace().outcome == Outcome.CLIENT_CANCELLED
        assert stage.health(stage.trace().attempts[0].combination_id).success_rate is None
        usage = stage.trace().usage
    assert usage.source is UsageSource.ESTIMATED
    assert usage.input_tokens is not None
    assert usage.input_tokens > 0


def test_a_client_that_leaves_a_plain_call_ends_the_upstream_call() -> None:
    with Upstream([hangs]).running() as up, on_stage(up, timeout_s=30) as stage:
        with stage.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/embeddings", json=ASK["embeddings"], timeout=1)
        eventually(lambda: up.hang_ups == 1)
        assert stage.trace().outcome == Outcome.CLIENT_CANCELLED


def _many(stage: Stage, n: int) -> None:
    for _ in range(n):
        stage.stream("messages", ASK["messages"])


def test_the_upstream_connection_is_used_again_after_a_stream() -> None:
    ports: set[int] = set()
    whole = speaks("messages")

    async def behave(exchange: Exchange) -> None:
        ports.add(exchange.writer.get_extra_info("peername")[1])
        await whole(exchange)

    with Upstream([behave]).running() as up, on_stage(up) as stage:
        _many(stage, 5)
    assert len(ports) == 1

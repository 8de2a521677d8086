"""A request's whole path over real sockets: what the client saw, what the upstream was asked, what the trace says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rs_gateway.domain.prompts import Demo, PromptText
from rs_gateway.domain.publication import Action, Change
from tests import upstream as wire
from tests.running import ORIGIN, RunningGateway, eventually, register, running_gateway
from tests.upstream import Behaviour, Exchange, Upstream

HELP = {
    "model": "gpt-4",
    "messages": [{"role": "user", "content": "Help me"}],
    "variables": {"customer_name": "Jordan"},
}


def configuration(*upstreams: Upstream, strategy: str = "round_robin", **api: Any) -> dict[str, Any]:
    names = [f"p{i}" for i in range(1, len(upstreams) + 1)]
    return {
        "model_providers": {
            name: {"base_url": u.base_url, "kind": "openai_compatible", "models": [f"raw-{name}"]}
            for name, u in zip(names, upstreams, strict=True)
        },
        "gateway": {
            "strategy": strategy,
            "refresh_seconds": 0.05,
            "combinations": [
                {"id": f"on-{name}", "template_id": "support", "model": "gpt-4", "provider": name} for name in names
            ],
        },
        "api": {"timeout_seconds": 30, "max_retries": 0, **api},  # the first translated request imports litellm
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    register(tmp_path)
    return tmp_path


@pytest.fixture
def calm(folder: Path) -> Iterator[tuple[RunningGateway, Upstream]]:
    """A gateway in front of one upstream that always answers "Paris is lovely"."""
    with Upstream([wire.answers("Paris is lovely")]).running() as up, running_gateway(folder, configuration(up)) as gw:
        yield gw, up


def one_answer(folder: Path, *script: Behaviour, body: dict[str, Any] = HELP, **api: Any) -> tuple[httpx.Response, Any]:
    with Upstream(list(script)).running() as up, running_gateway(folder, configuration(up, **api)) as gw:
        response = gw.ask(body)
        return response, gw.traces()[0]


def one_stream(folder: Path, *script: Behaviour, **api: Any) -> tuple[int, str, Any]:
    with Upstream(list(script)).running() as up, running_gateway(folder, configuration(up, **api)) as gw:
        status, text = gw.stream(HELP)
        return status, text, gw.traces()[0]


def test_the_documented_request_of_the_original_system_works(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, upstream = calm
    response = gateway.ask(HELP)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "Paris is lovely"
    assert upstream.requests[0]["messages"] == [
        {"role": "system", "content": "You help Jordan."},
        {"role": "user", "content": "Help me"},
    ]


def test_our_own_fields_stay_here_and_everything_else_is_forwarded(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, upstream = calm
    extra = {
        "temperature": 0.3,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "response_format": {"type": "json_object"},
        "a_future_parameter": {"deep": [1, None]},
        "user": "u-1",
    }
    gateway.ask({**HELP, **extra, "metadata": {"template_id": "support", "team": "blue"}})
    sent = upstream.requests[0]
    assert {k: sent[k] for k in extra} == extra
    assert sent["metadata"] == {"team": "blue"}
    assert "variables" not in sent


def test_an_answer_says_which_trace_combination_and_version_it_was(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, _ = calm
    response = gateway.ask(HELP)
    assert response.headers["x-route-switch-combination"] == "on-p1"
    assert response.headers["x-route-switch-version"] == "1"
    assert float(response.headers["x-route-switch-overhead-ms"]) >= 0
    assert gateway.traces()[0]["trace_id"] == response.headers["x-route-switch-trace-id"]


def test_the_trace_of_a_plain_answer_is_complete(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, _ = calm
    gateway.ask({**HELP, "user": "u-1"})
    trace = gateway.traces()[0]
    assert (trace["outcome"], trace["finish_reason"], trace["template_id"], trace["version"]) == (
        "complete",
        "stop",
        "support",
        1,
    )
    assert (trace["input_tokens"], trace["output_tokens"], trace["usage_source"]) == (11, 3, "provider")
    assert trace["cost_usd"] is None
    assert trace["end_user"] == "u-1"
    assert json.loads(trace["response"])["content"] == "Paris is lovely"
    assert json.loads(trace["variables"]) == {"customer_name": "Jordan"}
    assert json.loads(trace["rendered_messages"])[0]["content"] == "You help Jordan."
    decision = json.loads(trace["decision"])
    assert decision["chosen"] == "on-p1"
    assert decision["probabilities"] == {"on-p1": 1.0}


def test_a_stream_passes_on_every_chunk_and_hides_usage_from_who_did_not_ask(
    calm: tuple[RunningGateway, Upstream],
) -> None:
    gateway, upstream = calm
    status, text = gateway.stream(HELP)
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert "prompt_tokens" not in text
    assert upstream.requests[0]["stream_options"] == {"include_usage": True}
    trace = gateway.traces()[0]
    assert json.loads(trace["response"])["content"] == "Paris is lovely"
    assert (trace["outcome"], trace["input_tokens"], trace["usage_source"]) == ("complete", 11, "provider")
    assert 0 < trace["time_to_first_token_s"] <= trace["latency_s"]


def test_a_stream_shows_usage_to_who_asked(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, _ = calm
    _, text = gateway.stream({**HELP, "stream_options": {"include_usage": True}})
    assert '"prompt_tokens":11' in text


def test_demos_go_out_as_turns_before_the_clients_messages(tmp_path: Path) -> None:
    register(tmp_path, instruction="Extract.", user="{message}", demos=(Demo("buy 3", "3"), Demo("buy 4", "4")))
    with Upstream([wire.answers("5")]).running() as up, running_gateway(tmp_path, configuration(up)) as gateway:
        gateway.ask({"model": "support", "messages": [], "variables": {"message": "buy {5}"}})
        assert [(m["role"], m["content"]) for m in up.requests[0]["messages"]] == [
            ("system", "Extract."),
            ("user", "buy 3"),
            ("assistant", "3"),
            ("user", "buy 4"),
            ("assistant", "4"),
            ("user", "buy {5}"),
        ]


def test_a_missing_variable_is_refused_by_name_and_traced_as_rejected(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, upstream = calm
    response = gateway.ask({**HELP, "variables": {}})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("missing_variables", "variables")
    assert "customer_name" in error["message"]
    assert upstream.requests == []
    assert gateway.traces()[0]["outcome"] == "rejected"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**HELP, "model": "gpt-5"}, 404, "model_not_found"),
        ({**HELP, "metadata": {"template_id": "nope"}}, 404, "model_not_found"),
        ({**HELP, "metadata": {"combination_id": "nope"}}, 404, "model_not_found"),
        ({**HELP, "messages": "hello"}, 400, "invalid_request"),
        ({**HELP, "messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_request"),
        ({**HELP, "messages": [{"role": "user", "content": 7}]}, 400, "invalid_request"),
        ({**HELP, "messages": [{"role": ["user"], "content": "x"}]}, 400, "invalid_request"),
        ({**HELP, "messages": []}, 400, "invalid_request"),
        ({**HELP, "variables": ["x"]}, 400, "invalid_request"),
        ({**HELP, "variables": {"customer_name": {}}}, 400, "invalid_request"),
        ({**HELP, "stream": "yes"}, 400, "invalid_request"),
        ({**HELP, "metadata": {"template_id": 7}}, 400, "invalid_request"),
        ({"messages": []}, 400, "invalid_request"),
        ([1, 2], 400, "invalid_request"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_in_openais_shape(
    calm: tuple[RunningGateway, Upstream], body: Any, status: int, code: str
) -> None:
    gateway, upstream = calm
    response = gateway.ask(body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert upstream.requests == []


@pytest.mark.parametrize("body", [b"{", b'{"model": "\\ud800"}', b"\xff\xfe", b"", b"[" * 100_000])
def test_malformed_json_is_a_400(calm: tuple[RunningGateway, Upstream], body: bytes) -> None:
    gateway, _ = calm
    with gateway.client() as client:
        response = client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_over_the_limit_is_refused_before_it_is_read(folder: Path) -> None:
    with Upstream([wire.answers("x")]).running() as up:
        settings = configuration(up)
        settings["gateway"]["max_body_bytes"] = 1_000

        def pieces() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 100

        with running_gateway(folder, settings) as gateway, gateway.client() as client:
            declared = client.post("/v1/chat/completions", content=b"x" * 2_000)
            chunked = client.post("/v1/chat/completions", content=pieces())
            feedback = client.post("/v1/feedback", content=b"x" * 2_000)
    assert [r.status_code for r in (declared, chunked, feedback)] == [413, 413, 413]
    assert declared.json()["error"]["code"] == "request_too_large"
    assert up.requests == []


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (wire.resets, 502, "provider_unreachable"),
        (wire.page(), 502, "provider_garbage"),
        (wire.page(b'{"choices": []}'), 502, "provider_garbage"),
        (wire.page(b'{"object": "list"}'), 502, "provider_garbage"),
        (wire.fails(500), 502, "some_code"),
        (wire.fails(503, {}), 503, "provider_overloaded"),
        (wire.fails(429), 429, "some_code"),
        (wire.fails(400), 400, "some_code"),
        (wire.fails(401), 401, "some_code"),
        (wire.fails(404), 404, "some_code"),
        (wire.fails(302, extra="location: http://127.0.0.1:9/\r\n"), 502, "provider_garbage"),
    ],
)
def test_an_upstream_that_fails_is_reported_as_what_it_is(
    folder: Path, behaviour: Behaviour, status: int, code: str
) -> None:
    response, trace = one_answer(folder, behaviour)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert trace["outcome"] == "provider_error"
    assert trace["response"] is None
    assert trace["usage_source"] == "unknown"


def test_an_upstream_that_is_down_is_a_502(folder: Path) -> None:
    with Upstream([]).running() as gone:
        settings = configuration(gone)
    with running_gateway(folder, settings) as gateway:
        response = gateway.ask(HELP)
        assert response.status_code == 502
        assert gone.base_url not in response.text
        assert gateway.traces()[0]["error_code"] == "provider_unreachable"


def test_an_upstream_that_never_answers_is_a_504_at_the_deadline(folder: Path) -> None:
    response, trace = one_answer(folder, wire.hangs, timeout_seconds=0.3)
    assert response.status_code == 504
    assert trace["error_code"] == "provider_timeout"
    assert 0.25 < trace["latency_s"] < 10


def test_retry_after_is_passed_on_to_the_client(folder: Path) -> None:
    response, _ = one_answer(folder, wire.fails(429, extra="retry-after: 7\r\n"))
    assert response.headers["retry-after"] == "7"


def test_a_failing_upstream_is_tried_again(folder: Path) -> None:
    response, trace = one_answer(folder, wire.resets, wire.fails(500), wire.answers("ok"), max_retries=2)
    assert response.status_code == 200
    attempts = json.loads(trace["attempts"])
    assert [a["error_code"] for a in attempts] == ["provider_unreachable", "provider_overloaded", None]


def test_a_refused_request_is_not_tried_again(folder: Path) -> None:
    _, trace = one_answer(folder, wire.fails(400), wire.answers("never"), max_retries=2)
    assert len(json.loads(trace["attempts"])) == 1


def test_an_answer_cut_by_its_length_is_recorded_as_truncated(folder: Path) -> None:
    _, trace = one_answer(folder, wire.answers("half", finish_reason="length"))
    assert trace["outcome"] == "truncated"


def test_a_fallback_answers_with_its_own_version(tmp_path: Path) -> None:
    registry = register(tmp_path, instruction="One for {customer_name}.")
    second = PromptText("Two for {customer_name}.")
    registry.add_version("support", second, model="small", origin=ORIGIN)
    registry.make_live("support", Change(Action.PUBLISH, 2, "small", "tester", ORIGIN.at, "a test", previous=1))
    with Upstream([wire.fails(500)]).running() as bad, Upstream([wire.answers("ok")]).running() as good:
        settings = configuration(bad, good)
        settings["gateway"]["combinations"][0]["fallbacks"] = ["on-p2"]
        settings["gateway"]["combinations"][1]["model"] = "small"
        with running_gateway(tmp_path, settings) as gateway:
            response = gateway.ask(HELP)
            trace = gateway.traces()[0]
    assert response.status_code == 200
    assert response.headers["x-route-switch-combination"] == "on-p2"
    assert good.requests[0]["messages"][0]["content"] == "Two for Jordan."
    assert good.requests[0]["model"] == "small"
    assert (trace["combination_id"], trace["version"]) == ("on-p2", 2)


def test_a_stream_that_fails_before_its_first_chunk_falls_back_unseen(folder: Path) -> None:
    with (
        Upstream([wire.sends([], then="cut")]).running() as bad,
        Upstream([wire.answers("all good")]).running() as good,
        running_gateway(folder, configuration(bad, good)) as gateway,
    ):
        status, text = gateway.stream(HELP)
        trace = gateway.traces()[0]
    assert status == 200
    assert "error" not in text
    assert trace["outcome"] == "complete"
    assert trace["combination_id"] == "on-p2"


HALF = [wire.chunk({"role": "assistant", "content": "Par"}), wire.chunk({"content": "is"})]


@pytest.mark.parametrize(
    "behaviour",
    [
        wire.sends(HALF, then="cut"),
        wire.sends(HALF, then="end"),
        wire.sends([*HALF, wire.chunk({}, finish_reason="stop")], then="end"),
        wire.sends([*HALF, wire.DONE], then="end"),
        wire.sends([*HALF, b"data: {nonsense\n\n"], then="end"),
        wire.sends([*HALF, b"<html>\n\n"], then="end"),
        wire.sends([*HALF, b'data: {"error": {"message": "overloaded"}}\n\n'], then="end"),
        wire.sends(HALF, then="stall"),
    ],
    ids=["cut", "no-done", "finish-but-no-done", "done-but-no-finish", "bad-json", "html", "error-event", "stall"],
)
def test_a_broken_stream_ends_in_an_error_and_is_never_delivered_as_whole(folder: Path, behaviour: Behaviour) -> None:
    status, text, trace = one_stream(folder, behaviour, idle_timeout_seconds=0.8)
    assert status == 200
    assert "[DONE]" not in text
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert trace["outcome"] == "provider_cut"
    assert json.loads(trace["response"])["content"] == "Paris"
    assert trace["usage_source"] == "estimated"


@pytest.mark.parametrize(
    "behaviour",
    [wire.page(), wire.sends([wire.DONE]), wire.sends([], then="end"), wire.fails(500)],
    ids=["html", "done-only", "empty", "500"],
)
def test_a_stream_that_never_began_is_an_ordinary_error(folder: Path, behaviour: Behaviour) -> None:
    status, text, trace = one_stream(folder, behaviour)
    assert status == 502
    assert "error" in json.loads(text)
    assert trace["outcome"] in ("provider_error", "provider_cut")


def test_text_split_inside_a_character_arrives_whole(folder: Path) -> None:
    event = wire.chunk({"content": "grüße 🎈"})
    pieces = [event[i : i + 1] for i in range(len(event))]
    _, text, trace = one_stream(folder, wire.sends([*pieces, wire.chunk({}, finish_reason="stop"), wire.DONE]))
    assert "grüße 🎈" in text
    assert json.loads(trace["response"])["content"] == "grüße 🎈"


def test_a_chunk_that_came_on_several_lines_goes_out_on_one(folder: Path) -> None:
    split = wire.chunk({"content": "Paris"}).replace(b'"choices":', b'\ndata: "choices":')
    _, text, trace = one_stream(folder, wire.sends([split, wire.chunk({}, finish_reason="stop"), wire.DONE]))
    assert all(line.startswith("data: ") for line in text.split("\n") if line)
    assert json.loads(trace["response"])["content"] == "Paris"


def test_odd_shapes_in_a_stream_cost_nobody_the_answer_or_the_trace(folder: Path) -> None:
    events = [
        b"data:\n\n",
        wire.chunk({"content": [{"type": "text", "text": "Par"}]}),
        wire.chunk({"content": "is", "tool_calls": [{"index": "x", "function": {"name": "f", "arguments": {"a": 1}}}]}),
        wire.chunk({"tool_calls": [{"index": "x", "function": "odd"}, 7]}, finish_reason="stop"),
        wire.USAGE_CHUNK.replace(b"11", b"99999999999999999999").replace(b":3,", b':"3",'),
        wire.DONE,
    ]
    _, text, trace = one_stream(folder, wire.sends(events))
    assert text.endswith("data: [DONE]\n\n")
    assert json.loads(trace["response"])["content"] == "Paris"
    assert json.loads(trace["response"])["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert (trace["outcome"], trace["usage_source"]) == ("complete", "estimated")


def test_a_stream_refused_with_an_unreadable_body_is_still_a_provider_error(folder: Path) -> None:
    async def unreadable(exchange: wire.Exchange) -> None:
        await exchange.head(503, "application/json", length=10, extra="content-encoding: gzip\r\n")
        await exchange.send(b"not gzip!!")

    status, text, trace = one_stream(folder, unreadable)
    assert status in (502, 503)
    assert "error" in json.loads(text)
    assert trace["error_code"].startswith("provider_")


def test_streamed_tool_calls_are_put_together_in_the_trace(folder: Path) -> None:
    def call(**fields: Any) -> bytes:
        return wire.chunk({"tool_calls": [{"index": 0, **fields}]})

    events = [
        call(id="c1", type="function", function={"name": "weather", "arguments": ""}),
        call(function={"arguments": '{"city":'}),
        call(function={"arguments": '"Oslo"}'}),
        wire.chunk({}, finish_reason="tool_calls"),
        wire.DONE,
    ]
    _, _, trace = one_stream(folder, wire.sends(events))
    assert trace["outcome"] == "complete"
    assert json.loads(trace["response"])["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    ]


def test_a_client_that_leaves_a_stream_cancels_the_upstream_call(folder: Path) -> None:
    behaviour = wire.sends(HALF, then="stall")
    with Upstream([behaviour]).running() as up, running_gateway(folder, configuration(up)) as gateway:
        with (
            gateway.client() as client,
            client.stream("POST", "/v1/chat/completions", json={**HELP, "stream": True}) as response,
        ):
            next(response.iter_text())
        eventually(lambda: up.hang_ups == 1, timeout_s=20)  # the deadline would take longer
        trace = gateway.traces()[0]
    assert trace["outcome"] == "client_cancelled"
    assert trace["usage_source"] == "estimated"


def test_a_client_that_gives_up_on_a_plain_call_cancels_the_upstream_call(folder: Path) -> None:
    with Upstream([wire.hangs]).running() as up, running_gateway(folder, configuration(up)) as gateway:
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=gateway.url, timeout=1) as client:
            client.post("/v1/chat/completions", json=HELP)
        eventually(lambda: up.hang_ups == 1, timeout_s=20)  # the deadline would take longer
        assert gateway.traces()[0]["outcome"] == "client_cancelled"


def test_round_robin_takes_turns_and_weights_are_kept_exactly(folder: Path) -> None:
    with Upstream([wire.answers("a")]).running() as a, Upstream([wire.answers("b")]).running() as b:
        with running_gateway(folder, configuration(a, b)) as gateway:
            turns = [gateway.ask(HELP).headers["x-route-switch-combination"] for _ in range(4)]
        assert turns == ["on-p1", "on-p2", "on-p1", "on-p2"]
        weighted = configuration(a, b, strategy="weighted")
        weighted["gateway"]["combinations"][0]["weight"] = 3
        with running_gateway(folder, weighted) as gateway:
            turns = [gateway.ask(HELP).headers["x-route-switch-combination"] for _ in range(8)]
        assert turns.count("on-p1") == 6


def test_a_model_without_a_template_is_passed_through_unrendered(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, upstream = calm
    gateway.ask({"model": "raw-p1", "messages": [{"role": "user", "content": "hi {x}"}]})
    assert upstream.requests[0]["messages"] == [{"role": "user", "content": "hi {x}"}]
    trace = gateway.traces()[0]
    assert (trace["template_id"], trace["version"], trace["combination_id"]) == (None, None, "p1/raw-p1")


def test_an_upstream_key_never_reaches_a_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P1_API_KEY", "sk-very-secret")
    leak = {"error": {"message": "Incorrect API key provided: sk-very-secret", "code": "invalid_api_key"}}
    response, _ = one_answer(folder, wire.fails(401, leak))
    assert "sk-very-secret" not in response.text
    assert "Incorrect API key" in response.text


def test_a_client_cannot_choose_where_a_request_goes(calm: tuple[RunningGateway, Upstream]) -> None:
    gateway, upstream = calm
    body = {**HELP, "base_url": "http://127.0.0.1:9/", "api_base": "http://127.0.0.1:9/", "provider": "evil"}
    assert gateway.ask(body, headers={"x-base-url": "http://127.0.0.1:9/"}).status_code == 200
    assert len(upstream.requests) == 1


def test_a_whole_stream_from_an_upstream_that_ends_it_by_hanging_up_is_complete_and_nobody_left(
    tmp_path: Path,
) -> None:
    async def unframed(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        choice = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
        chunk = {"id": "c", "model": "m", "choices": [choice]}
        await exchange.send(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
        await exchange.hung_up.wait()

    with Upstream([unframed]).running() as upstream:
        provider = {"base_url": upstream.base_url, "models": ["m"]}
        with running_gateway(tmp_path, {"model_providers": {"p": provider}}) as gateway:
            status, text = gateway.stream({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
            assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)
            (trace,) = gateway.traces()
    assert (trace["outcome"], trace["error_code"]) == ("complete", None)

"""Answers in an output format: the client gets them bare, whole or streamed; what is not in it goes out as it came."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.delivery import delivered_completion, delivered_stream
from rs_gateway.domain.output_formats import OutputFormat, write
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.publication import Action, Change
from tests import upstream as wire
from tests.gateway.test_chat import HELP, configuration
from tests.running import ORIGIN, RunningGateway, eventually, register, running_gateway
from tests.upstream import Behaviour, Upstream

BARE, LABELLED, JSON = OutputFormat
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@contextmanager
def serving(folder: Path, output: OutputFormat, *script: Behaviour) -> Generator[RunningGateway]:
    register(folder, output=output)
    with Upstream(list(script)).running() as upstream, running_gateway(folder, configuration(upstream)) as gateway:
        yield gateway


def completion(*choices: dict[str, Any]) -> dict[str, Any]:
    return {**wire.completion(""), "choices": [{"index": n, **choice} for n, choice in enumerate(choices)]}


def said(content: Any, finish_reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish_reason}


def sends(body: Any) -> Behaviour:
    async def behave(exchange: wire.Exchange) -> None:
        await exchange.json(200, body)

    return behave


def events(text: str) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def deltas(text: str, index: int = 0) -> list[tuple[Any, Any]]:
    """What the chunks say of one choice: deltas and finish reasons."""
    chunks = [event for event in events(text) if event != "[DONE]"]
    return [(c["delta"], c["finish_reason"]) for chunk in chunks for c in chunk["choices"] if c["index"] == index]


def test_a_plain_answer_is_bare_and_the_trace_keeps_what_the_model_said(tmp_path: Path) -> None:
    with serving(tmp_path, JSON, wire.answers('Sure: {"answer": "Paris is lovely"}')) as gateway:
        body = gateway.ask(HELP).json()
        (trace,) = gateway.traces()
    expected = wire.completion("Paris is lovely")
    assert body == expected
    assert json.loads(trace["response"])["content"] == 'Sure: {"answer": "Paris is lovely"}'
    assert (trace["parsed"], trace["outcome"]) == (1, "complete")


def test_an_answer_that_cannot_be_parsed_is_delivered_as_it_came_and_counted(tmp_path: Path) -> None:
    with serving(tmp_path, LABELLED, wire.answers("Paris is lovely"), wire.answers("Answer: Paris")) as gateway:
        assert gateway.ask(HELP).content == json.dumps(wire.completion("Paris is lovely")).encode()
        assert gateway.ask(HELP).json()["choices"][0]["message"]["content"] == "Paris"
        assert [trace["parsed"] for trace in gateway.traces(at_least=2)] == [0, 1]
        with gateway.client() as client:
            figures = client.get("/v1/prompts/support/stats").json()["windows"]["all"]
            metrics = client.get("/metrics").text
    assert (figures["overall"]["requests"], figures["overall"]["unparsable_answers"]) == (2, 1)
    assert [version["unparsable_answers"] for version in figures["versions"]] == [1]
    (line,) = [line for line in metrics.splitlines() if line.startswith("route_switch_unparsable_answers_total")]
    assert line.endswith(" 1.0")


def test_a_bare_version_is_not_looked_into(tmp_path: Path) -> None:
    with serving(tmp_path, BARE, wire.answers("Answer: Paris")) as gateway:
        assert gateway.ask(HELP).content == json.dumps(wire.completion("Answer: Paris")).encode()
        assert gateway.traces()[0]["parsed"] is None


@pytest.mark.parametrize(
    "choice",
    [
        said(None, "tool_calls", tool_calls=[CALL]),
        said("Answer: x", "tool_calls", tool_calls=[CALL]),
        said(None, refusal="no"),
        said("Answer: x", refusal="no"),
        said([{"type": "text", "text": "Answer: x"}]),
        said("Answer: x and so", "length"),
        said("Answer: x", "content_filter"),
        said("Answer: x", None),
    ],
    ids=["tools", "tools and text", "refusal", "refusal and text", "parts", "truncated", "filtered", "unvouched"],
)
def test_what_is_no_whole_text_passes_untouched(tmp_path: Path, choice: dict[str, Any]) -> None:
    with serving(tmp_path, LABELLED, sends(completion(choice))) as gateway:
        assert gateway.ask(HELP).content == json.dumps(completion(choice)).encode()
        assert gateway.traces()[0]["parsed"] is None


def test_of_several_choices_each_is_parsed_by_itself(tmp_path: Path) -> None:
    answers = [said("Answer: one"), said("two"), said(None, "tool_calls", tool_calls=[CALL])]
    with serving(tmp_path, LABELLED, sends(completion(*answers)), sends(completion(*answers[::2]))) as gateway:
        choices = gateway.ask({**HELP, "n": 3}).json()["choices"]
        gateway.ask({**HELP, "n": 2})
        traces = gateway.traces(at_least=2)
    assert [choice["message"]["content"] for choice in choices] == ["one", "two", None]
    assert choices[2]["message"]["tool_calls"] == [CALL]
    assert [trace["parsed"] for trace in traces] == [0, 1]


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_held_and_sent_as_role_answer_and_end(tmp_path: Path, usage: bool) -> None:
    with serving(tmp_path, JSON, wire.answers('Well {"answer": "Paris is lovely"}')) as gateway:
        status, text = gateway.stream({**HELP, "stream_options": {"include_usage": usage}})
        (trace,) = gateway.traces()
    assert status == 200
    chunks = events(text)
    assert chunks.pop() == "[DONE]"
    if usage:
        assert chunks.pop()["usage"]["prompt_tokens"] == 11
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Paris is lovely"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("chatcmpl-1", 1_700_000_000, "model-v1")
    }
    assert json.loads(trace["response"])["content"] == 'Well {"answer": "Paris is lovely"}'
    assert (trace["parsed"], trace["outcome"], trace["input_tokens"]) == (1, "complete", 11)
    assert 0 < trace["time_to_first_token_s"] <= trace["latency_s"]


@pytest.mark.parametrize(
    ("script", "parsed"),
    [
        (wire.streams(["Paris", "is", "lovely"]), 0),
        (wire.streams(["Answer:", "Par"], finish_reason="length"), None),
        (
            wire.sends(
                [
                    wire.chunk({"role": "assistant", "content": "Answer: x"}),
                    wire.chunk({"tool_calls": [{"index": 0, **CALL}]}),
                    wire.chunk({}, finish_reason="tool_calls"),
                    wire.DONE,
                ]
            ),
            None,
        ),
    ],
    ids=["unparsable", "truncated", "tools"],
)
def test_a_stream_that_is_no_answer_in_the_format_goes_out_as_it_came(
    tmp_path: Path, script: Behaviour, parsed: int | None
) -> None:
    with serving(tmp_path / "held", LABELLED, script) as gateway:
        held = gateway.stream(HELP)
        assert gateway.traces()[0]["parsed"] == parsed
    with serving(tmp_path / "bare", BARE, script) as gateway:
        assert held == gateway.stream(HELP)


@pytest.mark.parametrize("then", ["cut", "end"])
def test_a_stream_that_breaks_off_ends_with_an_error_event_and_without_done(tmp_path: Path, then: str) -> None:
    pieces = [wire.chunk({"role": "assistant", "content": "Answer:"}), wire.chunk({"content": " Par"})]
    with serving(tmp_path, LABELLED, wire.sends(pieces, then=then)) as gateway:
        _, text = gateway.stream(HELP)
        (trace,) = gateway.traces()
    *chunks, error = events(text)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Answer: Par"
    assert error["error"]["code"] == "provider_cut"
    assert (trace["outcome"], trace["parsed"]) == ("provider_cut", None)


def test_of_several_streamed_choices_each_is_parsed_by_itself(tmp_path: Path) -> None:
    def piece(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        value = json.loads(wire.chunk(delta, finish_reason=finish_reason).removeprefix(b"data: "))
        value["choices"][0]["index"] = index
        return b"data: " + json.dumps(value).encode() + b"\n\n"

    pieces = [
        *(piece(n, {"role": "assistant", "content": ""}) for n in (0, 1)),
        *(piece(0, {"content": "Answer: "}), piece(1, {"content": "two"})),
        *(piece(0, {"content": "one"}), piece(1, {}, "stop"), piece(0, {}, "stop"), wire.DONE),
    ]
    with serving(tmp_path, LABELLED, wire.sends(pieces)) as gateway:
        _, text = gateway.stream({**HELP, "n": 2})
        assert gateway.traces()[0]["parsed"] == 0
    assert deltas(text) == [({"role": "assistant", "content": ""}, None), ({"content": "one"}, None), ({}, "stop")]
    assert deltas(text, 1) == [({"role": "assistant", "content": ""}, None), ({"content": "two"}, None), ({}, "stop")]


def test_a_stream_of_one_chunk_gets_its_role_first(tmp_path: Path) -> None:
    whole = wire.chunk({"role": "assistant", "content": "Answer: Paris"}, finish_reason="stop")
    with serving(tmp_path, LABELLED, wire.sends([whole, wire.DONE])) as gateway:
        _, text = gateway.stream(HELP)
    assert deltas(text) == [({"role": "assistant", "content": "Paris"}, None), ({}, "stop")]


def test_reasoning_and_what_we_do_not_know_stay(tmp_path: Path) -> None:
    pieces = [
        wire.chunk({"role": "assistant", "reasoning_content": "hm"}),
        wire.chunk({"content": "Answer: Paris", "new": 1}),
        wire.chunk({}, finish_reason="stop"),
    ]
    with serving(tmp_path, LABELLED, wire.sends([*pieces, wire.DONE])) as gateway:
        _, text = gateway.stream(HELP)
    assert deltas(text) == [
        ({"role": "assistant", "reasoning_content": "hm", "content": ""}, None),
        ({"new": 1}, None),
        ({"content": "Paris"}, None),
        ({}, "stop"),
    ]


def test_the_version_that_answers_decides_not_the_one_that_failed(tmp_path: Path) -> None:
    registry = register(tmp_path)
    text = PromptText("In a line.", output=LABELLED)
    registry.add_version("support", text, model="second", origin=ORIGIN)
    change = Change(Action.PUBLISH, 2, "second", "ann", ORIGIN.at, "better", previous=1)
    registry.make_live("support", change)
    with Upstream([wire.fails(500), wire.answers("Answer: Paris")]).running() as upstream:
        settings = configuration(upstream)
        settings["gateway"]["combinations"] = [
            {"id": "a", "template_id": "support", "model": "gpt-4", "provider": "p1", "fallbacks": ["b"]},
            {"id": "b", "template_id": "support", "model": "second", "provider": "p1", "weight": 0},
        ]
        with running_gateway(tmp_path, settings) as gateway:
            assert gateway.ask(HELP).json()["choices"][0]["message"]["content"] == "Paris"


def test_a_client_that_leaves_a_held_stream_is_noticed(tmp_path: Path) -> None:
    first = [wire.chunk({"role": "assistant", "content": "Answer:"})]
    register(tmp_path, output=LABELLED)
    with (
        Upstream([wire.sends(first, then="stall")]).running() as upstream,
        running_gateway(tmp_path, configuration(upstream)) as gateway,
    ):
        with gateway.client() as client, client.stream("POST", "/v1/chat/completions", json={**HELP, "stream": True}):
            pass
        eventually(lambda: upstream.hang_ups == 1)
        (trace,) = gateway.traces()
    assert (trace["outcome"], trace["parsed"], trace["time_to_first_token_s"]) == ("client_cancelled", None, None)


@given(st.sampled_from([LABELLED, JSON]), st.lists(st.text(max_size=8), max_size=6), st.booleans())
def test_a_stream_says_what_the_whole_answer_says(output: OutputFormat, pieces: list[str], written: bool) -> None:
    text = write(output, "".join(pieces)) if written else "".join(pieces)
    cut = len(text) // 2
    chunks = [
        b'{"choices":[{"index":0,"delta":{"role":"assistant"},"logprobs":{},"finish_reason":null}]}',
        *(
            msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]})
            for part in (text[:cut], text[cut:])
        ),
        b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    ]
    streamed, parsed = delivered_stream(chunks, output)
    body, whole_parsed = delivered_completion(msgspec.json.encode(completion(said(text))), output)
    assert parsed == whole_parsed
    added = "".join(c["choices"][0]["delta"].get("content") or "" for c in map(msgspec.json.decode, streamed))
    assert added == msgspec.json.decode(body)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices": 7}', b'{"choices": [{"message": 7}]}'])
def test_what_is_no_answer_at_all_stays(body: bytes) -> None:
    assert delivered_completion(body, JSON) == (body, False)
    assert delivered_stream([body], JSON)[0] == [body]

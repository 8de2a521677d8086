"""Streams: what goes out is what came in, and only a complete answer looks complete."""

import json
from typing import Any

import pytest

from tests import upstream as wire
from tests.gateway.wire_wall.conftest import Wall, events
from tests.running import eventually
from tests.upstream import Behaviour, Exchange

STOP = wire.chunk({}, finish_reason="stop")
ROLE = wire.chunk({"role": "assistant", "content": ""})
WORDS = [ROLE, wire.chunk({"content": "Par"}), wire.chunk({"content": "is"})]


def pieces(data: bytes, size: int) -> Behaviour:
    """The same bytes, cut anywhere."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        for start in range(0, len(data), size):
            await exchange.chunk(data[start : start + size])
        await exchange.end()

    return behave


def test_every_chunk_is_the_upstreams_own(wall: Wall) -> None:
    sent = [*WORDS, STOP]
    _, text = wall.stream(wire.sends([*sent, wire.DONE]))
    assert events(text) == [*(json.loads(e.removeprefix(b"data: ")) for e in sent), "[DONE]"]


def test_the_role_stands_in_the_first_delta_only_and_the_id_in_all(wall: Wall) -> None:
    _, text = wall.stream(wire.streams(["a", "b", "c"]))
    chunks = events(text)[:-1]
    assert [c["choices"][0]["delta"].get("role") for c in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1


@pytest.mark.parametrize("asked", [True, False, None])
def test_the_usage_chunk_comes_only_when_it_is_asked_for(wall: Wall, *, asked: bool | None) -> None:
    options: dict[str, Any] = {} if asked is None else {"stream_options": {"include_usage": asked}}
    _, text = wall.stream(wire.streams(["a"]), **options)
    usage = [event for event in events(text)[:-1] if not event["choices"]]
    assert len(usage) == (1 if asked else 0)
    if asked:
        assert usage[0]["choices"] == []
        assert usage[0]["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def test_usage_that_comes_with_the_last_words_is_counted_and_passed_on(wall: Wall) -> None:
    last = json.loads(STOP.removeprefix(b"data: ")) | {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    event = b"data: " + json.dumps(last).encode() + b"\n\n"
    body = wall.body(wire.sends([*WORDS, event, wire.DONE]), stream=True)
    with wall.gateway.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        text = response.read().decode()
    assert events(text)[-2:] == [last, "[DONE]"]
    trace = wall.trace(response)
    assert (trace["input_tokens"], trace["output_tokens"], trace["usage_source"]) == (1, 2, "provider")


def test_parallel_tool_calls_keep_their_index_and_their_pieces(wall: Wall) -> None:
    deltas = [
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": "}"}}]},
    ]
    sent = [wire.chunk(delta) for delta in deltas]
    _, text = wall.stream(wire.sends([*sent, wire.chunk({}, finish_reason="tool_calls"), wire.DONE]))
    assert [event["choices"][0]["delta"] for event in events(text)[:3]] == deltas


@pytest.mark.parametrize(
    ("before", "old", "new"),
    [
        (b"id: 7\n", b"", b""),
        (b"event: message\n", b"", b""),
        (b": keep-alive\n\n", b"", b""),
        (b"retry: 100\n", b"", b""),
        (b"", b"\n", b"\r\n"),
        (b"", b"data: ", b"data:"),
        (b"\n\n", b"", b""),
    ],
    ids=["id", "event", "comment", "retry", "crlf", "no-space", "blank-lines"],
)
def test_all_of_sse_is_understood_and_goes_out_plain(wall: Wall, before: bytes, old: bytes, new: bytes) -> None:
    sent = [before + (event.replace(old, new) if old else event) for event in [*WORDS, STOP, wire.DONE]]
    _, text = wall.stream(wire.sends(sent))
    assert events(text)[-1] == "[DONE]"
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events(text)[:-1]) == "Paris"
    assert all(line == "" or line.startswith("data: ") for line in text.split("\n"))


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_answer(wall: Wall) -> None:
    _, text = wall.stream(wire.sends([b"\xef\xbb\xbf" + WORDS[0], *WORDS[1:], STOP, wire.DONE]))
    assert events(text)[-1] == "[DONE]"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_split_across_reads_arrive_whole(wall: Wall, size: int) -> None:
    data = wire.chunk({"content": "grüße 🎈 漢字"}) + STOP + wire.DONE
    _, text = wall.stream(pieces(data, size))
    assert events(text)[0]["choices"][0]["delta"]["content"] == "grüße 🎈 漢字"
    assert events(text)[-1] == "[DONE]"


def test_a_huge_chunk_arrives_whole(wall: Wall) -> None:
    content = "x" * 2_000_000
    _, text = wall.stream(wire.sends([wire.chunk({"content": content}), STOP, wire.DONE]))
    assert events(text)[0]["choices"][0]["delta"]["content"] == content
    assert events(text)[-1] == "[DONE]"


def test_many_events_in_one_read_stay_many(wall: Wall) -> None:
    together = b"".join(wire.chunk({"content": str(i)}) for i in range(100)) + STOP + wire.DONE
    _, text = wall.stream(wire.sends([together]))
    assert len(events(text)) == 102


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "function_call"])
def test_a_finish_reason_is_passed_on_and_never_made_up(wall: Wall, reason: str) -> None:
    _, text = wall.stream(wire.sends([*WORDS, wire.chunk({}, finish_reason=reason), wire.DONE]))
    assert [e["choices"][0]["finish_reason"] for e in events(text)[:-1]] == [None, None, None, reason]


def test_a_first_byte_that_never_comes_is_an_error_before_the_stream(wall: Wall) -> None:
    status, text = wall.stream(wire.sends([], then="stall"))
    assert status == 504
    assert json.loads(text)["error"]["code"] == "provider_timeout"


@pytest.mark.parametrize(
    "behaviour",
    [
        wire.sends(WORDS, then="cut"),
        wire.sends(WORDS, then="end"),
        wire.sends(WORDS, then="stall"),
        wire.sends([*WORDS, b"data: {\n\n"]),
        wire.sends([*WORDS, b"data: [1]\n\n"]),
        wire.sends([*WORDS, b"data: \xff\xfe\n\n"]),
        wire.sends([*WORDS, b'data: {"error": {"message": "overloaded", "code": 529}}\n\n', wire.DONE]),
        wire.sends([*WORDS, STOP]),
        wire.sends([*WORDS, wire.DONE]),
    ],
    ids=["cut", "end", "stall", "half-json", "list", "bad-utf8", "error-event", "no-done", "no-finish"],
)
def test_an_answer_that_breaks_off_ends_in_one_error_event(wall: Wall, behaviour: Behaviour) -> None:
    body = wall.body(behaviour, stream=True)
    with (
        wall.gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        text = response.read().decode()
    assert "[DONE]" not in text
    assert [("error" in event) for event in events(text)] == [False] * (len(events(text)) - 1) + [True]
    assert set(events(text)[-1]["error"]) == {"message", "type", "param", "code"}
    assert wall.trace(response)["outcome"] == "provider_cut"


def test_nothing_that_follows_done_reaches_the_client(wall: Wall) -> None:
    _, text = wall.stream(wire.sends([*WORDS, STOP, wire.DONE, wire.chunk({"content": "more"})]))
    assert text.endswith("data: [DONE]\n\n")
    assert "more" not in text


def test_bytes_go_out_as_they_come_in(wall: Wall) -> None:
    async def waits(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        await exchange.chunk(WORDS[0])
        await exchange.chunk(WORDS[1])
        await exchange.hung_up.wait()

    before = wall.upstream.hang_ups
    with (
        wall.gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=wall.body(waits, stream=True)) as response,
    ):
        seen = ""
        for text in response.iter_text():
            seen += text
            if "Par" in seen:
                break
    eventually(lambda: wall.upstream.hang_ups == before + 1, timeout_s=20)
    assert wall.trace(response)["outcome"] == "client_cancelled"


def test_a_streams_headers_are_those_of_an_event_stream(wall: Wall) -> None:
    body = wall.body(wire.streams(["a"]), stream=True)
    with wall.gateway.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.read()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-request-id"]
    assert "content-length" not in response.headers


def test_a_stream_asked_for_with_http_1_0_ends_with_its_connection(wall: Wall) -> None:
    body = json.dumps(wall.body(wire.streams(["a", "b"]), stream=True)).encode()
    answer = wall.talk(
        b"POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    assert answer.split(b"\r\n")[0].endswith(b"200 OK")
    assert b"data: [DONE]" in answer

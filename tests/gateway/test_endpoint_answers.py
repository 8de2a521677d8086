"""Reading event streams and answers of the endpoints beside chat: pure, and for any bytes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.sse_events import SseEvents
from rs_gateway.domain.endpoint_answers import answer_of, follower_of
from rs_gateway.domain.endpoints import Endpoint, EndpointRequest, options_for, text_length
from rs_gateway.domain.traces import UsageSource

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_KINDS = st.sampled_from(
    [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
        *("message_stop", "error", "ping", "response.created", "response.output_text.delta", "response.completed"),
        *("response.failed", "unknown"),
    ]
)
_FIELDS = st.sampled_from(
    [
        *("message", "index", "content_block", "delta", "usage", "response", "error", "sequence_number"),
    ]
)


def asked(endpoint: Endpoint, **fields: Any) -> EndpointRequest:
    return EndpointRequest(endpoint, "m", fields, stream=True, headers={})


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20), max_size=8),
    st.lists(st.integers(1, 30), min_size=1),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_come_out_the_same_whatever_the_chunk_borders(texts: list[str], sizes: list[int], end: str) -> None:
    raws = [f"event: x{end}data: {text}{end}{end}".encode() for text in texts]
    whole, decoder, seen, position, turn = b"".join(raws), SseEvents(), [], 0, 0
    while position < len(whole):
        size = sizes[turn % len(sizes)]
        seen += decoder.feed(whole[position : position + size])
        position, turn = position + size, turn + 1
    assert [event.raw for event in seen] == raws
    assert [event.data for event in seen] == [text.encode() for text in texts]
    assert not decoder.malformed


def test_data_on_several_lines_is_one_event_and_a_comment_is_none() -> None:
    events = SseEvents().feed(b"\xef\xbb\xbfdata: a\ndata:b\n\n: ping\n\n")
    assert [event.data for event in events] == [b"a\nb", b""]


def test_half_an_event_never_gets_out_and_what_is_no_field_ends_the_stream() -> None:
    decoder = SseEvents()
    assert decoder.feed(b"data: a") == []
    assert [event.raw for event in decoder.feed(b"\n\n<html>\n\ndata: b\n\n")] == [b"data: a\n\n"]
    assert decoder.malformed


@given(st.lists(st.tuples(_KINDS, st.dictionaries(_FIELDS, _JSON))), st.sampled_from(["messages", "responses"]))
def test_no_event_of_a_provider_can_trip_up_the_reading_of_a_stream(
    events: list[tuple[str, dict[str, Any]]], endpoint: Endpoint
) -> None:
    follower = follower_of(asked(endpoint, input="hello", messages=[]))
    for kind, fields in events:
        try:
            if follower.add(msgspec.json.encode({**fields, "type": kind})) != "goes on":
                break
        except msgspec.DecodeError:
            break
    usage = follower.answer().usage
    assert usage.source in (UsageSource.PROVIDER, UsageSource.ESTIMATED)
    msgspec.json.encode(follower.answer().response)


@given(_JSON, st.sampled_from(["messages", "responses", "embeddings"]))
def test_a_body_is_an_answer_or_a_decode_error(body: Any, endpoint: Endpoint) -> None:
    fields = {"content": body, "output": body, "data": body, "usage": body, "model": body, "stop_reason": body}
    try:
        answer = answer_of(asked(endpoint), msgspec.json.encode(fields))
    except msgspec.DecodeError:
        return
    assert answer.usage.input_tokens is not None


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("embeddings", b'{"data": []}'),
        ("embeddings", b'{"error": {"message": "no"}}'),
        ("responses", b'{"object": "response"}'),
        ("messages", b'{"type": "error", "error": {}}'),
        ("messages", b"<html>"),
        ("messages", b""),
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(endpoint: Endpoint, body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        answer_of(asked(endpoint), body)


def test_a_vendor_that_does_not_count_is_estimated_from_the_text_alone() -> None:
    body = {"content": [{"type": "text", "text": "x" * 40}], "stop_reason": "end_turn", "model": "m"}
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 10_000}}
    said = [{"role": "user", "content": [image, {"type": "text", "text": "y" * 8}]}]
    usage = answer_of(asked("messages", messages=said), json.dumps(body).encode()).usage
    assert (usage.input_tokens, usage.output_tokens, usage.source) == (2, 10, UsageSource.ESTIMATED)
    assert text_length(None) == 0


def test_default_options_reach_only_the_endpoints_that_have_a_word_for_them() -> None:
    options = {"temperature": 0, "max_tokens": 9, "seed": 1, "dimensions": 256, "user": "u", "safety_identifier": "s"}
    assert options_for("embeddings", options) == {"dimensions": 256, "user": "u", "safety_identifier": "s"}
    assert "seed" not in options_for("messages", options)
    assert options_for("messages", options)["max_tokens"] == 9
    assert "max_tokens" not in options_for("responses", options)
    assert options_for("responses", options)["temperature"] == 0

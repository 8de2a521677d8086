"""What only Anthropic does."""

import pytest

from rs_gateway.domain.errors import ProviderCutError, ProviderRefusedError
from tests.gateway.providers import anthropic_wire as wire
from tests.gateway.providers.asking import Streamed, call, completed, run, stream, streamed
from tests.gateway.providers.vendor import Vendor, says, streams
from tests.gateway.providers.vendors import ANTHROPIC, SECRET

pytestmark = pytest.mark.filterwarnings("ignore")
CACHED = {"input_tokens": 12, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50}


def test_cached_and_cache_written_tokens_are_parts_of_the_input_plain() -> None:
    with Vendor([says(wire.message(wire.text("Yes"), usage=CACHED))]).running() as vendor:
        usage = completed(ANTHROPIC.adapter(vendor), call(wire.MODEL)).usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (162, 100, 50)


def test_cached_and_cache_written_tokens_are_parts_of_the_input_streamed() -> None:
    with Vendor([streams([wire.started(CACHED), *wire.text_block(0, "Yes"), *wire.ended()])]).running() as vendor:
        usage = streamed(ANTHROPIC.adapter(vendor), call(wire.MODEL)).usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (162, 100, 50)


def test_the_usage_chunk_has_no_choices_and_no_made_up_cost() -> None:
    with Vendor([streams(ANTHROPIC.stream)]).running() as vendor:
        got = streamed(ANTHROPIC.adapter(vendor), call(wire.MODEL))
    *others, last = got.chunks
    assert last["choices"] == []
    assert "cost" not in last["usage"]
    assert not any("usage" in chunk for chunk in others)


def test_reasoning_is_not_counted_where_anthropic_does_not_count_it() -> None:
    thinking = wire.block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Sun or rain?"},
        {"type": "signature_delta", "signature": "EqQBCgIYAhIM"},
    )
    with Vendor(
        [streams([wire.started(), *thinking, *wire.text_block(1, "Paris"), *wire.ended()])]
    ).running() as vendor:
        got = streamed(ANTHROPIC.adapter(vendor), call(wire.MODEL, reasoning_effort="low", max_tokens=4000))
    assert got.message["content"] == "Paris"
    assert got.usage.reasoning_tokens is None
    assert vendor.asked[0].body["thinking"]["type"] == "enabled"


def test_the_role_comes_once() -> None:
    with Vendor([streams(ANTHROPIC.stream)]).running() as vendor:
        got = streamed(ANTHROPIC.adapter(vendor), call(wire.MODEL))
    roles = [choice["delta"].get("role") for chunk in got.chunks for choice in chunk["choices"]]
    assert roles == ["assistant", *[None] * (len(roles) - 1)]


def test_an_answer_may_say_the_same_thing_many_times() -> None:
    with Vendor([streams([wire.started(), *wire.text_block(0, *["ha "] * 150), *wire.ended()])]).running() as vendor:
        got = streamed(ANTHROPIC.adapter(vendor), call(wire.MODEL))
    assert got.message["content"] == "ha " * 150


def test_an_error_in_the_middle_of_a_stream_cuts_the_answer() -> None:
    events = [*ANTHROPIC.opening, wire.named(wire.error("overloaded_error", "Overloaded"))]
    got = Streamed()
    with Vendor([streams(events)]).running() as vendor, pytest.raises(ProviderCutError):
        run(ANTHROPIC.adapter(vendor), lambda adapter: stream(adapter, call(wire.MODEL), got))
    assert got.answer.finish_reason is None


def test_pings_keep_a_stream_alive() -> None:
    events = [*ANTHROPIC.opening, *[wire.PING] * 4, *ANTHROPIC.stream[len(ANTHROPIC.opening) + 1 :]]
    with Vendor([streams(events, pause_s=0.4)]).running() as vendor:
        got = streamed(ANTHROPIC.adapter(vendor, idle_timeout_s=1.5), call(wire.MODEL))
    assert got.answer.whole


def test_a_stream_without_counts_claims_none() -> None:
    begun = wire.named({"type": "message_start", "message": {**wire.message(stop_reason=None), "usage": {}}})
    ended = [wire.named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}), wire.ended()[1]]
    with Vendor([streams([begun, *wire.text_block(0, "Paris"), *ended])]).running() as vendor:
        got = streamed(ANTHROPIC.adapter(vendor), call(wire.MODEL))
    assert got.answer.whole
    assert got.answer.usage is None


def test_a_refusal_of_the_model_is_a_filtered_answer() -> None:
    with Vendor([says(wire.message(stop_reason="refusal"))]).running() as vendor:
        assert completed(ANTHROPIC.adapter(vendor), call(wire.MODEL)).finish_reason == "content_filter"


def test_an_error_keeps_anthropics_own_type() -> None:
    reply = says(wire.error("invalid_request_error", "prompt is too long: 212 tokens > 200 maximum"), status=400)
    with Vendor([reply]).running() as vendor, pytest.raises(ProviderRefusedError) as raised:
        completed(ANTHROPIC.adapter(vendor), call(wire.MODEL))
    assert raised.value.upstream_type == "invalid_request_error"
    assert str(raised.value) == "anthropic: prompt is too long: 212 tokens > 200 maximum"


def test_a_body_that_is_too_large_keeps_its_status() -> None:
    reply = says(wire.error("request_too_large", "Request exceeds the maximum size"), status=413)
    with Vendor([reply]).running() as vendor, pytest.raises(ProviderRefusedError) as raised:
        completed(ANTHROPIC.adapter(vendor), call(wire.MODEL))
    assert raised.value.status == 413


def test_parameters_are_translated() -> None:
    asked = call(wire.MODEL, stop="END", max_completion_tokens=9, temperature=0.2, user="u-1", top_k=5, n=1)
    with Vendor([says(wire.message(wire.text("Yes")))]).running() as vendor:
        completed(ANTHROPIC.adapter(vendor), asked)
    body, headers = vendor.asked[0].body, vendor.asked[0].headers
    assert body["stop_sequences"] == ["END"]
    assert (body["max_tokens"], body["temperature"], body["top_k"]) == (9, 0.2, 5)
    assert body["metadata"] == {"user_id": "u-1"}
    assert (vendor.asked[0].path, headers["x-api-key"]) == ("/v1/messages", SECRET)

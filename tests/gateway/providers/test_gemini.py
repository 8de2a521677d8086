"""What only Google does."""

import pytest

from rs_gateway.domain.errors import ProviderCutError, ProviderOverloadedError, ProviderRefusedError
from tests.gateway.providers import gemini_wire as wire
from tests.gateway.providers.asking import Streamed, call, completed, run, stream, streamed
from tests.gateway.providers.vendor import Vendor, says, sse, streams
from tests.gateway.providers.vendors import GEMINI

pytestmark = pytest.mark.filterwarnings("ignore")
THOUGHT = {**wire.USAGE, "cachedContentTokenCount": 8, "thoughtsTokenCount": 30, "totalTokenCount": 46}


def test_thoughts_are_a_part_of_the_output_and_cached_tokens_of_the_input_plain() -> None:
    with Vendor([says(wire.answer(wire.text("Paris"), usage=THOUGHT))]).running() as vendor:
        usage = completed(GEMINI.adapter(vendor), call(wire.MODEL)).usage
    assert (usage.input_tokens, usage.cached_input_tokens) == (12, 8)
    assert (usage.output_tokens, usage.reasoning_tokens) == (34, 30)


def test_thoughts_are_a_part_of_the_output_and_cached_tokens_of_the_input_streamed() -> None:
    events = wire.events(wire.answer(wire.text("Pa"), finish=None), wire.answer(wire.text("ris"), usage=THOUGHT))
    with Vendor([streams(events)]).running() as vendor:
        usage = streamed(GEMINI.adapter(vendor), call(wire.MODEL)).usage
    assert (usage.input_tokens, usage.cached_input_tokens) == (12, 8)
    assert (usage.output_tokens, usage.reasoning_tokens) == (34, 30)


def test_the_model_stands_in_the_address_and_the_key_does_not() -> None:
    with Vendor([says(wire.answer(wire.text("Yes"))), streams(GEMINI.stream)]).running() as vendor:
        completed(GEMINI.adapter(vendor), call(wire.MODEL))
        streamed(GEMINI.adapter(vendor), call(wire.MODEL))
    assert [(a.path, a.query) for a in vendor.asked] == [
        (f"/v1beta/models/{wire.MODEL}:generateContent", {}),
        (f"/v1beta/models/{wire.MODEL}:streamGenerateContent", {"alt": "sse"}),
    ]


def test_a_blocked_prompt_is_a_filtered_answer_plain() -> None:
    with Vendor([says(wire.BLOCKED)]).running() as vendor:
        assert completed(GEMINI.adapter(vendor), call(wire.MODEL)).finish_reason == "content_filter"


def test_a_blocked_prompt_is_a_filtered_answer_streamed() -> None:
    with Vendor([streams(wire.events(wire.BLOCKED))]).running() as vendor:
        got = streamed(GEMINI.adapter(vendor), call(wire.MODEL))
    assert (got.answer.whole, got.answer.finish_reason) == (True, "content_filter")


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT"])
def test_an_answer_that_is_stopped_for_its_content_says_so(reason: str) -> None:
    events = wire.events(wire.answer(wire.text("Paris "), finish=None), wire.answer(finish=reason))
    with Vendor([streams(events)]).running() as vendor:
        got = streamed(GEMINI.adapter(vendor), call(wire.MODEL))
    assert got.message["content"] == "Paris "
    assert got.answer.finish_reason == "content_filter"


def test_an_invalid_key_is_an_authentication_error_though_google_says_400() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    reply = says(wire.error(400, "INVALID_ARGUMENT", "API key not valid.", info), status=400)
    for ask in (completed, streamed):
        with Vendor([reply]).running() as vendor, pytest.raises(ProviderRefusedError) as raised:
            ask(GEMINI.adapter(vendor), call(wire.MODEL))
        assert (raised.value.status, raised.value.upstream_code) == (401, "INVALID_ARGUMENT")


def test_googles_own_retry_delay_is_kept_where_there_is_no_header() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "21s"}
    reply = says(wire.error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", info), status=429)
    for ask in (completed, streamed):
        with Vendor([reply]).running() as vendor, pytest.raises(ProviderOverloadedError) as raised:
            ask(GEMINI.adapter(vendor), call(wire.MODEL))
        assert (raised.value.retry_after_s, raised.value.upstream_code) == (21.0, "RESOURCE_EXHAUSTED")


def test_an_error_in_the_middle_of_a_stream_cuts_the_answer() -> None:
    events = [*GEMINI.opening, sse(wire.error(503, "UNAVAILABLE", "The model is overloaded"))]
    got = Streamed()
    with Vendor([streams(events)]).running() as vendor, pytest.raises(ProviderCutError):
        run(GEMINI.adapter(vendor), lambda adapter: stream(adapter, call(wire.MODEL), got))
    assert got.answer.finish_reason is None


def test_parameters_are_translated() -> None:
    asked = call(wire.MODEL, stop=["END"], max_tokens=9, temperature=0.2, seed=3, frequency_penalty=0)
    with Vendor([says(wire.answer(wire.text("Yes")))]).running() as vendor:
        completed(GEMINI.adapter(vendor), asked)
    sent = vendor.asked[0].body["generationConfig"]
    assert (sent["stop_sequences"], sent["max_output_tokens"], sent["temperature"], sent["seed"]) == (
        ["END"],
        9,
        0.2,
        3,
    )


def test_googles_own_parameters_reach_it() -> None:
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    with Vendor([says(wire.answer(wire.text("Yes")))]).running() as vendor:
        completed(GEMINI.adapter(vendor), call(wire.MODEL, top_k=7, safety_settings=safety))
    sent = vendor.asked[0].body
    assert sent["generationConfig"]["top_k"] == 7
    assert sent["safetySettings"] == safety

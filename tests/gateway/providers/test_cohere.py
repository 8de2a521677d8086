"""What only Cohere does."""

import pytest

from rs_gateway.domain.errors import ProviderCutError, ProviderOverloadedError
from tests.gateway.providers import cohere_wire as wire
from tests.gateway.providers.asking import WEATHER, call, completed, streamed
from tests.gateway.providers.vendor import Vendor, streams
from tests.gateway.providers.vendors import COHERE

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_v2_chat_address_is_asked() -> None:
    with Vendor([streams(COHERE.stream)]).running() as vendor:
        completed(COHERE.adapter(vendor), call(wire.MODEL))
    assert vendor.asked[0].path == "/v2/chat"


def test_a_plain_answer_that_the_token_limit_cut_says_so() -> None:
    with Vendor([streams(COHERE.truncated)]).running() as vendor:
        assert completed(COHERE.adapter(vendor), call(wire.MODEL)).finish_reason == "length"


def test_a_plain_answer_that_breaks_off_is_not_passed_off_as_whole() -> None:
    with Vendor([streams(COHERE.opening)]).running() as vendor, pytest.raises(ProviderCutError):
        completed(COHERE.adapter(vendor), call(wire.MODEL))


def test_only_what_is_billed_is_counted() -> None:
    with Vendor([streams(COHERE.stream)]).running() as vendor:
        usage = streamed(COHERE.adapter(vendor), call(wire.MODEL)).usage
    assert wire.USAGE["tokens"]["input_tokens"] == 71
    assert (usage.input_tokens, usage.output_tokens) == (12, 4)


def test_the_plan_before_a_tool_call_is_reasoning_and_not_the_answer() -> None:
    with Vendor([streams(COHERE.streamed_calls)]).running() as vendor:
        got = streamed(COHERE.adapter(vendor), call(wire.MODEL, tools=[WEATHER]))
    assert got.message["content"] is None
    said = [c["delta"].get("reasoning_content") for chunk in got.chunks for c in chunk["choices"]]
    assert "".join(s for s in said if s) == "I will look."
    roles = [choice["delta"].get("role") for chunk in got.chunks for choice in chunk["choices"]]
    assert roles == ["assistant", *[None] * (len(roles) - 1)]


def test_an_end_that_reports_an_error_is_one() -> None:
    with (
        Vendor([streams([*COHERE.opening, *wire.ended("ERROR")])]).running() as vendor,
        pytest.raises(ProviderOverloadedError),
    ):
        streamed(COHERE.adapter(vendor), call(wire.MODEL))


def test_parameters_are_translated() -> None:
    asked = call(wire.MODEL, stop="END", max_completion_tokens=9, top_p=0.4, safety_mode="STRICT")
    with Vendor([streams(COHERE.stream)]).running() as vendor:
        completed(COHERE.adapter(vendor), asked)
    body = vendor.asked[0].body
    assert (body["stop_sequences"], body["max_tokens"], body["p"]) == (["END"], 9, 0.4)
    assert (body["safety_mode"], body["stream"]) == ("STRICT", True)

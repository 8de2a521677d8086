"""Vendors whose lines we do not watch: litellm alone reads them, and the same promises hold."""

from typing import Any

import pytest

from rs_gateway.adapters.litellm_chat import LiteLLMChat
from rs_gateway.domain.errors import ProviderCutError, ProviderError, ProviderOverloadedError, ProviderTimeoutError
from tests.gateway.providers import openai_wire
from tests.gateway.providers.asking import WEATHER, Streamed, call, completed, run, stream, streamed
from tests.gateway.providers.vendor import Vendor, says, silence, streams
from tests.gateway.providers.vendors import SECRET

pytestmark = pytest.mark.filterwarnings("ignore")
QUIRKS = openai_wire.OLLAMA
STREAM = openai_wire.stream("m", ["Paris ", "is lovely"], QUIRKS)
NAMES = pytest.mark.parametrize(
    ("name", "model"),
    [("together_ai", "m"), ("my-bridge", "openai/m"), ("xai", "m")],
    ids=["together", "named by model", "xai"],
)


def adapter(name: str, vendor: Vendor, **options: Any) -> LiteLLMChat:
    return LiteLLMChat(name, base_url=vendor.url + "/v1", api_key=SECRET, **options)


@NAMES
def test_a_plain_answer_and_a_stream_come_through(name: str, model: str) -> None:
    with Vendor([says(openai_wire.answer("m", "Paris is lovely", QUIRKS)), streams(STREAM)]).running() as vendor:
        whole = completed(adapter(name, vendor), call(model))
        got = streamed(adapter(name, vendor), call(model))
    assert whole.message["content"] == got.message["content"] == "Paris is lovely"
    assert (got.answer.whole, got.answer.finish_reason) == (True, "stop")
    assert (got.usage.input_tokens, got.usage.output_tokens) == (12, 4)
    assert [a.path for a in vendor.asked] == ["/v1/chat/completions"] * 2
    assert {a.body["model"] for a in vendor.asked} == {"m"}


@NAMES
def test_tool_calls_come_through(name: str, model: str) -> None:
    events = openai_wire.streamed_calls("m", QUIRKS, {"city": "Paris"}, {"city": "Rome"})
    with Vendor([streams(events)]).running() as vendor:
        got = streamed(adapter(name, vendor), call(model, tools=[WEATHER]))
    assert [c["id"] for c in got.message["tool_calls"]] == ["call_0abcdef", "call_1abcdef"]


@NAMES
@pytest.mark.parametrize("then", ["end", "cut"])
def test_a_stream_that_breaks_off_is_never_a_whole_answer(name: str, model: str, then: Any) -> None:
    got = Streamed()
    with Vendor([streams(STREAM[:1], then=then)]).running() as vendor, pytest.raises(ProviderCutError):
        run(adapter(name, vendor), lambda provider: stream(provider, call(model), got))
    assert got.answer.finish_reason is None


@NAMES
def test_silence_times_out(name: str, model: str) -> None:
    got = Streamed()
    with Vendor([streams(STREAM[:1], then="stall"), silence]).running() as vendor:
        with pytest.raises(ProviderTimeoutError):
            run(adapter(name, vendor, idle_timeout_s=0.5), lambda p: stream(p, call(model), got))
        with pytest.raises(ProviderTimeoutError):
            streamed(adapter(name, vendor, first_byte_timeout_s=0.5), call(model))
    assert got.message["content"] == "Paris "


@NAMES
@pytest.mark.parametrize("ask", [completed, streamed], ids=["plain", "stream"])
def test_too_many_requests_keep_their_retry_after(name: str, model: str, ask: Any) -> None:
    reply = says(QUIRKS.error(429, f"slow down, {SECRET}"), status=429, headers={"retry-after": "7"})
    with Vendor([reply]).running() as vendor, pytest.raises(ProviderOverloadedError) as raised:
        ask(adapter(name, vendor), call(model))
    assert (raised.value.status, raised.value.retry_after_s) == (429, 7.0)
    assert SECRET not in str(raised.value)
    assert len(vendor.asked) == 1


@NAMES
@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_an_error_keeps_its_status(name: str, model: str, status: int) -> None:
    body = {"error": {"message": "no", "type": "some_type", "param": "model", "code": "some_code"}}
    with Vendor([says(body, status=status)]).running() as vendor, pytest.raises(ProviderError) as raised:
        completed(adapter(name, vendor), call(model))
    assert raised.value.status == status
    assert "no" in str(raised.value)
    if status != 500:
        assert (raised.value.param, getattr(raised.value, "upstream_code", None)) == ("model", "some_code")
    assert len(vendor.asked) == 1


def test_a_vendor_that_nobody_knows_is_refused_by_name() -> None:
    with Vendor([silence]).running() as vendor, pytest.raises(ProviderError) as raised:
        completed(adapter("nobody", vendor), call("m"))
    assert "nobody" in str(raised.value)
    assert not raised.value.retryable

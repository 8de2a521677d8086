"""What holds whoever the vendor is: its real wire format goes in, OpenAI's comes out, and nothing is made up."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import pytest

from rs_gateway.domain.answers import text_of
from rs_gateway.domain.errors import (
    ProviderCutError,
    ProviderError,
    ProviderGarbageError,
    ProviderOverloadedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)
from rs_gateway.domain.ports import ChatProvider
from rs_gateway.domain.traces import UsageSource
from tests.gateway.providers.asking import WEATHER, Streamed, call, completed, run, stream, streamed
from tests.gateway.providers.vendor import Reply, Vendor, page, resets, says, silence, streams
from tests.gateway.providers.vendors import ALL, SECRET, Wire
from tests.running import eventually

# litellm is a large library with warnings of its own; they are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=ALL, ids=lambda wire: wire.provider)
def wire(request: pytest.FixtureRequest) -> Wire:
    return request.param


def plain(wire: Wire) -> Reply:
    return says(wire.whole) if wire.whole is not None else streams(wire.stream)


def refusing(wire: Wire, status: int, words: str = "no such thing", **headers: str) -> Reply:
    return says(wire.error(status, words), status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def refusal(wire: Wire, reply: Reply, *, stream_it: bool = False, **options: Any) -> ProviderError:
    """What the adapter raises, and that it asked only once: retries are the gateway's business."""
    with Vendor([reply]).running() as vendor, pytest.raises(ProviderError) as raised:
        adapter = wire.adapter(vendor, **options)
        (streamed if stream_it else completed)(adapter, call(wire.model))
    assert len(vendor.asked) == 1
    assert SECRET not in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)
    assert "http" not in str(raised.value)
    return raised.value


def test_a_plain_answer_comes_in_openais_shape(wire: Wire) -> None:
    with Vendor([plain(wire)]).running() as vendor:
        answer = completed(wire.adapter(vendor), call(wire.model))
    assert text_of(answer.message["content"]) == "Paris is lovely"
    assert answer.message["role"] == "assistant"
    assert answer.finish_reason == "stop"
    assert answer.body["object"] == "chat.completion"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 4)
    assert answer.usage.source is UsageSource.PROVIDER


def test_a_stream_comes_in_openais_shape(wire: Wire) -> None:
    with Vendor([streams(wire.stream)]).running() as vendor:
        got = streamed(wire.adapter(vendor), call(wire.model))
    assert got.message["content"] == "Paris is lovely"
    assert got.answer.whole
    assert got.answer.finish_reason == "stop"
    assert (got.usage.input_tokens, got.usage.output_tokens) == (12, 4)
    assert got.usage.source is UsageSource.PROVIDER
    assert {chunk["object"] for chunk in got.chunks} == {"chat.completion.chunk"}
    for name in ("id", "created", "model"):
        assert len({chunk[name] for chunk in got.chunks}) == 1, name


def test_words_arrive_as_they_are_said(wire: Wire) -> None:
    async def act(adapter: ChatProvider) -> str:
        async with adapter.stream(call(wire.model)) as batches:
            async for batch in batches:
                for payload in batch:
                    for choice in json.loads(payload)["choices"]:
                        if text_of(choice["delta"].get("content")):
                            return text_of(choice["delta"]["content"])
        raise AssertionError("no words came")

    with Vendor([streams(wire.opening, then="stall")]).running() as vendor:
        assert run(wire.adapter(vendor), act) == "Paris "


def test_an_answer_that_the_token_limit_cut_says_so(wire: Wire) -> None:
    with Vendor([streams(wire.truncated)]).running() as vendor:
        got = streamed(wire.adapter(vendor), call(wire.model))
    assert (got.answer.whole, got.answer.finish_reason) == (True, "length")


def test_parallel_tool_calls_come_back_whole(wire: Wire) -> None:
    reply = says(wire.calls) if wire.calls is not None else streams(wire.streamed_calls)
    with Vendor([reply]).running() as vendor:
        answer = completed(wire.adapter(vendor), call(wire.model, tools=[WEATHER]))
    assert answer.finish_reason == "tool_calls"
    assert "content" in answer.message
    assert_two_calls(answer.message["tool_calls"])
    assert "weather" in json.dumps(vendor.asked[0].body["tools"])


def test_streamed_tool_calls_add_up(wire: Wire) -> None:
    with Vendor([streams(wire.streamed_calls)]).running() as vendor:
        got = streamed(wire.adapter(vendor), call(wire.model, tools=[WEATHER]))
    assert got.answer.finish_reason == "tool_calls"
    assert_two_calls(got.message["tool_calls"])
    deltas = [d for c in got.chunks for choice in c["choices"] for d in choice["delta"].get("tool_calls") or ()]
    assert [d["index"] for d in deltas] == sorted(d["index"] for d in deltas)
    assert {d["index"] for d in deltas} == {0, 1}


def assert_two_calls(calls: list[dict[str, Any]]) -> None:
    assert [c["function"]["name"] for c in calls] == ["weather", "weather"]
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({c["id"] for c in calls}) == 2
    assert {c["type"] for c in calls} == {"function"}


@pytest.mark.parametrize("then", ["end", "cut"])
def test_a_stream_that_breaks_off_is_never_a_whole_answer(wire: Wire, then: Any) -> None:
    got = Streamed()
    with Vendor([streams(wire.opening, then=then)]).running() as vendor, pytest.raises(ProviderCutError) as raised:
        run(wire.adapter(vendor), lambda adapter: stream(adapter, call(wire.model), got))
    assert got.message["content"] == "Paris "
    assert got.answer.finish_reason is None
    assert "127.0.0.1" not in str(raised.value)


def test_a_line_that_is_none_of_the_protocols_cuts_the_answer(wire: Wire) -> None:
    events = [*wire.opening, b"<html>Bad gateway</html>\n\n", *wire.stream[len(wire.opening) :]]
    got = Streamed()
    with Vendor([streams(events)]).running() as vendor, pytest.raises(ProviderCutError):
        run(wire.adapter(vendor), lambda adapter: stream(adapter, call(wire.model), got))
    assert got.answer.finish_reason is None


def test_a_web_page_is_no_stream(wire: Wire) -> None:
    assert isinstance(refusal(wire, page(), stream_it=True), ProviderGarbageError)


@pytest.mark.parametrize("wire", [w for w in ALL if not w.direct], ids=lambda wire: wire.provider, indirect=True)
def test_a_web_page_is_no_answer(wire: Wire) -> None:
    """On the direct path the bytes go on to whoever decodes them, who finds out."""
    assert isinstance(refusal(wire, page()), ProviderGarbageError)


@pytest.mark.parametrize("stream_it", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_keeps_its_status_and_its_words(wire: Wire, status: int, stream_it: bool) -> None:
    error = refusal(wire, refusing(wire, status, f"not with {SECRET}"), stream_it=stream_it)
    assert isinstance(error, ProviderRefusedError)
    assert error.status == status
    assert str(error) == f"{wire.provider}: not with ***"
    assert not error.retryable


@pytest.mark.parametrize("stream_it", [False, True], ids=["plain", "stream"])
def test_too_many_requests_keep_their_retry_after(wire: Wire, stream_it: bool) -> None:
    error = refusal(wire, refusing(wire, 429, retry_after="7"), stream_it=stream_it)
    assert isinstance(error, ProviderOverloadedError)
    assert (error.status, error.retry_after_s) == (429, 7.0)


@pytest.mark.parametrize("stream_it", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("status", [500, 503, 529])
def test_a_vendor_in_trouble_is_worth_another_try(wire: Wire, status: int, stream_it: bool) -> None:
    error = refusal(wire, refusing(wire, status), stream_it=stream_it)
    assert isinstance(error, ProviderOverloadedError)
    assert (error.status, error.retryable) == (status, True)


@pytest.mark.parametrize("stream_it", [False, True], ids=["plain", "stream"])
def test_a_broken_connection_is_unreachable(wire: Wire, stream_it: bool) -> None:
    assert isinstance(refusal(wire, resets, stream_it=stream_it), ProviderUnreachableError)


def test_nobody_at_the_address_is_unreachable(wire: Wire) -> None:
    with Vendor([silence]).running() as vendor:
        pass
    with pytest.raises(ProviderUnreachableError) as raised:
        completed(wire.adapter(vendor), call(wire.model))
    assert "127.0.0.1" not in str(raised.value)


def test_a_stream_that_does_not_begin_times_out(wire: Wire) -> None:
    began = time.monotonic()
    error = refusal(wire, silence, stream_it=True, first_byte_timeout_s=0.5)
    assert isinstance(error, ProviderTimeoutError)
    assert time.monotonic() - began < 9  # by itself it would be given ten seconds


def test_a_plain_answer_that_does_not_come_times_out(wire: Wire) -> None:
    with Vendor([silence]).running() as vendor, pytest.raises(ProviderTimeoutError):
        completed(wire.adapter(vendor), call(wire.model, timeout_s=0.5))


def test_a_stream_that_falls_silent_times_out(wire: Wire) -> None:
    got = Streamed()

    async def watched(provider: ChatProvider) -> None:
        with pytest.raises(ProviderTimeoutError):
            await stream(provider, call(wire.model), got)
        # Not after the time that the first event is given, which is ten seconds here.
        assert time.monotonic() - got.began_at_s < 9

    with Vendor([streams(wire.opening, then="stall")]).running() as vendor:
        run(wire.adapter(vendor, idle_timeout_s=0.5), watched)
    assert got.message["content"] == "Paris "


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "in the middle of it"])
def test_leaving_ends_the_vendors_call_at_once(wire: Wire, begun: bool) -> None:
    async def leave(adapter: ChatProvider) -> None:
        got = Streamed()
        asking = asyncio.ensure_future(stream(adapter, call(wire.model), got))
        await until(lambda: bool(got.chunks if begun else vendor.asked))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: vendor.hang_ups == 1, timeout_s=8)

    with Vendor([streams(wire.opening, then="stall") if begun else silence]).running() as vendor:
        run(wire.adapter(vendor), leave)


def test_leaving_a_plain_call_ends_it_too(wire: Wire) -> None:
    async def leave(adapter: ChatProvider) -> None:
        asking = asyncio.ensure_future(adapter.complete(call(wire.model)))
        await until(lambda: bool(vendor.asked))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: vendor.hang_ups == 1, timeout_s=8)

    with Vendor([silence]).running() as vendor:
        run(wire.adapter(vendor), leave)


async def until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Return once `condition` holds; the vendor lives in a thread of its own and cannot wake this loop."""
    await anyio.to_thread.run_sync(lambda: eventually(condition, timeout_s=timeout_s))


def test_the_key_goes_to_the_vendor_alone_and_only_in_a_header(wire: Wire) -> None:
    with Vendor([plain(wire)]).running() as vendor:
        completed(wire.adapter(vendor), call(wire.model))
    asked = vendor.asked[0]
    assert any(SECRET in value for value in asked.headers.values())
    assert SECRET not in json.dumps([asked.path, asked.query, asked.body])

"""Any upstream that speaks OpenAI's protocol, straight over one pooled HTTP client: the fast path."""

import asyncio
from collections.abc import Sequence
from types import TracebackType

import aiohttp
import msgspec
import yarl

from rs_gateway.adapters.shared_timer import Limit, SharedTimer
from rs_gateway.adapters.sse import SseDecoder
from rs_gateway.adapters.upstream_http import FAILURES, CloseWatch, UpstreamHttp, drain
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.errors import ProviderCutError, ProviderGarbageError, ProviderTimeoutError


class OpenAIHttp:
    """ChatProvider over HTTP. Must be created and used inside a running event loop."""

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        api_key: str | None,
        connect_timeout_s: float,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
        asks_for_usage: bool = True,
    ) -> None:
        """
        Args:
            asks_for_usage: whether streams are asked to count tokens; some providers do it unasked and refuse that.
        """
        self.name = name
        self._url = yarl.URL(base_url.rstrip("/") + "/chat/completions")
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._asks_for_usage = asks_for_usage
        self.first_byte_timeout_s, self.idle_timeout_s = first_byte_timeout_s, idle_timeout_s
        self._first_byte: SharedTimer | None = None
        self._idle: SharedTimer | None = None
        self.http = UpstreamHttp(name, secret=api_key, connect_timeout_s=connect_timeout_s, silence_s=idle_timeout_s)

    async def complete(self, call: ProviderCall) -> bytes:
        if call.is_watched:
            return await self._complete(call)
        try:
            async with asyncio.timeout(call.timeout_s):
                return await self._complete(call)
        except TimeoutError as error:
            raise self.http.translate(error) from error

    async def _complete(self, call: ProviderCall) -> bytes:
        try:
            response = await self.http.post(self._url, _encode(call), self._headers)
            watch = CloseWatch(response)
            try:
                if response.status != 200:
                    raise await self.http.refusal(response)
                return await response.read()
            finally:
                watch.stop()
                response.release()
        except FAILURES as error:
            raise self.http.translate(error) from error

    def stream(self, call: ProviderCall) -> "_Stream":
        return _Stream(self, call)

    @property
    def first_byte(self) -> SharedTimer:
        """Runs until the first event of a stream."""
        if self._first_byte is None:
            self._first_byte = SharedTimer(self.first_byte_timeout_s)
        return self._first_byte

    @property
    def idle(self) -> SharedTimer:
        """Runs between two pieces of a stream."""
        if self._idle is None:
            self._idle = SharedTimer(self.idle_timeout_s)
        return self._idle

    async def open(self, call: ProviderCall) -> aiohttp.ClientResponse:
        """A stream whose headers have come. Raises ProviderError."""
        body = _encode_stream(call, asks_for_usage=self._asks_for_usage)
        try:
            with Limit(self.first_byte):
                response = await self.http.post(self._url, body, self._headers)
        except FAILURES as error:
            raise self.http.translate(error) from error
        try:
            if response.status != 200:
                raise await self.http.refusal(response)
            if response.content_type != "text/event-stream":
                raise ProviderGarbageError(
                    f"{self.name} answered a stream with {response.content_type}.", provider=self.name, status=200
                )
        except BaseException:
            response.close()
            raise
        return response

    async def aclose(self) -> None:
        await self.http.aclose()


class _Stream:
    """One open stream; see ChatProvider.stream."""

    def __init__(self, provider: OpenAIHttp, call: ProviderCall) -> None:
        self._provider, self._call = provider, call
        self._decoder = SseDecoder()
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> "_Stream":
        provider = self._provider
        self._first_event_by_s: float | None = asyncio.get_running_loop().time() + provider.first_byte_timeout_s
        response = self._response = await provider.open(self._call)
        self._watch = CloseWatch(response)
        return self

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Sequence[bytes]:
        if self._decoder.done:
            raise StopAsyncIteration
        try:
            return await self._payloads()
        except FAILURES as error:
            if isinstance(error, TimeoutError) and self._first_event_by_s is not None:
                name = self._provider.name
                raise ProviderTimeoutError(f"{name} did not begin to answer in time.", provider=name) from error
            raise self._provider.http.translate_break(error) from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        response = self._response
        if response is None:
            return
        self._watch.stop()
        try:
            if error is None and self._decoder.done:
                await drain(response)
        finally:
            # A response that was read to its end has given its connection back; any other one must be cut off.
            response.close()

    async def _payloads(self) -> Sequence[bytes]:
        """What arrives next; never empty. Raises FAILURES and ProviderCutError."""
        assert self._response is not None
        response, decoder, name = self._response, self._decoder, self._provider.name
        while True:
            with Limit(self._provider.idle if self._first_event_by_s is None else self._provider.first_byte):
                received = await response.content.readany()
            if not received:
                break
            payloads = decoder.feed(received)
            if payloads:
                self._first_event_by_s = None
                return payloads
            if self._first_event_by_s is not None and asyncio.get_running_loop().time() >= self._first_event_by_s:
                raise TimeoutError  # comments and halves of events are no answer, however many come
            if decoder.malformed:
                raise ProviderCutError(f"{name} sent a malformed event stream.", provider=name)
        raise ProviderCutError(f"{name} ended a stream without its end marker.", provider=name)


def _encode(call: ProviderCall) -> bytes:
    return msgspec.json.encode({**call.parameters, "model": call.model, "messages": call.messages})


def _encode_stream(call: ProviderCall, *, asks_for_usage: bool) -> bytes:
    body: JsonObject = {**call.parameters, "model": call.model, "messages": call.messages, "stream": True}
    if asks_for_usage:
        # Always asked for, so that the trace has real counts; the gateway hides the chunk from who did not ask.
        body["stream_options"] = {**(call.parameters.get("stream_options") or {}), "include_usage": True}
    else:
        body.pop("stream_options", None)
    return msgspec.json.encode(body)

"""Any upstream that speaks OpenAI's protocol, straight over one pooled HTTP client: the fast path."""

import asyncio
import io
from collections.abc import Sequence
from types import TracebackType

import aiohttp
import msgspec
import yarl

from rs_gateway.adapters.http_refusals import refusal_of
from rs_gateway.adapters.sse import SseDecoder
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.errors import (
    ProviderCutError,
    ProviderError,
    ProviderGarbageError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)

_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_S = 0.25
_WHOLE_BODY_BYTES = 2**20


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
        self._name = name
        self._url = yarl.URL(base_url.rstrip("/") + "/chat/completions")
        self._secret = api_key
        self._asks_for_usage = asks_for_usage
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        # One deadline a call is enough: `complete` has its own, `stream` sets the connection's.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, call: ProviderCall) -> bytes:
        try:
            async with asyncio.timeout(call.timeout_s):
                response = await self._post(_encode(call))
                try:
                    if response.status != 200:
                        raise await self._refusal(response)
                    return await response.read()
                finally:
                    response.release()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.translate(error) from error

    def stream(self, call: ProviderCall) -> "_Stream":
        return _Stream(self, call)

    def first_event_by_s(self, call: ProviderCall) -> float:
        """When the first event of a stream that is asked for now is due, on the loop's clock."""
        return asyncio.get_running_loop().time() + min(self._first_byte_timeout_s, call.timeout_s)

    async def open(self, call: ProviderCall) -> aiohttp.ClientResponse:
        """A stream whose headers have come. Raises ProviderError."""
        try:
            async with asyncio.timeout(min(self._first_byte_timeout_s, call.timeout_s)):
                response = await self._post(_encode_stream(call, asks_for_usage=self._asks_for_usage))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.translate(error) from error
        try:
            if response.status != 200:
                raise await self._unread_refusal(response)
            if response.content_type != "text/event-stream":
                raise ProviderGarbageError(
                    f"{self._name} answered a stream with {response.content_type}.", provider=self._name, status=200
                )
        except BaseException:
            response.close()
            raise
        _allow_silence(response, self._first_byte_timeout_s)
        return response

    async def read(
        self, response: aiohttp.ClientResponse, decoder: SseDecoder, *, first_event_by_s: float | None
    ) -> Sequence[bytes]:
        """What arrives next; empty after the end.

        Args:
            first_event_by_s: on the loop's clock; None after the first event, when silence is what counts.
        Raises ProviderError when the stream breaks off.
        """
        if decoder.done:
            return ()
        try:
            while received := await response.content.readany():
                payloads = decoder.feed(received)
                if payloads:
                    _allow_silence(response, self._idle_timeout_s)
                    return payloads
                if first_event_by_s is not None:
                    # Comments and halves of events are no answer, however many come.
                    left_s = first_event_by_s - asyncio.get_running_loop().time()
                    if left_s <= 0:
                        raise TimeoutError
                    _allow_silence(response, left_s)
                if decoder.malformed:
                    raise ProviderCutError(f"{self._name} sent a malformed event stream.", provider=self._name)
        except TimeoutError as error:
            what = "did not begin to answer in time" if first_event_by_s is not None else "fell silent in its answer"
            raise ProviderTimeoutError(f"{self._name} {what}.", provider=self._name) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderCutError(
                f"{self._name} broke off in the middle of an answer.", provider=self._name
            ) from error
        raise ProviderCutError(f"{self._name} ended a stream without its end marker.", provider=self._name)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def translate(self, error: Exception) -> ProviderError:
        """What a failure of the HTTP client means."""
        if isinstance(error, TimeoutError):
            return ProviderTimeoutError(f"{self._name} did not answer in time.", provider=self._name)
        # The vendor's message may hold the URL; the type says enough.
        return ProviderUnreachableError(
            f"{self._name} cannot be reached ({type(error).__name__}).", provider=self._name
        )

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                headers=self._headers,
                read_bufsize=256 * 1024,
            )
        # Written in pieces, a large body does not hold up the loop.
        data = body if len(body) <= _WHOLE_BODY_BYTES else io.BytesIO(body)
        return await session.post(self._url, data=data, allow_redirects=False)

    async def _unread_refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                return await self._refusal(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self.translate(error)

    async def _refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        body = await response.content.read(_MAX_ERROR_BYTES)
        return refusal_of(response.status, body, response.headers, provider=self._name, secret=self._secret)


class _Stream:
    """One open stream; see ChatProvider.stream."""

    def __init__(self, provider: OpenAIHttp, call: ProviderCall) -> None:
        self._provider, self._call = provider, call
        self._decoder = SseDecoder()
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> "_Stream":
        self._first_event_by_s: float | None = self._provider.first_event_by_s(self._call)
        self._response = await self._provider.open(self._call)
        return self

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Sequence[bytes]:
        assert self._response is not None
        payloads = await self._provider.read(self._response, self._decoder, first_event_by_s=self._first_event_by_s)
        self._first_event_by_s = None
        if not payloads:
            raise StopAsyncIteration
        return payloads

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        response = self._response
        if response is None:
            return
        try:
            if error is None and self._decoder.done and not response.content.is_eof():
                await _drain(response)
        finally:
            # A response that was read to its end has given its connection back; any other one must be cut off.
            response.close()


def _allow_silence(response: aiohttp.ClientResponse, silence_s: float) -> None:
    """From now on, the provider may be silent for so long; nothing to do once its answer is here to the end."""
    protocol = response.connection.protocol if response.connection is not None else None
    if protocol is not None and protocol.read_timeout != silence_s:
        protocol.read_timeout = silence_s
        protocol.start_timeout()


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Wait a moment for the end that follows [DONE], so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            await response.content.read()
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass


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

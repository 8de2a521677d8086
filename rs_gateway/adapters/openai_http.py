"""Any upstream that speaks OpenAI's protocol, straight over one pooled HTTP client: the fast path."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec

from rs_gateway.adapters.sse import SseDecoder
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.errors import (
    ProviderCutError,
    ProviderError,
    ProviderGarbageError,
    ProviderOverloadedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)

_RETRYABLE_STATUS = frozenset({408, 409, 429})
_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_S = 0.25


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
    ) -> None:
        self._name = name
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._secret = api_key
        self._connect_timeout_s = connect_timeout_s
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, call: ProviderCall) -> bytes:
        timeout = aiohttp.ClientTimeout(total=call.timeout_s, sock_connect=self._connect_timeout_s)
        body = _encode(call, stream=False)
        try:
            async with self._open().post(
                self._url, data=body, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._translate(error) from error

    @asynccontextmanager
    async def stream(self, call: ProviderCall) -> AsyncGenerator[AsyncIterator[Sequence[bytes]]]:
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self._connect_timeout_s,
            sock_read=min(self._first_byte_timeout_s, call.timeout_s),
        )
        body = _encode(call, stream=True)
        try:
            response = await self._open().post(
                self._url, data=body, headers=self._headers, timeout=timeout, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._translate(error) from error
        try:
            if response.status != 200:
                raise await self._unread_refusal(response)
            if response.content_type != "text/event-stream":
                raise ProviderGarbageError(
                    f"{self._name} answered a stream with {response.content_type}.", provider=self._name, status=200
                )
            decoder = SseDecoder()
            yield self._payloads(response, decoder)
            if decoder.done:
                await _drain(response)
        finally:
            # A response that was read to its end has given its connection back; any other one must be cut off.
            response.close()

    async def _payloads(self, response: aiohttp.ClientResponse, decoder: SseDecoder) -> AsyncIterator[Sequence[bytes]]:
        protocol = response.connection.protocol if response.connection is not None else None
        try:
            async for received in response.content.iter_any():
                if protocol is not None:
                    protocol.read_timeout = self._idle_timeout_s
                payloads = decoder.feed(received)
                if payloads:
                    yield payloads
                if decoder.done:
                    return
                if decoder.malformed:
                    raise ProviderCutError(f"{self._name} sent a malformed event stream.", provider=self._name)
        except TimeoutError as error:
            raise ProviderTimeoutError(
                f"{self._name} fell silent in the middle of an answer.", provider=self._name
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderCutError(
                f"{self._name} broke off in the middle of an answer.", provider=self._name
            ) from error
        raise ProviderCutError(f"{self._name} ended a stream without its end marker.", provider=self._name)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
                read_bufsize=256 * 1024,
            )
        return self._session

    async def _unread_refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        try:
            return await self._refusal(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._translate(error)

    async def _refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        """What a status other than 200 means. The body's own words are kept for refusals, without our secret."""
        status = response.status
        body = await response.content.read(_MAX_ERROR_BYTES)
        error = _error_object(body)
        words = str(error.get("message") or f"status {status}")
        if self._secret:
            words = words.replace(self._secret, "***")
        message = f"{self._name}: {words}"
        if status in _RETRYABLE_STATUS or status >= 500:
            return ProviderOverloadedError(
                message,
                provider=self._name,
                status=status,
                retry_after_s=parse_retry_after(response.headers.get("retry-after"), now=datetime.now(UTC)),
            )
        if 400 <= status < 500:
            return ProviderRefusedError(
                message,
                provider=self._name,
                status=status,
                upstream_code=_text_or_none(error.get("code")),
                upstream_type=_text_or_none(error.get("type")),
                upstream_param=_text_or_none(error.get("param")),
            )
        return ProviderGarbageError(f"{self._name} answered with status {status}.", provider=self._name, status=status)

    def _translate(self, error: Exception) -> ProviderError:
        if isinstance(error, TimeoutError):
            return ProviderTimeoutError(f"{self._name} did not answer in time.", provider=self._name)
        # The vendor's message may hold the URL; the type says enough.
        return ProviderUnreachableError(
            f"{self._name} cannot be reached ({type(error).__name__}).", provider=self._name
        )


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Wait a moment for the end that follows [DONE], so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            await response.content.read()
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass


def parse_retry_after(value: str | None, *, now: datetime) -> float | None:
    """Seconds to wait, from a Retry-After header in seconds or as an HTTP date; None when absent or unreadable."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _encode(call: ProviderCall, *, stream: bool) -> bytes:
    body: JsonObject = {**call.parameters, "model": call.model, "messages": call.messages}
    if stream:
        body["stream"] = True
        # Always asked for, so that the trace has real counts; the gateway hides the chunk from who did not ask.
        body["stream_options"] = {**(call.parameters.get("stream_options") or {}), "include_usage": True}
    return msgspec.json.encode(body)


def _error_object(body: bytes) -> JsonObject:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else {}
    if isinstance(error, str):
        return {"message": error}
    return {str(k): v for k, v in error.items()} if isinstance(error, dict) else {}


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)

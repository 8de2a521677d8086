"""Embeddings, Responses and Messages of providers that speak them, straight over one pooled HTTP client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp
import msgspec

from rs_gateway.adapters.http_refusals import refusal_of
from rs_gateway.adapters.sse_events import SseEvents
from rs_gateway.domain.endpoints import Endpoint, EndpointCall, Event
from rs_gateway.domain.errors import (
    ProviderCutError,
    ProviderError,
    ProviderGarbageError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)

ANTHROPIC_BASE_URL = "https://api.anthropic.com/v1"
ANTHROPIC_VERSION = "2023-06-01"
_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_S = 0.25


class EndpointHttp:
    """EndpointProvider over HTTP. Must be created and used inside a running event loop.

    Args:
        base_url: with or without its `/v1`.
        key_header: where the provider expects its key. `x-api-key` is Anthropic's own way; on Messages, who uses
            `authorization` gets the key in both.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        api_key: str | None,
        key_header: Literal["authorization", "x-api-key"] = "authorization",
        connect_timeout_s: float,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        self._name = name
        base_url = base_url.rstrip("/")
        if key_header == "x-api-key" and not base_url.endswith("/v1"):
            base_url += "/v1"  # Anthropic's own clients, and litellm, are configured without it
        self._urls: dict[Endpoint, str] = {e: f"{base_url}/{e}" for e in ("embeddings", "responses", "messages")}
        self._secret = api_key
        self._connect_timeout_s = connect_timeout_s
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        plain = {"content-type": "application/json"}
        messages = {**plain, "anthropic-version": ANTHROPIC_VERSION}
        if api_key:
            messages["x-api-key"] = api_key
            if key_header == "authorization":
                plain["authorization"] = messages["authorization"] = f"Bearer {api_key}"
        self._headers: dict[Endpoint, dict[str, str]] = {"embeddings": plain, "responses": plain, "messages": messages}
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, call: EndpointCall) -> bytes:
        timeout = aiohttp.ClientTimeout(total=call.timeout_s, sock_connect=self._connect_timeout_s)
        try:
            async with await self._post(call, timeout) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._translate(error) from error

    @asynccontextmanager
    async def stream(self, call: EndpointCall) -> AsyncGenerator[AsyncIterator[Sequence[Event]]]:
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self._connect_timeout_s,
            sock_read=min(self._first_byte_timeout_s, call.timeout_s),
        )
        try:
            response = await self._post(call, timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._translate(error) from error
        try:
            if response.status != 200:
                raise await self._unread_refusal(response)
            if response.content_type != "text/event-stream":
                raise ProviderGarbageError(
                    f"{self._name} answered a stream with {response.content_type}.", provider=self._name, status=200
                )
            yield self._events(response)
            await _drain(response)
        finally:
            # A response that was read to its end has given its connection back; any other one must be cut off.
            response.close()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, call: EndpointCall, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        request = call.request
        headers = self._headers[request.endpoint]
        if request.headers:
            headers = {**headers, **request.headers}
        return await self._open().post(
            self._urls[request.endpoint],
            data=msgspec.json.encode(call.body),
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=256 * 1024,
            )
        return self._session

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[Sequence[Event]]:
        protocol = response.connection.protocol if response.connection is not None else None
        decoder = SseEvents()
        secret = self._secret.encode() if self._secret else None
        try:
            async for received in response.content.iter_any():
                if protocol is not None:
                    protocol.read_timeout = self._idle_timeout_s
                events = decoder.feed(received)
                if secret is not None and any(secret in event.raw for event in events):
                    events = [Event(e.raw.replace(secret, b"***"), e.data.replace(secret, b"***")) for e in events]
                if events:
                    yield events
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

    async def _unread_refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        try:
            return await self._refusal(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._translate(error)

    async def _refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        body = await response.content.read(_MAX_ERROR_BYTES)
        return refusal_of(response.status, body, response.headers, provider=self._name, secret=self._secret)

    def _translate(self, error: Exception) -> ProviderError:
        if isinstance(error, TimeoutError):
            return ProviderTimeoutError(f"{self._name} did not answer in time.", provider=self._name)
        # The vendor's message may hold the URL; the type says enough.
        return ProviderUnreachableError(
            f"{self._name} cannot be reached ({type(error).__name__}).", provider=self._name
        )


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Wait a moment for the end that follows the last event, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            await response.content.read()
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass

"""Embeddings, Responses and Messages of providers that speak them, straight over one pooled HTTP client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp
import msgspec
import yarl

from rs_gateway.adapters.sse_events import SseEvents
from rs_gateway.adapters.upstream_http import FAILURES, CloseWatch, UpstreamHttp, allow_silence, drain
from rs_gateway.domain.endpoints import Endpoint, EndpointCall, Event
from rs_gateway.domain.errors import ProviderCutError, ProviderGarbageError

ANTHROPIC_BASE_URL = "https://api.anthropic.com/v1"
ANTHROPIC_VERSION = "2023-06-01"


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
        self._urls: dict[Endpoint, yarl.URL] = {
            e: yarl.URL(f"{base_url}/{e}") for e in ("embeddings", "responses", "messages")
        }
        self._secret = api_key
        self._first_byte_timeout_s, self._idle_timeout_s = first_byte_timeout_s, idle_timeout_s
        self._http = UpstreamHttp(name, secret=api_key, connect_timeout_s=connect_timeout_s, silence_s=idle_timeout_s)
        plain = {"content-type": "application/json"}
        messages = {**plain, "anthropic-version": ANTHROPIC_VERSION}
        if api_key:
            messages["x-api-key"] = api_key
            if key_header == "authorization":
                plain["authorization"] = messages["authorization"] = f"Bearer {api_key}"
        self._headers: dict[Endpoint, dict[str, str]] = {"embeddings": plain, "responses": plain, "messages": messages}

    async def ask(self, call: EndpointCall) -> bytes:
        try:
            async with asyncio.timeout(call.timeout_s):
                response = await self._post(call)
                watch = CloseWatch(response)
                try:
                    if response.status != 200:
                        raise await self._http.refusal(response)
                    return await response.read()
                finally:
                    watch.stop()
                    response.release()
        except FAILURES as error:
            raise self._http.translate(error) from error

    @asynccontextmanager
    async def stream(self, call: EndpointCall) -> AsyncGenerator[AsyncIterator[Sequence[Event]]]:
        try:
            async with asyncio.timeout(min(self._first_byte_timeout_s, call.timeout_s)):
                response = await self._post(call)
        except FAILURES as error:
            raise self._http.translate(error) from error
        watch = CloseWatch(response)
        try:
            if response.status != 200:
                raise await self._http.refusal(response)
            if response.content_type != "text/event-stream":
                raise ProviderGarbageError(
                    f"{self._name} answered a stream with {response.content_type}.", provider=self._name, status=200
                )
            allow_silence(response, min(self._first_byte_timeout_s, call.timeout_s))
            yield self._events(response)
            await drain(response)
        finally:
            watch.stop()
            # A response that was read to its end has given its connection back; any other one must be cut off.
            response.close()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _post(self, call: EndpointCall) -> aiohttp.ClientResponse:
        request = call.request
        headers = self._headers[request.endpoint]
        if request.headers:
            headers = {**headers, **request.headers}
        return await self._http.post(self._urls[request.endpoint], msgspec.json.encode(call.body), headers)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[Sequence[Event]]:
        decoder = SseEvents()
        secret = self._secret.encode() if self._secret else None
        try:
            async for received in response.content.iter_any():
                allow_silence(response, self._idle_timeout_s)
                events = decoder.feed(received)
                if secret is not None and any(secret in event.raw for event in events):
                    events = [Event(e.raw.replace(secret, b"***"), e.data.replace(secret, b"***")) for e in events]
                if events:
                    yield events
                if decoder.malformed:
                    raise ProviderCutError(f"{self._name} sent a malformed event stream.", provider=self._name)
        except FAILURES as error:
            raise self._http.translate_break(error) from error

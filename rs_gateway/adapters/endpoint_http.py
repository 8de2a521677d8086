"""Embeddings, Responses and Messages of providers that speak them, straight over one pooled HTTP client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

import msgspec

from rs_gateway.adapters.http_connection import HttpConnection
from rs_gateway.adapters.sse_events import SseEvents
from rs_gateway.adapters.upstream_http import FAILURES, UpstreamHttp, content_type_of, whole_answer
from rs_gateway.domain.endpoints import Endpoint, EndpointCall, Event
from rs_gateway.domain.errors import ProviderCutError, ProviderGarbageError, ProviderTimeoutError

ANTHROPIC_BASE_URL = "https://api.anthropic.com/v1"
ANTHROPIC_VERSION = "2023-06-01"
_T = TypeVar("_T")


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
        self._secret = api_key
        self._first_byte_timeout_s, self._idle_timeout_s = first_byte_timeout_s, idle_timeout_s
        self._http = UpstreamHttp(
            name, base_url=base_url, secret=api_key, connect_timeout_s=connect_timeout_s, silence_s=idle_timeout_s
        )
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
                connection, body = await self._ask(call, whole_answer)
                try:
                    if connection.status != 200:
                        raise await self._http.refusal(connection)
                    return body
                finally:
                    self._http.release(connection)
        except FAILURES as error:
            raise self._http.translate(error) from error

    @asynccontextmanager
    async def stream(self, call: EndpointCall) -> AsyncGenerator[AsyncIterator[Sequence[Event]]]:
        begin_by_s = asyncio.get_running_loop().time() + min(self._first_byte_timeout_s, call.timeout_s)
        try:
            async with asyncio.timeout_at(begin_by_s):
                connection, _ = await self._ask(call, HttpConnection.head)
        except FAILURES as error:
            raise self._http.translate(error) from error
        try:
            if connection.status != 200:
                raise await self._http.refusal(connection)
            content_type = content_type_of(connection)
            if content_type != "text/event-stream":
                raise ProviderGarbageError(
                    f"{self._name} answered a stream with {content_type}.", provider=self._name, status=200
                )
            yield self._events(connection, begin_by_s)
        except BaseException:
            self._http.release(connection)
            raise
        self._http.release_soon(connection)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(
        self, call: EndpointCall, read: Callable[[HttpConnection], Awaitable[_T]]
    ) -> tuple[HttpConnection, _T]:
        request = call.request
        headers = self._headers[request.endpoint]
        if request.headers:
            headers = {**headers, **request.headers}
        head = self._http.head_of(f"/{request.endpoint}", headers)
        return await self._http.ask(head, msgspec.json.encode(call.body), read)

    async def _events(self, connection: HttpConnection, begin_by_s: float) -> AsyncIterator[Sequence[Event]]:
        loop, decoder, begun = asyncio.get_running_loop(), SseEvents(), False
        secret = self._secret.encode() if self._secret else None
        try:
            while True:
                # Comments and halves of events are no answer, however many come.
                async with asyncio.timeout_at(loop.time() + self._idle_timeout_s if begun else begin_by_s):
                    received = await connection.piece()
                if not received:
                    return
                events = decoder.feed(received)
                begun = begun or any(event.data for event in events)
                if secret is not None and any(secret in event.raw for event in events):
                    events = [Event(e.raw.replace(secret, b"***"), e.data.replace(secret, b"***")) for e in events]
                if events:
                    yield events
                if decoder.malformed:
                    raise ProviderCutError(f"{self._name} sent a malformed event stream.", provider=self._name)
        except FAILURES as error:
            if isinstance(error, TimeoutError) and not begun:
                raise ProviderTimeoutError(
                    f"{self._name} did not begin to answer in time.", provider=self._name
                ) from error
            raise self._http.translate_break(error) from error

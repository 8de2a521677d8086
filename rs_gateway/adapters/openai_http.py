"""Any upstream that speaks OpenAI's protocol, straight over one pooled HTTP client: the fast path."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType

import msgspec

from rs_gateway.adapters.http_connection import HttpConnection
from rs_gateway.adapters.shared_timer import Limit, SharedTimer
from rs_gateway.adapters.sse import SseDecoder
from rs_gateway.adapters.upstream_http import FAILURES, UpstreamHttp, content_type_of, whole_answer
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.errors import ProviderCutError, ProviderGarbageError, ProviderTimeoutError
from rs_gateway.domain.ports import PushedBatches


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
        self.http = UpstreamHttp(
            name,
            base_url=base_url,
            secret=api_key,
            connect_timeout_s=connect_timeout_s,
            silence_s=idle_timeout_s,
        )
        headers = {"content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._head = self.http.head_of("/chat/completions", headers)
        self._asks_for_usage = asks_for_usage
        self.first_byte_timeout_s, self.idle_timeout_s = first_byte_timeout_s, idle_timeout_s
        self._first_byte: SharedTimer | None = None

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
            connection, body = await self.http.ask(self._head, _encode(call), whole_answer)
            try:
                if connection.status != 200:
                    raise await self.http.refusal(connection)
                return body
            finally:
                self.http.release(connection)
        except FAILURES as error:
            raise self.http.translate(error) from error

    def stream(self, call: ProviderCall) -> "_Stream":
        return _Stream(self, call)

    async def open(self, call: ProviderCall) -> HttpConnection:
        """A stream whose head has come. Raises ProviderError."""
        body = _encode_stream(call, asks_for_usage=self._asks_for_usage)
        if self._first_byte is None:
            self._first_byte = SharedTimer(self.first_byte_timeout_s)
        try:
            with Limit(self._first_byte):
                connection, _ = await self.http.ask(self._head, body, HttpConnection.head)
        except FAILURES as error:
            raise self.http.translate(error) from error
        try:
            if connection.status != 200:
                raise await self.http.refusal(connection)
            content_type = content_type_of(connection)
            if content_type != "text/event-stream":
                raise ProviderGarbageError(
                    f"{self.name} answered a stream with {content_type}.", provider=self.name, status=200
                )
        except BaseException:
            self.http.release(connection)
            raise
        return connection

    async def aclose(self) -> None:
        await self.http.aclose()


class _Stream(PushedBatches):
    """One open stream; see ChatProvider.stream."""

    def __init__(self, provider: OpenAIHttp, call: ProviderCall) -> None:
        self._provider, self._call = provider, call
        self._decoder = SseDecoder()
        self._connection: HttpConnection | None = None

    async def __aenter__(self) -> "_Stream":
        provider = self._provider
        self._loop = asyncio.get_running_loop()
        self._first_event_by_s: float | None = self._loop.time() + provider.first_byte_timeout_s
        self._connection = await provider.open(self._call)
        # One timer a stream, not one a chunk: when it rings, it is set again for what is left of the patience.
        self._timer = self._loop.call_at(self._first_event_by_s, self._look, self._connection)
        return self

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Sequence[bytes]:
        """What arrives next; never empty."""
        connection, decoder = self._connection, self._decoder
        assert connection is not None
        if decoder.done:
            raise StopAsyncIteration
        try:
            while not decoder.malformed and (received := await connection.piece()):
                payloads = decoder.feed(received)
                if self._first_event_by_s is None:
                    if payloads:
                        return payloads
                elif self._begins(payloads):
                    return payloads
        except FAILURES as error:
            name = self._provider.name
            if isinstance(error, TimeoutError) and self._first_event_by_s is not None:
                raise ProviderTimeoutError(f"{name} did not begin to answer in time.", provider=name) from error
            raise self._provider.http.translate_break(error) from error
        return self._ended()

    async def pushed(self, take: Callable[[Sequence[bytes]], bool]) -> bool:
        connection, decoder = self._connection, self._decoder
        assert connection is not None and self._first_event_by_s is None
        stopped = False

        def received(data: bytes) -> bool:
            nonlocal stopped
            payloads = decoder.feed(data)
            stopped = bool(payloads) and not take(payloads)
            return not (stopped or decoder.done or decoder.malformed)

        if decoder.done:
            return False
        try:
            if not decoder.malformed and await connection.pushed(received) and (stopped or decoder.done):
                return stopped
        except FAILURES as error:
            raise self._provider.http.translate_break(error) from error
        return not take(self._ended())

    def _begins(self, payloads: Sequence[bytes]) -> bool:
        """Whether the first event has come. Raises TimeoutError: comments and halves of events are none."""
        assert self._first_event_by_s is not None and self._connection is not None
        if payloads:
            self._first_event_by_s = None
            self._timer.cancel()
            self._look(self._connection)
            return True
        if self._loop.time() >= self._first_event_by_s:
            raise TimeoutError
        return False

    def _ended(self) -> Sequence[bytes]:
        """The end marker, if it was only cut short. Raises ProviderCutError."""
        name = self._provider.name
        if self._decoder.malformed:
            raise ProviderCutError(f"{name} sent a malformed event stream.", provider=name)
        if payloads := self._decoder.end():
            return payloads
        raise ProviderCutError(f"{name} ended a stream without its end marker.", provider=name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._connection
        if connection is None:
            return
        self._timer.cancel()
        if error is None and self._decoder.done:
            self._provider.http.release_soon(connection)
        else:
            self._provider.http.release(connection)

    def _look(self, connection: HttpConnection) -> None:
        due_s = self._first_event_by_s
        if due_s is None:
            # While nobody waits for the provider, it is not the one who is late.
            since_s = connection.heard_at_s if connection.waits else self._loop.time()
            due_s = since_s + self._provider.idle_timeout_s
        if due_s <= self._loop.time():
            connection.give_up(TimeoutError())
        else:
            self._timer = self._loop.call_at(due_s, self._look, connection)


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

"""A scripted upstream on loopback: speaks OpenAI's wire format, or breaks it in exactly the way a test asks for."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

JsonDict = dict[str, Any]
Behaviour = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request that the upstream got, and the way to answer it byte by byte."""

    headers: dict[str, str]
    body: JsonDict
    writer: asyncio.StreamWriter
    hung_up: asyncio.Event
    told: asyncio.Event
    """Set by `Upstream.tell`, for behaviours that wait for their test."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, content_type: str, *, length: int | None = None, extra: str = "") -> None:
        framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        await self.send(f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{framing}\r\n{extra}\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def json(self, status: int, value: Any, *, extra: str = "") -> None:
        data = json.dumps(value).encode()
        await self.head(status, "application/json", length=len(data), extra=extra)
        await self.send(data)

    def cut(self) -> None:
        """Reset the connection, as a crashed upstream does."""
        self.writer.transport.abort()


@dataclass
class Upstream:
    """Answers requests with `script` in turn (the last one repeats); keeps what it was asked in `requests`.

    Attributes:
        n_accepted: connections so far; n_open: of these, those that are open now; n_busy: exchanges under way.
    """

    script: list[Behaviour]
    requests: list[JsonDict] = field(default_factory=list[JsonDict])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    hang_ups: int = 0
    base_url: str = ""
    n_accepted: int = 0
    n_open: int = 0
    n_busy: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None

    def tell(self) -> None:
        """Let behaviours go on that wait for `Exchange.told`."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.told.set)

    @contextlib.contextmanager
    def running(self) -> Generator["Upstream"]:
        self._loop = loop = asyncio.new_event_loop()
        ready = threading.Event()
        stop = asyncio.Event()

        async def main() -> None:
            server = await loop.create_server(lambda: _Connection(self._serve), "127.0.0.1", 0, backlog=2048)
            self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            ready.set()
            await stop.wait()
            server.close()
            for task in asyncio.all_tasks(loop) - {asyncio.current_task(loop)}:
                task.cancel()

        thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
        thread.start()
        assert ready.wait(60), "the upstream did not start"
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(60)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_accepted += 1
        self.n_open += 1
        try:
            await self._answer(reader, writer)
        finally:
            self.n_open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.transport.get_protocol()
        assert isinstance(connection, _Connection)
        gone = connection.gone
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = {
                    line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip()
                    for line in head.split("\r\n")[1:]
                    if ":" in line
                }
                body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
                behaviour = self.script[min(len(self.requests), len(self.script) - 1)]
                self.requests.append(body)
                self.headers.append(headers)
                exchange = Exchange(headers, body, writer, asyncio.Event(), self.told)
                watch = asyncio.ensure_future(self._watch(gone, exchange))
                self.n_busy += 1
                try:
                    await behaviour(exchange)
                finally:
                    self.n_busy -= 1
                    watch.cancel()
                    await asyncio.gather(watch, return_exceptions=True)
        writer.transport.abort()

    async def _watch(self, gone: asyncio.Event, exchange: Exchange) -> None:
        """Notices that the other side hung up while an answer is under way."""
        await gone.wait()
        self.hang_ups += 1
        exchange.hung_up.set()


class _Connection(asyncio.StreamReaderProtocol):
    """One connection, which tells of its end."""

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        self.gone = asyncio.Event()
        super().__init__(asyncio.StreamReader(loop=loop), serve, loop=loop)

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


def completion(content: str, *, finish_reason: str | None = "stop", usage: JsonDict | None = None) -> JsonDict:
    """A `chat.completion` object."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "model-v1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}],
        "usage": usage or {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }


def chunk(delta: JsonDict, *, finish_reason: str | None = None) -> bytes:
    """One SSE event with a `chat.completion.chunk`."""
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "model-v1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


USAGE_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"model-v1","choices":[],'
    b'"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def answers(content: str, **options: Any) -> Behaviour:
    """A whole answer, streamed word by word if the request asks for a stream."""

    async def behave(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await streams(content.split(" "))(exchange)
        else:
            await exchange.json(200, completion(content, **options))

    return behave


def streams(words: Iterable[str], *, finish_reason: str = "stop", usage: bool = True) -> Behaviour:
    """A complete stream."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        await exchange.chunk(chunk({"role": "assistant", "content": ""}))
        for position, word in enumerate(words):
            await exchange.chunk(chunk({"content": word if position == 0 else " " + word}))
        await exchange.chunk(chunk({}, finish_reason=finish_reason))
        if usage:
            await exchange.chunk(USAGE_CHUNK)
        await exchange.chunk(DONE)
        await exchange.end()

    return behave


def sends(events: Iterable[bytes], *, then: str = "end", content_type: str = "text/event-stream") -> Behaviour:
    """A stream of exactly these bytes, then `end` (a clean one), `cut` (a reset) or `stall` (silence)."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, content_type)
        for event in events:
            await exchange.chunk(event)
        if then == "stall":
            await exchange.hung_up.wait()
        elif then == "cut":
            exchange.cut()
        else:
            await exchange.end()

    return behave


def fails(status: int, body: Any | None = None, *, extra: str = "") -> Behaviour:
    """An error answer."""

    async def behave(exchange: Exchange) -> None:
        error = {
            "error": {"message": f"upstream says {status}", "type": "some_type", "param": None, "code": "some_code"}
        }
        await exchange.json(status, error if body is None else body, extra=extra)

    return behave


def page(html: bytes = b"<html>hello</html>") -> Behaviour:
    """A web page with status 200, as a captive proxy gives."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/html", length=len(html))
        await exchange.send(html)

    return behave


async def resets(exchange: Exchange) -> None:
    """The connection breaks before any answer."""
    exchange.cut()


async def hangs(exchange: Exchange) -> None:
    """No answer at all, until the other side gives up."""
    await exchange.hung_up.wait()

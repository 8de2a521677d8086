"""Ways to fail before the answer begins, beyond those of `tests/upstream.py`."""

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import Generator

from tests import upstream as wire
from tests.upstream import Behaviour, Exchange


def speaks(raw: bytes) -> Behaviour:
    """Exactly these bytes in the place of an HTTP answer, then the end of the connection."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(raw)
        exchange.writer.close()
        await exchange.hung_up.wait()

    return behave


def zipped(content: str) -> Behaviour:
    """A whole answer or a stream of its words, compressed."""

    async def behave(exchange: Exchange) -> None:
        gzipped = "content-encoding: gzip\r\n"
        if not exchange.body.get("stream"):
            data = gzip.compress(json.dumps(wire.completion(content)).encode())
            await exchange.head(200, "application/json", length=len(data), extra=gzipped)
            await exchange.send(data)
            return
        events = [wire.chunk({"content": piece}) for piece in content.split(" ")]
        data = gzip.compress(b"".join([*events, wire.chunk({}, finish_reason="stop"), wire.DONE]))
        await exchange.head(200, "text/event-stream", extra=gzipped)
        for position in range(0, len(data), 7):
            await exchange.chunk(data[position : position + 7])
        await exchange.end()

    return behave


def drips(first: bytes, drop: bytes, *, every_s: float = 0.02) -> Behaviour:
    """`first`, then `drop` again and again until the other side gives up."""

    async def behave(exchange: Exchange) -> None:
        if first:
            await exchange.send(first)
        while not exchange.hung_up.is_set():
            await exchange.send(drop)
            await asyncio.sleep(every_s)

    return behave


def late(behaviour: Behaviour, *, by_s: float) -> Behaviour:
    """The same, after a pause."""

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(by_s)
        await behaviour(exchange)

    return behave


def unread_refusal() -> Behaviour:
    """A 503 whose body is not what its headers promise."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(503, "application/json", length=10, extra="content-encoding: gzip\r\n")
        await exchange.send(b"not gzip!!")

    return behave


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(data: bytes) -> bytes:
    """One chunk of a chunked answer."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def nobody_there() -> str:
    """A base URL where nothing listens."""
    with contextlib.closing(socket.socket()) as gone:
        gone.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{gone.getsockname()[1]}/v1"


@contextlib.contextmanager
def nobody_picks_up() -> Generator[str]:
    """A base URL whose host answers no connection attempt: its queue of them is full."""
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(contextlib.closing(socket.socket()))
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(contextlib.closing(socket.socket()))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(deaf.getsockname())
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"

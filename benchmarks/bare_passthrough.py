"""The least that a gateway on uvicorn and our HTTP client can do: read the body, post it, hand back what comes.

No key, no routing, no record. It is the ceiling against which the cost of all features together is measured.

    python -m benchmarks.bare_passthrough PORT UPSTREAM_BASE_URL
"""

import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from rs_gateway.adapters.http_address import parse_address
from rs_gateway.adapters.http_connection import lines_of
from rs_gateway.adapters.http_pool import HttpPool

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_FORWARDED = frozenset({b"authorization", b"content-type"})


class BarePassthrough:
    """An ASGI application. Streams go out chunk by chunk as they come in; everything else in one piece."""

    def __init__(self, base_url: str) -> None:
        address = parse_address(base_url)
        self._host = address.authority
        self._pool = HttpPool(address, connect_timeout_s=5)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._forward(scope, receive, send)
        elif scope["type"] == "http":
            await _answer(send, 200, b"text/plain", b"ok")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _forward(self, scope: Message, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name in _FORWARDED}
        head = f"POST {scope['path']} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n"
        connection = await self._pool.connection()
        try:
            connection.send(head.encode() + lines_of(iter(headers.items())) + b"\r\n", body)
            status = await connection.head()
            content_type = (connection.header(b"content-type") or "application/json").encode()
            if not content_type.startswith(b"text/event-stream"):
                await _answer(send, status, content_type, await connection.whole())
                return
            start = {"type": "http.response.start", "status": status}
            await send({**start, "headers": [(b"content-type", content_type)]})
            while chunk := await connection.piece():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._pool.release(connection)


async def _answer(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def application() -> BarePassthrough:
    """For uvicorn. The upstream is named by `BENCH_UPSTREAM`, such as `http://127.0.0.1:9000`."""
    return BarePassthrough(os.environ["BENCH_UPSTREAM"])


if __name__ == "__main__":
    os.environ["BENCH_UPSTREAM"] = sys.argv[2]
    uvicorn.run(
        "benchmarks.bare_passthrough:application",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
    )

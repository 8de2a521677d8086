"""The hot route. A plain ASGI callable in front of FastAPI's router: no dependency solving, no response model."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from ulid import ULID

from rs_gateway.api.errors import body_of, headers_of, status_of
from rs_gateway.api.requests import parse_chat_request
from rs_gateway.domain.errors import RequestTooLargeError, RouteSwitchError
from rs_gateway.gateway import Gateway, Journey

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger()
CHAT_PATH = "/v1/chat/completions"


class ClientLeftError(Exception):
    """The client hung up; nobody is there to be answered."""


class ChatRoute:
    """`POST /v1/chat/completions`."""

    def __init__(self, gateway: Gateway, *, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        journey: Journey | None = None
        try:
            body = await read_body(scope, receive, limit=self._max_body_bytes)
            journey = self._gateway.begin(parse_chat_request(body))
            async with _cancelled_when_client_leaves(receive):
                if journey.request.stream:
                    await self._stream(journey, send)
                else:
                    completion = await self._gateway.complete(journey)
                    await _respond(send, 200, completion.body, journey)
        except ClientLeftError:
            if journey is not None:
                log.info("client_left", trace_id=journey.trace_id)
        except RouteSwitchError as error:
            await _respond(send, status_of(error), body_of(error), journey, headers_of(error))

    async def _stream(self, journey: Journey, send: Send) -> None:
        async with self._gateway.stream(journey) as answering:
            headers = _headers(journey, b"text/event-stream; charset=utf-8")
            headers.append((b"cache-control", b"no-cache"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for block in answering.blocks:
                await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """The whole request body. Raises RequestTooLargeError as soon as it is known to exceed `limit` bytes."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise RequestTooLargeError(f"The body has {int(value):,} bytes; at most {limit:,} are accepted.")
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request" and len(message["body"]) <= limit:
        return message["body"]
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise RequestTooLargeError(f"The body exceeds {limit:,} bytes, the most that is accepted.")
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


class _cancelled_when_client_leaves:  # noqa: N801  # reads as the statement that it is
    """Cancels the block when the client hangs up, which cancels its upstream call; raises ClientLeftError instead."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._watch = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        assert self._task is not None
        self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._watch.cancel()
        if self._left and isinstance(error, asyncio.CancelledError):
            assert self._task is not None
            self._task.uncancel()
            raise ClientLeftError from error


def _headers(journey: Journey | None, content_type: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", content_type)]
    if journey is None:
        headers.append((b"x-request-id", str(ULID()).encode()))
    else:
        trace_id = journey.trace_id.encode()
        headers += [(b"x-request-id", trace_id), (b"x-route-switch-trace-id", trace_id)]
        headers.append((b"x-route-switch-overhead-ms", b"%.3f" % journey.overhead_ms))
        if journey.combination is not None:
            headers.append((b"x-route-switch-combination", journey.combination.combination_id.encode("utf-8")))
        if journey.version is not None:
            headers.append((b"x-route-switch-version", b"%d" % journey.version))
    return headers


async def _respond(
    send: Send, status: int, body: bytes, journey: Journey | None, extra: dict[str, str] | None = None
) -> None:
    headers = _headers(journey, b"application/json")
    headers.append((b"content-length", b"%d" % len(body)))
    headers += [(name.encode(), value.encode()) for name, value in (extra or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

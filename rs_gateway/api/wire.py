"""What every route of our own does with ASGI: read a body within its limits, notice that the client has left."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol, TypeAlias

from rs_gateway.adapters.shared_timer import SharedTimer
from rs_gateway.domain.errors import InvalidRequestError, RequestTooLargeError
from rs_gateway.http_protocol import CONNECTION, DirectStream

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

_WATCH_AFTER_S = 0.05
"""A client that leaves sooner than this is noticed this late; most refusals need no watch at all."""


class ClientLeftError(Exception):
    """The client hung up; nobody is there to be answered."""


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """The whole request body.

    Raises:
        RequestTooLargeError: as soon as it is known to exceed `limit` bytes.
        InvalidRequestError: it is compressed.
        ClientLeftError: it will never be complete.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise RequestTooLargeError(f"The body has {int(value):,} bytes; at most {limit:,} are accepted.")
        if name == b"content-encoding" and value.strip().lower() not in (b"identity", b""):
            raise InvalidRequestError(
                f"The body comes with content-encoding {value[:50].decode('latin-1')!r}: send it uncompressed.",
                param="content-encoding",
            )
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


class Connection(Protocol):
    """What the server lets us do to a client's connection."""

    def answer(self, head: bytes, body: bytes) -> bool:
        """Send a whole answer with one write: status line and header lines, then the body. False: it cannot be."""
        ...

    def stream(self) -> DirectStream | None:
        """A way past ASGI for the answer that is to begin now; None where there is none."""
        ...

    def abort(self) -> None:
        """Drop it at once: closing would wait until everything was read."""
        ...

    def close_after_answer(self) -> None:
        """Close it when the answer that is under way has been sent."""
        ...


def connection_of(scope: Scope) -> Connection | None:
    """The client's connection; None under a server that does not hand it out."""
    extension = scope.get("extensions", {}).get(CONNECTION)
    return extension["connection"] if extension is not None else None


class ClientWatch:
    """Notices clients that hang up. One for all requests of a route, made inside the event loop."""

    def __init__(self) -> None:
        # A watch is a task of its own; a request that is answered at once does without.
        self._begins = SharedTimer(_WATCH_AFTER_S)

    def cancelled_when_client_leaves(self, receive: Receive) -> "Watched":
        """Cancels the block when the client hangs up, which cancels its upstream call; raises ClientLeftError then."""
        return Watched(self._begins, receive)


class Watched:
    """One request's watch; see ClientWatch."""

    def __init__(self, begins: SharedTimer, receive: Receive) -> None:
        self._begins, self._receive = begins, receive
        self._left = False
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> "Watched":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._token = self._begins.start(self._begin)
        return self

    def over(self) -> None:
        """The answer is complete: from here on the server reports every client as gone."""
        self._begins.stop(self._token)
        if self._watch is not None:
            self._watch.cancel()

    def _begin(self) -> None:
        self._watch = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._begins.stop(self._token)
        if self._watch is not None:
            self._watch.cancel()
        if self._left and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientLeftError from error

"""The hot route. A plain ASGI callable in front of FastAPI's router: no dependency solving, no response model."""

import time
from collections.abc import Callable

import structlog

from rs_gateway.api.errors import body_of, headers_of, status_of
from rs_gateway.api.requests import parse_chat_request
from rs_gateway.api.wire import (
    ClientLeftError,
    ClientWatch,
    Headers,
    Receive,
    Scope,
    Send,
    Watched,
    connection_of,
    read_body,
)
from rs_gateway.domain.access import OPEN, Admission
from rs_gateway.domain.errors import ClientStalledError, InvalidRequestError, RouteSwitchError
from rs_gateway.domain.traces import StoreMode, least
from rs_gateway.gateway import Gateway
from rs_gateway.http_protocol import DirectStream
from rs_gateway.journey import Caller, Journey

log = structlog.get_logger()
CHAT_PATH = "/v1/chat/completions"
_HEAD = (
    b"x-request-id: %b\r\nx-route-switch-trace-id: %b\r\n"
    b"x-route-switch-overhead-ms: %.3f\r\nx-route-switch-combination: %b\r\n%b"
)
_WHOLE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + _HEAD + b"content-length: "
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n" + _HEAD
)
STORE_HEADER = "x-route-switch-store"


class ChatRoute:
    """`POST /v1/chat/completions`.

    Args:
        admit: request headers -> Admission; raises RouteSwitchError when the client is not let in.
    """

    def __init__(
        self, gateway: Gateway, *, max_body_bytes: int, admit: Callable[[Headers], Admission] = lambda headers: OPEN
    ) -> None:
        self._gateway = gateway
        self._admit = admit
        self._max_body_bytes = max_body_bytes
        self._clients = ClientWatch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        journey: Journey | None = None
        caller, accounted = Caller(), False
        try:
            caller = caller_of(scope["headers"], self._admit)
            body = await read_body(scope, receive, limit=self._max_body_bytes)
            journey = self._gateway.begin(parse_chat_request(body), caller)
            with self._clients.cancelled_when_client_leaves(receive) as watched:
                if journey.request.stream:
                    await self._gateway.stream(journey, _Client(scope, send, watched))
                else:
                    answer = await self._gateway.complete(journey)
                    await _answer(scope, send, answer, journey)
        except (ClientLeftError, ClientStalledError) as gone:
            connection = connection_of(scope)
            if isinstance(gone, ClientStalledError) and connection is not None:
                connection.abort()
            if journey is not None:
                log.info("client_left", trace_id=journey.trace_id)
        except RouteSwitchError as error:
            accounted = True
            request_id = (
                await self._gateway.refuse(error, caller, started=started) if journey is None else journey.trace_id
            )
            await _respond(send, status_of(error), body_of(error), journey, request_id, headers_of(error))
        finally:
            if not accounted and journey is None:  # nobody else gives the key its place back
                caller.admission.settle(tokens=0, cost_usd=None)


def caller_of(headers: Headers, admit: Callable[[Headers], Admission]) -> Caller:
    """Who asks. Raises RouteSwitchError when they are not let in, or ask for a store mode that there is not."""
    store, traceparent = StoreMode.FULL, None
    for name, value in headers:
        if name == b"x-route-switch-store":
            store = least(store, _store_mode(value))
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
    return Caller(admit(headers), store, traceparent)


def _store_mode(value: bytes) -> StoreMode:
    try:
        return StoreMode(value.decode("latin-1").strip().lower())
    except ValueError:
        raise InvalidRequestError(
            f"The header {STORE_HEADER} is full, metrics or none, not {value[:50].decode('latin-1')!r}.",
            param=STORE_HEADER,
        ) from None


class _Client:
    """The client's end of a stream: past ASGI where the server lets us, through `send` elsewhere."""

    def __init__(self, scope: Scope, send: Send, watched: Watched) -> None:
        self._scope, self._send, self._watched = scope, send, watched
        self._direct: DirectStream | None = None
        self._begins_with: Journey | None = None
        self._unsent = b""

    def begin(self, journey: Journey, block: bytes) -> bool:
        connection, head = connection_of(self._scope), _head(_STREAM_HEAD, journey)
        self._direct = connection.stream() if connection is not None and head is not None else None
        if self._direct is not None and head is not None:
            return self._direct.begin(head, block)
        self._begins_with, self._unsent = journey, block
        return False

    def write(self, block: bytes) -> bool:
        if self._direct is not None:
            return self._direct.write(block)
        self._unsent = block
        return False

    async def room(self) -> None:
        if self._direct is not None:
            await self._direct.room()
            return
        if self._begins_with is not None:
            journey, self._begins_with = self._begins_with, None
            headers = _headers(journey, journey.trace_id, b"text/event-stream; charset=utf-8")
            headers.append((b"cache-control", b"no-cache"))
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if self._unsent:
            block, self._unsent = self._unsent, b""
            await self._send({"type": "http.response.body", "body": block, "more_body": True})

    async def end(self, block: bytes) -> None:
        self._watched.over()
        if self._direct is not None:
            self._direct.end(block)
        else:
            await self.room()
            await self._send({"type": "http.response.body", "body": block, "more_body": False})

    async def fail(self, block: bytes) -> None:
        if self._direct is not None:
            self._watched.over()
            self._direct.fail(block)
            return
        connection = connection_of(self._scope)
        if connection is not None:
            connection.close_after_answer()
        await self.end(block)


def _headers(journey: Journey | None, request_id: str, content_type: bytes) -> list[tuple[bytes, bytes]]:
    trace_id = request_id.encode()
    headers = [(b"content-type", content_type), (b"x-request-id", trace_id)]
    if journey is not None:
        headers.append((b"x-route-switch-trace-id", trace_id))
        headers.append((b"x-route-switch-overhead-ms", b"%.3f" % journey.overhead_ms))
        if journey.combination is not None:
            headers.append((b"x-route-switch-combination", journey.combination.combination_id.encode("utf-8")))
        if journey.version is not None:
            headers.append((b"x-route-switch-version", b"%d" % journey.version))
    return headers


async def _answer(scope: Scope, send: Send, body: bytes, journey: Journey) -> None:
    """A whole answer: in one write where the server lets us."""
    connection, head = connection_of(scope), _head(_WHOLE_HEAD, journey)
    if connection is None or head is None or not connection.answer(b"%b%d\r\n" % (head, len(body)), body):
        await _respond(send, 200, body, journey, journey.trace_id)


def _head(template: bytes, journey: Journey) -> bytes | None:
    """The head of an answer; None when a name in it needs a second look."""
    combination = journey.combination
    assert combination is not None
    name = combination.combination_id
    if not (name.isascii() and name.isprintable()):
        return None
    version = b"" if journey.version is None else b"x-route-switch-version: %d\r\n" % journey.version
    trace_id = journey.trace_id.encode()
    return template % (trace_id, trace_id, journey.overhead_ms, name.encode(), version)


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    journey: Journey | None,
    request_id: str,
    extra: dict[str, str] | None = None,
) -> None:
    headers = _headers(journey, request_id, b"application/json")
    headers.append((b"content-length", b"%d" % len(body)))
    if extra:
        headers += [(name.encode(), value.encode()) for name, value in extra.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

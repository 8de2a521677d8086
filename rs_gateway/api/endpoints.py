"""`POST /v1/embeddings`, `/v1/responses` and `/v1/messages`: plain ASGI callables in front of FastAPI's router."""

import time
from collections.abc import Callable

import structlog

from rs_gateway.api.chat import caller_of
from rs_gateway.api.endpoint_errors import error_body, error_event
from rs_gateway.api.errors import headers_of, status_of
from rs_gateway.api.requests import decode_object
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
from rs_gateway.domain.endpoints import ENDPOINT_PATHS, Endpoint, EndpointRequest
from rs_gateway.domain.errors import ClientStalledError, InvalidRequestError, RouteSwitchError
from rs_gateway.journey import Caller
from rs_gateway.passthrough import Passage, Passthrough

log = structlog.get_logger()
_FORWARDED_HEADERS = frozenset({b"anthropic-version", b"anthropic-beta"})
"""Select features of the Messages API and nothing else; no other header of a client reaches a provider."""
_MAX_HEADER_BYTES = 1_000


class EndpointRoute:
    """One of the endpoints.

    Args:
        admit: request headers -> Admission; raises RouteSwitchError when the client is not let in.
    """

    def __init__(
        self,
        passthrough: Passthrough,
        endpoint: Endpoint,
        *,
        max_body_bytes: int,
        admit: Callable[[Headers], Admission] = lambda headers: OPEN,
    ) -> None:
        self._passthrough = passthrough
        self._endpoint: Endpoint = endpoint
        self._admit = admit
        self._max_body_bytes = max_body_bytes
        self._clients = ClientWatch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        passage: Passage | None = None
        caller, accounted = Caller(), False
        try:
            caller = caller_of(scope["headers"], self._admit)
            body = await read_body(scope, receive, limit=self._max_body_bytes)
            passage = self._passthrough.begin(parse_endpoint_request(self._endpoint, body, scope["headers"]), caller)
            with self._clients.cancelled_when_client_leaves(receive) as watched:
                if passage.request.stream:
                    client = _Client(scope, send, watched)
                    await self._passthrough.stream(passage, client)
                    await client.end()
                else:
                    answer = await self._passthrough.complete(passage)
                    await self._respond(send, 200, answer, passage, passage.trace_id)
        except (ClientLeftError, ClientStalledError) as gone:
            connection = connection_of(scope)
            if isinstance(gone, ClientStalledError) and connection is not None:
                connection.abort()
            if passage is not None:
                log.info("client_left", trace_id=passage.trace_id)
        except RouteSwitchError as error:
            accounted = True
            if passage is None:
                request_id = await self._passthrough.refuse(self._endpoint, error, caller, started=started)
            else:
                request_id = passage.trace_id
            refusal = error_body(self._endpoint, error, request_id=request_id)
            await self._respond(send, status_of(error), refusal, passage, request_id, headers_of(error))
        finally:
            if not accounted and passage is None:  # nobody else gives the key its place back
                caller.admission.settle(tokens=0, cost_usd=None)

    async def _respond(
        self,
        send: Send,
        status: int,
        body: bytes,
        passage: Passage | None,
        request_id: str,
        extra: dict[str, str] | None = None,
    ) -> None:
        headers = _headers(self._endpoint, passage, request_id, b"application/json")
        headers.append((b"content-length", b"%d" % len(body)))
        if extra:
            headers += [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def parse_endpoint_request(endpoint: Endpoint, body: bytes, headers: Headers) -> EndpointRequest:
    """Raises InvalidRequestError, naming the field and what it should be."""
    fields = decode_object(body)
    model = fields.pop("model", None)
    if not isinstance(model, str) or not model:
        raise InvalidRequestError("`model` is missing: name a model that a provider lists.", param="model")
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequestError("`stream` is true or false.", param="stream")
    if endpoint == "embeddings" and stream:
        raise InvalidRequestError(f"{ENDPOINT_PATHS[endpoint]} has no streams: leave `stream` out.", param="stream")
    if endpoint == "responses" and fields.get("background"):
        raise InvalidRequestError(
            "`background` is not served here: the answer could not be fetched later. Leave it out, or use `stream`.",
            param="background",
        )
    forwarded = _forwarded(headers) if endpoint == "messages" else {}
    return EndpointRequest(endpoint, model, fields, stream=stream is True, headers=forwarded)


def encode_error(passage: Passage, error: RouteSwitchError, number: int) -> bytes:
    """The error event of a stream that broke off, for `Passthrough`."""
    return error_event(passage.request.endpoint, error, request_id=passage.trace_id, number=number)


class _Client:
    """The client's end of a stream."""

    def __init__(self, scope: Scope, send: Send, watched: Watched) -> None:
        self._scope, self._send, self._watched = scope, send, watched

    async def begin(self, passage: Passage) -> None:
        headers = _headers(passage.request.endpoint, passage, passage.trace_id, b"text/event-stream; charset=utf-8")
        headers.append((b"cache-control", b"no-cache"))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, block: bytes) -> None:
        await self._send({"type": "http.response.body", "body": block, "more_body": True})

    async def fail(self, block: bytes) -> None:
        connection = connection_of(self._scope)
        if connection is not None:
            connection.close_after_answer()
        await self.write(block)

    async def end(self) -> None:
        self._watched.over()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(
    endpoint: Endpoint, passage: Passage | None, request_id: str, content_type: bytes
) -> list[tuple[bytes, bytes]]:
    trace_id = request_id.encode()
    headers = [(b"content-type", content_type), (b"x-request-id", trace_id)]
    if endpoint == "messages":
        headers.append((b"request-id", trace_id))  # where Anthropic's clients look for it
    if passage is not None:
        headers.append((b"x-route-switch-trace-id", trace_id))
        headers.append((b"x-route-switch-overhead-ms", b"%.3f" % passage.overhead_ms))
        if passage.combination is not None:
            headers.append((b"x-route-switch-combination", passage.combination.combination_id.encode("utf-8")))
    return headers


def _forwarded(headers: Headers) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in headers:
        if name in _FORWARDED_HEADERS:
            text = value.decode("latin-1")
            if len(value) > _MAX_HEADER_BYTES or not (text.isascii() and text.isprintable()):
                raise InvalidRequestError(
                    f"The header {name.decode()} holds what no version or feature is called.", param=name.decode()
                )
            # Sent several times it means the list of all.
            kept[name.decode()] = f"{kept[name.decode()]},{text}" if name.decode() in kept else text
    return kept

"""In front of FastAPI: hot routes go straight to their handlers; the rest gets a key check, a limit, a request id."""

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

import structlog
from fastapi import FastAPI
from ulid import ULID

from rs_gateway.api.errors import INTERNAL_ERROR, body_of, headers_of, status_of
from rs_gateway.api.wire import ClientLeftError, Headers, Receive, Scope, Send, read_body
from rs_gateway.domain.access import Admission, ClientKey
from rs_gateway.domain.errors import RouteSwitchError

PUBLIC = frozenset({"/health", "/health/storage", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""Say nothing about anybody's traffic; whoever restarts processes must reach them without a key."""
_ASSETS = "/static-offline-docs/"
"""Scripts and styles of the pages that show the HTTP API."""
OPERATIONS = ("/status", "/metrics", "/v1/system/", "/v1/prompts/")
"""Tell of everybody's traffic: an admin's, as soon as there are client keys."""


log = structlog.get_logger()


class Doorkeeper(Protocol):
    """What the edge needs of `rs_gateway.access.Access`."""

    @property
    def required(self) -> bool:
        """Whether a client key is needed."""
        ...

    def admit(self, headers: Headers) -> Admission:
        """Raises UnauthorizedError, RateLimitedError, BudgetExceededError."""
        ...

    def require_admin(self, headers: Headers) -> ClientKey:
        """Raises UnauthorizedError, ForbiddenError."""
        ...


class Edge:
    """The outermost ASGI application, so that a hot route goes through nothing else.

    `app.state.routes` (POST path -> handler) and `app.state.access` are set by the lifespan of `app`. Who was let in as
    an admin is `request.state.admin`.
    """

    def __init__(self, app: FastAPI, *, max_body_bytes: int) -> None:
        self.app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = self.app.state.routes.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            await (route or self._guarded)(scope, receive, send)
        except Exception as error:  # the outermost loop of a request: nothing is above it but the server
            log.exception("internal_error", path=scope["path"][:200])
            try:
                await _send_error(send, 500, INTERNAL_ERROR, {})
            except RuntimeError:  # the answer had begun: the server cuts it off, so that nobody takes it for whole
                raise error from None

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def identified(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", str(ULID()).encode())]
            await send(message)

        try:
            _let_in(self.app.state.access, scope)
            body = await read_body(scope, receive, limit=self._max_body_bytes)
        except ClientLeftError:
            return
        except RouteSwitchError as error:
            await _send_error(send, status_of(error), body_of(error), headers_of(error))
            return
        whole: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        if scope["method"] == "HEAD":
            # The server leaves the body of a HEAD answer out; the routes need to know GET only.
            scope = {**scope, "method": "GET"}
        await self.app(scope, replayed, identified)


async def _send_error(send: Send, status: int, body: bytes, extra: Mapping[str, str]) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers.append((b"x-request-id", str(ULID()).encode()))
    headers += [(name.encode(), value.encode()) for name, value in extra.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _let_in(access: Doorkeeper, scope: Scope) -> None:
    """Raises UnauthorizedError, ForbiddenError, RateLimitedError."""
    path, headers = scope["path"], scope["headers"]
    if path in PUBLIC or path.startswith(_ASSETS):
        return
    if path.startswith("/admin/") or (access.required and path.startswith(OPERATIONS)):
        scope.setdefault("state", {})["admin"] = access.require_admin(headers)
    else:
        access.admit(headers).settle(tokens=0, cost_usd=None)

"""In front of FastAPI: hot routes go straight to their handlers; the rest gets a key check, a limit, a request id."""

from collections.abc import MutableMapping
from typing import Any, Protocol

from ulid import ULID

from rs_gateway.api.errors import body_of, headers_of, status_of
from rs_gateway.api.wire import ClientLeftError, Headers, Receive, Scope, Send, read_body
from rs_gateway.domain.access import Admission, ClientKey
from rs_gateway.domain.errors import RouteSwitchError

_PUBLIC = frozenset({"/health", "/health/storage", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""Say nothing about anybody's traffic; whoever restarts processes must reach them without a key."""
_OPERATIONS = ("/status", "/metrics", "/v1/system/", "/v1/prompts/")
"""Tell of everybody's traffic: an admin's, as soon as there are client keys."""


class Doorkeeper(Protocol):
    """What the edge needs of `rs_gateway.access.Access`."""

    @property
    def is_on(self) -> bool:
        """Whether a client key is needed."""
        ...

    def admit(self, headers: Headers) -> Admission:
        """Raises UnauthorizedError, RateLimitedError, BudgetExceededError."""
        ...

    def require_admin(self, headers: Headers) -> ClientKey:
        """Raises UnauthorizedError, ForbiddenError."""
        ...


class Edge:
    """Pure ASGI middleware.

    `app.state.routes` (POST path -> handler) and `app.state.access` are set by the lifespan. Who was let in as an admin
    is `request.state.admin`.
    """

    def __init__(self, app: Any, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["app"].state.routes.get(scope["path"]) if scope["method"] == "POST" else None
        if route is not None:
            await route(scope, receive, send)
        else:
            await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def identified(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", str(ULID()).encode())]
            await send(message)

        try:
            _let_in(scope)
            body = await read_body(scope, receive, limit=self._max_body_bytes)
        except ClientLeftError:
            return
        except RouteSwitchError as error:
            body = body_of(error)
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            headers += [(name.encode(), value.encode()) for name, value in headers_of(error).items()]
            await identified({"type": "http.response.start", "status": status_of(error), "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        whole: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        if scope["method"] == "HEAD":
            # The server leaves the body of a HEAD answer out; the routes need to know GET only.
            scope = {**scope, "method": "GET"}
        await self._app(scope, replayed, identified)


def _let_in(scope: Scope) -> None:
    """Raises UnauthorizedError, ForbiddenError, RateLimitedError."""
    access: Doorkeeper = scope["app"].state.access
    path, headers = scope["path"], scope["headers"]
    if path in _PUBLIC:
        return
    if path.startswith("/admin/") or (access.is_on and path.startswith(_OPERATIONS)):
        scope.setdefault("state", {})["admin"] = access.require_admin(headers)
    else:
        access.admit(headers).settle(tokens=0, cost_usd=None)

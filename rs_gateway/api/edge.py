"""In front of FastAPI: the hot route goes straight to its handler; the rest gets a body limit and a request id."""

from collections.abc import MutableMapping
from typing import Any

from ulid import ULID

from rs_gateway.api.chat import CHAT_PATH, ClientLeftError, Receive, Scope, Send, read_body
from rs_gateway.api.errors import body_of, status_of
from rs_gateway.domain.errors import RequestTooLargeError


class Edge:
    """Pure ASGI middleware. The handler of the hot route is `app.state.chat`, which the lifespan sets."""

    def __init__(self, app: Any, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == CHAT_PATH and scope["method"] == "POST":
            await scope["app"].state.chat(scope, receive, send)
        else:
            await self._limited(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def identified(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", str(ULID()).encode())]
            await send(message)

        try:
            body = await read_body(scope, receive, limit=self._max_body_bytes)
        except ClientLeftError:
            return
        except RequestTooLargeError as error:
            body = body_of(error)
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await identified({"type": "http.response.start", "status": status_of(error), "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        whole: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        await self._app(scope, replayed, identified)

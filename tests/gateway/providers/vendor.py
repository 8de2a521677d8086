"""A scripted vendor on loopback: keeps what it was asked, URL and all, and answers in its own wire format."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

JsonDict = dict[str, Any]
Reply = Callable[["Asked", web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request that the vendor got."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: JsonDict


@dataclass
class Vendor:
    """Answers requests with `script` in turn; the last one repeats.

    Attributes:
        hang_ups: requests whose client left before the answer was complete.
    """

    script: list[Reply]
    asked: list[Asked] = field(default_factory=list[Asked])
    hang_ups: int = 0
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Generator["Vendor"]:
        loop = asyncio.new_event_loop()
        ready = threading.Event()
        stop = asyncio.Event()

        async def main() -> None:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            ready.set()
            await stop.wait()
            await runner.cleanup()

        thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
        thread.start()
        assert ready.wait(60), "the vendor did not start"
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(60)
            loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"{}")
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Asked(request.path, dict(request.query), headers, body)
        reply = self.script[min(len(self.asked), len(self.script) - 1)]
        self.asked.append(asked)
        try:
            return await reply(asked, request)
        except (asyncio.CancelledError, ConnectionError):
            self.hang_ups += 1
            raise


def says(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """One JSON body."""

    async def reply(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return reply


def page(status: int = 200) -> Reply:
    """A web page, as a captive proxy gives."""

    async def reply(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>hello</html>", status=status, content_type="text/html")

    return reply


def streams(events: Iterable[bytes], *, then: Literal["end", "cut", "stall"] = "end", pause_s: float = 0.0) -> Reply:
    """These bytes, each in a write of its own; then a clean end, a reset, or silence until the client leaves.

    Args:
        pause_s: time between two of them.
    """

    async def reply(asked: Asked, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(event)
            await asyncio.sleep(pause_s)
        if then == "stall":
            await asyncio.Event().wait()
        elif then == "cut":
            assert request.transport is not None
            request.transport.abort()
        else:
            await response.write_eof()
        return response

    return reply


async def silence(asked: Asked, request: web.Request) -> web.StreamResponse:
    """No answer at all, until the client leaves."""
    await asyncio.Event().wait()
    raise AssertionError("never reached")


async def resets(asked: Asked, request: web.Request) -> web.StreamResponse:
    """The connection breaks before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def sse(value: Any, *, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n" if event is not None else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()

"""A gateway on a real socket, in this process, for tests that need the wire."""

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
import yaml

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_gateway.api.edge import Edge
from rs_gateway.app import create_app
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import Demo, Origin, PromptTemplate, PromptText
from rs_gateway.http_protocol import LimitedHttpTools
from rs_gateway.settings import load_settings

_T = TypeVar("_T")
ORIGIN = Origin(kind="registered", by="tester", at="2026-01-01T00:00:00+00:00")


class _Server(uvicorn.Server):
    """uvicorn's server, which also says which loop it runs on."""

    loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)

    async def main_loop(self) -> None:
        # uvicorn's own looks ten times a second whether it is to end: with hundreds of gateways that adds up.
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Inside:
    """The inner life of a gateway that runs in this process."""

    app: Edge
    server: _Server

    def call(self, function: Callable[[], _T]) -> _T:
        """What `function` returns in the gateway's own thread."""
        result: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def run() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001  # the test's thread raises it
                result.set_exception(error)

        self.server.loop.call_soon_threadsafe(run)
        return result.result(60)

    @property
    def n_tasks(self) -> int:
        """Tasks that its event loop holds."""
        return self.call(lambda: len(asyncio.all_tasks()))

    @property
    def n_connections(self) -> int:
        """Clients' connections that it holds open."""
        return self.call(lambda: len(self.server.server_state.connections))


@dataclass
class RunningGateway:
    """The address of a gateway and the folder that it works in; `inside` only where it runs in this process."""

    url: str
    folder: Path
    inside: Inside | None = None

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def ask(self, body: dict[str, Any], **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/chat/completions", json=body, **options)

    def stream(self, body: dict[str, Any]) -> tuple[int, str]:
        """Status and the whole text of a stream, `[DONE]` and all."""
        with self.client() as client, client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as r:
            return r.status_code, "".join(r.iter_text())

    def traces(self, *, at_least: int = 1) -> list[dict[str, Any]]:
        """What the store holds, once it holds `at_least` rows."""
        reader = SqliteTraceReader(self.folder / "data/traces.db")
        try:

            def enough() -> list[dict[str, Any]]:
                page = reader.traces(after=0, limit=10_000)
                return [dict(zip(page.columns, row, strict=True)) for row in page.rows]

            eventually(lambda: len(enough()) >= at_least)
            return enough()
        finally:
            reader.close()


def eventually(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Return once `condition` holds; fail the test when it does not within `timeout_s`: long, for busy machines."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def write_configuration(folder: Path, configuration: dict[str, Any]) -> Path:
    """A route-switch.yaml in `folder`."""
    path = folder / "route-switch.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return path


def register(
    folder: Path,
    template_id: str = "support",
    *,
    instruction: str = "You help {customer_name}.",
    user: str | None = None,
    demos: tuple[Demo, ...] = (),
    default: bool = False,
    output: OutputFormat = OutputFormat.BARE,
) -> PromptFiles:
    """Put a template into the registry of `folder`."""
    registry = PromptFiles(folder / "data/prompts")
    text = PromptText(instruction, user, demos, output)
    template = PromptTemplate(
        template_id, template_id, tuple(sorted(text.placeholders)), {"name": "ExactMatch"}, default=default
    )
    registry.register(template, text, origin=ORIGIN)
    return registry


@contextlib.contextmanager
def running_gateway(folder: Path, configuration: dict[str, Any]) -> Generator[RunningGateway]:
    """Serve `configuration` from `folder` until the block ends."""
    settings = load_settings(write_configuration(folder, configuration))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_app(settings)
    server = _Server(
        uvicorn.Config(app, log_config=None, lifespan="on", loop="asyncio", http=LimitedHttpTools, ws="none")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        assert server.started, "the gateway did not start"
        yield RunningGateway(f"http://127.0.0.1:{listener.getsockname()[1]}", folder, Inside(app, server))
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive(), "the gateway did not stop"

"""The endpoints beside chat on a real socket, in this process, over a scripted upstream."""

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from rs_gateway.adapters.endpoint_http import EndpointHttp
from rs_gateway.adapters.litellm_endpoints import TranslatedEndpoints
from rs_gateway.adapters.openai_http import OpenAIHttp
from rs_gateway.api.endpoints import EndpointRoute, encode_error
from rs_gateway.api.wire import Headers, Receive, Scope, Send
from rs_gateway.domain.access import OPEN, Admission
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.endpoints import ENDPOINT_PATHS, Endpoint, EndpointProvider
from rs_gateway.domain.health import CombinationState
from rs_gateway.domain.pools import Catalog
from rs_gateway.domain.pricing import Price, PriceBook
from rs_gateway.domain.router import Router
from rs_gateway.domain.routing import CircuitRules, RouterRules
from rs_gateway.domain.traces import Trace
from rs_gateway.passthrough import Passage, Passthrough
from rs_gateway.recording import Recorder
from rs_gateway.serving import Served
from tests.fakes import MemoryTraceStore, eventually
from tests.upstream import Upstream

RULES = RouterRules("weighted", circuit=CircuitRules(failures_in_a_row=3, open_s=60.0))
SECRET = "sk-upstream-secret"
TIMEOUTS: Any = {"connect_timeout_s": 2.0, "first_byte_timeout_s": 5.0, "idle_timeout_s": 5.0}


class Places:
    """Who is inside: whoever was let in holds a place until the admission is settled, which happens once."""

    def __init__(self) -> None:
        self.n_taken = 0

    def take(self, admission: Admission) -> "Admission":
        """The same admission, with a place."""
        self.n_taken += 1
        return _Placed(admission, self)


class _Placed:
    def __init__(self, admission: Admission, places: Places) -> None:
        self._admission, self._places, self._settled = admission, places, False
        self.key_id, self.store = admission.key_id, admission.store

    def check(self, *, template_id: str | None, model: str) -> None:
        self._admission.check(template_id=template_id, model=model)

    def settle(self, *, tokens: int, cost_usd: float | None) -> None:
        assert not self._settled
        self._settled = True
        self._places.n_taken -= 1
        self._admission.settle(tokens=tokens, cost_usd=cost_usd)


class NoPrices:
    """A price table that knows nothing."""

    def price(self, provider: str, model: str) -> Price | None:
        return None


@dataclass
class Stage:
    """A gateway with these endpoints, its upstream, and what it recorded."""

    url: str
    upstream: Upstream
    recorded: list[Trace]
    pauses: list[float]
    router: Router
    server: uvicorn.Server
    loop: asyncio.AbstractEventLoop
    places: Places
    n_idle_tasks: int = 0

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def post(self, endpoint: Endpoint, body: Any, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(ENDPOINT_PATHS[endpoint], json=body, **options)

    def stream(self, endpoint: Endpoint, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and all the bytes of a stream."""
        with (
            self.client() as client,
            client.stream("POST", ENDPOINT_PATHS[endpoint], json={**body, "stream": True}) as response,
        ):
            return response.status_code, b"".join(response.iter_raw())

    def stream_in_two(self, endpoint: Endpoint, body: dict[str, Any], go_on: threading.Event) -> tuple[bytes, bytes]:
        """What came of a stream before `go_on` was set, and what came after it."""
        with (
            self.client() as client,
            client.stream("POST", ENDPOINT_PATHS[endpoint], json={**body, "stream": True}) as response,
        ):
            pieces = response.iter_raw()
            first = next(pieces)
            go_on.set()
            return first, b"".join(pieces)

    def health(self, combination_id: str) -> CombinationState:
        """How a combination is doing."""
        return self.router.states(time.monotonic())[combination_id]

    @property
    def n_tasks(self) -> int:
        """Tasks of the gateway's event loop."""
        return asyncio.run_coroutine_threadsafe(_n_tasks(), self.loop).result(60)

    def check_nothing_is_left(self) -> None:
        """Connections, upstream calls, tasks, attempts under way, places of keys and passages are all given back."""
        eventually(lambda: not self.server.server_state.connections)
        eventually(lambda: self.upstream.n_busy == 0)
        eventually(lambda: self.n_tasks <= self.n_idle_tasks)
        states = self.router.states(time.monotonic())
        assert {name: state.in_flight for name, state in states.items()} == dict.fromkeys(states, 0)
        assert self.places.n_taken == 0
        eventually(lambda: _n_passages() == 0)

    def trace(self) -> Trace:
        """The only trace."""
        (trace,) = self.traces(1)
        return trace

    def traces(self, n: int) -> list[Trace]:
        """All traces, once there are `n`."""
        eventually(lambda: len(self.recorded) == n)
        return self.recorded


async def _n_tasks() -> int:
    # litellm keeps one worker of its own for each event loop.
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(not name.startswith("LoggingWorker.") for name in names)


def _n_passages() -> int:
    gc.collect()
    return sum(isinstance(thing, Passage) for thing in gc.get_objects())


def native(upstream: Upstream, **timeouts: float) -> dict[tuple[str, Endpoint], EndpointProvider]:
    """Providers that speak the endpoints themselves."""
    limits: Any = {**TIMEOUTS, **timeouts}
    openai = EndpointHttp("openai", base_url=upstream.base_url, api_key=SECRET, **limits)
    anthropic = EndpointHttp("anthropic", base_url=upstream.base_url, api_key=SECRET, key_header="x-api-key", **limits)
    return {
        ("openai", "embeddings"): openai,
        ("openai", "responses"): openai,
        ("anthropic", "messages"): anthropic,
    }


def impatient(upstream: Upstream) -> dict[tuple[str, Endpoint], EndpointProvider]:
    """The same, with half a second for a first event or between two."""
    return native(upstream, first_byte_timeout_s=0.5, idle_timeout_s=0.5)


def translated(upstream: Upstream) -> dict[tuple[str, Endpoint], EndpointProvider]:
    """A provider that speaks chat only."""
    chat = OpenAIHttp("openai", base_url=upstream.base_url, api_key=SECRET, **TIMEOUTS)
    provider = TranslatedEndpoints("openai", chat)
    return {("openai", "responses"): provider, ("anthropic", "messages"): provider}


@contextlib.contextmanager
def on_stage(
    upstream: Upstream,
    *,
    providers: Callable[[Upstream], dict[tuple[str, Endpoint], EndpointProvider]] = native,
    admit: Callable[[Headers], Admission] = lambda headers: OPEN,
    options: dict[str, Any] | None = None,
    **picture: Any,
) -> Generator[Stage]:
    """Serve `gpt` and `embedder` from provider openai and `claude` from anthropic until the block ends.

    Leaving it checks that nothing leaked, whatever went wrong on the stage.
    """
    reached = {
        model: Combination(f"{provider}/{model}", None, model, provider, parameters=options or {})
        for model, provider in (("gpt", "openai"), ("embedder", "openai"), ("claude", "anthropic"))
    }
    catalog = Catalog({}, {"support": "it is not registered."}, reached)
    parts: dict[str, Any] = {
        "catalog": catalog,
        "providers": {},
        "prices": PriceBook(NoPrices(), {}),
        "combinations": {c.combination_id: c for c in reached.values()},
        "endpoints": providers(upstream),
        "timeout_s": 60.0,  # the first translated request imports litellm
        "max_retries": 1,
        **picture,
    }
    shown = Served(**parts)
    recorded, pauses, places = list[Trace](), list[float](), Places()
    loops: list[asyncio.AbstractEventLoop] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    class Source:
        served = shown

    router = Router(RULES)
    recorder = Recorder(MemoryTraceStore(), observers=(recorded.append,))
    passthrough = Passthrough(
        Source(), recorder, router, encode_error=encode_error, random_draw=lambda: 0.5, sleep=sleep
    )
    routes = {
        path: EndpointRoute(
            passthrough, endpoint, max_body_bytes=100_000, admit=lambda headers: places.take(admit(headers))
        )
        for endpoint, path in ENDPOINT_PATHS.items()
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await routes[scope["path"]](scope, receive, send)
            return
        await receive()
        loops.append(asyncio.get_running_loop())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for provider in set(shown.endpoints.values()):
            await provider.aclose()
            if isinstance(provider, TranslatedEndpoints):
                await provider._chat.aclose()  # pyright: ignore[reportPrivateUsage]
        await send({"type": "lifespan.shutdown.complete"})

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="on", loop="asyncio", http="httptools", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        assert server.started
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stage = Stage(url, upstream, recorded, pauses, router, server, loops[0], places)
        stage.n_idle_tasks = stage.n_tasks
        gc.freeze()  # what was there before is not looked through afterwards
        yield stage
        stage.check_nothing_is_left()
    finally:
        gc.unfreeze()
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()

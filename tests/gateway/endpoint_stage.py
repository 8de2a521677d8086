"""The endpoints beside chat on a real socket, in this process, over a scripted upstream."""

import contextlib
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
from rs_gateway.passthrough import Passthrough
from rs_gateway.recording import Recorder
from rs_gateway.serving import Served
from tests.fakes import MemoryTraceStore, eventually
from tests.upstream import Upstream

RULES = RouterRules("weighted", circuit=CircuitRules(failures_in_a_row=3, open_s=60.0))
SECRET = "sk-upstream-secret"
TIMEOUTS: Any = {"connect_timeout_s": 2.0, "first_byte_timeout_s": 5.0, "idle_timeout_s": 5.0}


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

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, **options)

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

    def trace(self) -> Trace:
        """The only trace."""
        (trace,) = self.traces(1)
        return trace

    def traces(self, n: int) -> list[Trace]:
        """All traces, once there are `n`."""
        eventually(lambda: len(self.recorded) == n)
        return self.recorded


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
    """The same, with 0.3 s for a first event or between two."""
    return native(upstream, first_byte_timeout_s=0.3, idle_timeout_s=0.3)


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
    """Serve `gpt` and `embedder` from provider openai and `claude` from anthropic until the block ends."""
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
        "timeout_s": 5.0,
        "max_retries": 1,
        **picture,
    }
    shown = Served(**parts)
    recorded, pauses = list[Trace](), list[float]()

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
        path: EndpointRoute(passthrough, endpoint, max_body_bytes=100_000, admit=admit)
        for endpoint, path in ENDPOINT_PATHS.items()
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await routes[scope["path"]](scope, receive, send)
            return
        await receive()
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
        yield Stage(f"http://127.0.0.1:{listener.getsockname()[1]}", upstream, recorded, pauses, router)
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()
        assert not thread.is_alive()

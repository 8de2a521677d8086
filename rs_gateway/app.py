"""create_app: wiring plus routes. The one place where the gateway's objects meet."""

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Route

from rs_gateway.access import Access
from rs_gateway.api import admin, admin_keys, analytics, feedback, metrics, models, status
from rs_gateway.api.chat import CHAT_PATH, ChatRoute
from rs_gateway.api.edge import Edge
from rs_gateway.api.endpoints import EndpointRoute, encode_error
from rs_gateway.api.error_handlers import add_error_handlers
from rs_gateway.api.errors import body_of
from rs_gateway.api.openapi import with_hot_routes
from rs_gateway.domain.endpoints import ENDPOINT_PATHS
from rs_gateway.domain.router import Router
from rs_gateway.domain.traces import Usage
from rs_gateway.gateway import Gateway
from rs_gateway.logs import configure_logs
from rs_gateway.passthrough import Passthrough
from rs_gateway.quality_feed import QualityFeed
from rs_gateway.recording import Recorder
from rs_gateway.serving import Serving
from rs_gateway.settings import Settings, load_settings
from rs_gateway.wiring import (
    open_access_store,
    open_observers,
    open_registry,
    open_score_reader,
    open_stats_reader,
    open_trace_store,
    router_rules_of,
)

log = structlog.get_logger()


def create_app(settings: Settings) -> Edge:
    """The gateway as an ASGI application. When the file of its settings changes, it is read again."""

    def read_again() -> Settings:
        return load_settings(settings.config_path)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await _assemble(app, settings, read_again, stack)
            yield
        log.info("gateway_stopped")

    app = FastAPIOffline(
        title="Route-Switch",
        version=version("route-switch"),
        summary="An OpenAI-compatible gateway that keeps improving its own prompts.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    add_error_handlers(app)
    for routes in (models, feedback, status, analytics, metrics, admin, admin_keys):
        app.include_router(routes.router)
    # Edge answers POST before the router sees it; these are here for 405 and for the documentation.
    for path in (CHAT_PATH, *ENDPOINT_PATHS.values()):
        app.router.routes.append(Route(path, _not_post, methods=["POST"]))
    app.openapi = with_hot_routes(app)
    return Edge(app, max_body_bytes=settings.gateway.max_body_bytes)


def app_from_environment() -> Edge:
    """For worker processes: the configuration is named by `RS_CONFIG`."""
    configure_logs()
    app = create_app(load_settings())
    # What is there by now stays for ever: the collector need not look at it again, and seldom at the rest.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    return app


async def _assemble(
    app: FastAPI, settings: Settings, read_settings: Callable[[], Settings], stack: AsyncExitStack
) -> None:
    """Open everything that a running gateway holds; `stack` closes it, the last opened first."""
    for observer in (observers := open_observers(settings)):
        stack.push_async_callback(asyncio.to_thread, observer.close)
    traces = open_trace_store(settings)
    stack.push_async_callback(asyncio.to_thread, traces.close)
    stats = open_stats_reader(settings)
    stack.callback(stats.close)
    router = Router(router_rules_of(settings))
    registry = open_registry(settings)
    serving = Serving(settings, registry, router, read_settings=read_settings)
    stack.push_async_callback(serving.aclose)
    access_store = open_access_store(settings)
    access = Access(
        access_store,
        sync_interval_s=settings.access.sync_interval_seconds,
        is_priced=lambda model: all(
            serving.served.prices.is_priced(c.provider, model)
            for c in serving.served.combinations.values()
            if c.model == model
        ),
    )
    stack.push_async_callback(access.aclose)

    def price(provider: str, model: str, usage: Usage) -> float | None:
        return serving.served.prices.cost_usd(provider, model, usage)

    recorder = Recorder(
        traces,
        price=price,
        observers=observers,
        wait_for_commit=settings.stores.durability == "sync",
    )
    limit = settings.gateway.max_body_bytes
    gateway = Gateway(serving, recorder, router, encode_error=body_of)
    passthrough = Passthrough(serving, recorder, router, encode_error=encode_error)
    app.state.routes = {
        CHAT_PATH: ChatRoute(gateway, max_body_bytes=limit, admit=access.admit),
        **{
            path: EndpointRoute(passthrough, endpoint, max_body_bytes=limit, admit=access.admit)
            for endpoint, path in ENDPOINT_PATHS.items()
        },
    }
    app.state.access, app.state.access_store, app.state.traces, app.state.stats = access, access_store, traces, stats
    app.state.serving, app.state.registry, app.state.router = serving, registry, router
    app.state.started_at = int(time.time())
    scores = open_score_reader(settings)
    stack.callback(scores.close)
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    running = [
        tasks.create_task(serving.keep_fresh()),
        tasks.create_task(access.keep_synced()),
        tasks.create_task(QualityFeed(scores, router).keep_fed()),
    ]
    for task in running:
        stack.callback(task.cancel)
    log.info("gateway_started", addr=settings.gateway.addr, serves=serving.served.catalog.names())


async def _not_post(request: Request) -> Response:
    raise HTTPException(405)

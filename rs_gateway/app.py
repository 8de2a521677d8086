"""create_app: wiring plus routes. The one place where the gateway's objects meet."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from rs_gateway.api import admin, feedback, models, status
from rs_gateway.api.chat import CHAT_PATH, ChatRoute
from rs_gateway.api.edge import Edge
from rs_gateway.api.errors import body_of, error_body, error_type, headers_of, status_of
from rs_gateway.api.openapi import with_chat
from rs_gateway.domain.access import OPEN, ClientKey, OpenAdmission
from rs_gateway.domain.errors import ForbiddenError, RouteSwitchError
from rs_gateway.domain.router import Router
from rs_gateway.gateway import Gateway
from rs_gateway.logs import configure_logs
from rs_gateway.recording import Recorder
from rs_gateway.serving import Serving
from rs_gateway.settings import Settings, load_settings
from rs_gateway.wiring import open_registry, open_trace_store, router_rules_of

log = structlog.get_logger()


def create_app(settings: Settings, *, read_settings: Callable[[], Settings] | None = None) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        read_settings: gives the settings anew after the file changed; by default reads the same file again.
    """

    def read_again() -> Settings:
        return load_settings(settings.config_path)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        traces = open_trace_store(settings)
        try:
            registry = open_registry(settings)
            router = Router(router_rules_of(settings))
            serving = Serving(settings, registry, router, read_settings=read_settings or read_again)
            recorder = Recorder(traces, wait_for_commit=settings.stores.durability == "sync")
            gateway = Gateway(serving, recorder, router, encode_error=body_of)
            app.state.routes = {CHAT_PATH: ChatRoute(gateway, max_body_bytes=settings.gateway.max_body_bytes)}
            app.state.access = _Everybody()
            app.state.serving, app.state.traces, app.state.started_at = serving, traces, int(time.time())
            app.state.registry, app.state.router = registry, router
            try:
                async with asyncio.TaskGroup() as tasks:
                    refreshing = tasks.create_task(serving.keep_fresh())
                    log.info("gateway_started", addr=settings.gateway.addr, serves=serving.served.catalog.names())
                    yield
                    refreshing.cancel()
            finally:
                await serving.aclose()
        finally:
            await asyncio.to_thread(traces.close)
            log.info("gateway_stopped")

    app = FastAPI(
        title="Route-Switch",
        version=version("route-switch"),
        summary="An OpenAI-compatible gateway that keeps improving its own prompts.",
        lifespan=lifespan,
        exception_handlers={
            RouteSwitchError: _refused,
            HTTPException: _http_error,
            RequestValidationError: _invalid_body,
            Exception: _internal,
        },
    )
    for router in (models.router, feedback.router, status.router, admin.router):
        app.include_router(router)
    # Edge answers POST before the router sees it; the route is here for 405 and for the documentation.
    app.router.routes.append(Route(CHAT_PATH, _chat, methods=["POST"]))
    app.add_middleware(Edge, max_body_bytes=settings.gateway.max_body_bytes)
    app.openapi = with_chat(app)
    return app


def app_from_environment() -> FastAPI:
    """For worker processes: the configuration is named by `RS_CONFIG`."""
    configure_logs()
    return create_app(load_settings())


class _Everybody:
    is_on = False

    def admit(self, headers: object) -> OpenAdmission:
        return OPEN

    def require_admin(self, headers: object) -> ClientKey:
        raise ForbiddenError("no keys")


async def _chat(request: Request) -> Response:
    raise HTTPException(405)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RouteSwitchError)
    return _json(status_of(error), body_of(error), headers_of(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {
        404: f"There is no {request.url.path} here. See /docs for what there is.",
        405: f"{request.method} is not allowed on {request.url.path}.",
    }
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = words.get(error.status_code, str(error.detail))
    body = error_body(message, kind=error_type(error.status_code), param=None, code=code)
    return _json(error.status_code, body, dict(error.headers or {}))


async def _invalid_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    unreadable = first["type"] == "json_invalid"
    where = "" if unreadable else ".".join(str(part) for part in first["loc"] if part != "body")
    if not where and "json" not in request.headers.get("content-type", ""):
        message = "The body is read as JSON only with the header `content-type: application/json`."
        return _json(400, error_body(message, kind="invalid_request_error", param=None, code="invalid_request"), {})
    message = f"`{where}`: {first['msg']}." if where else f"The body cannot be used: {first['msg']}."
    return _json(
        400, error_body(message, kind="invalid_request_error", param=where or None, code="invalid_request"), {}
    )


async def _internal(_: Request, error: Exception) -> Response:
    log.error("internal_error", error=repr(error))
    return _json(
        500,
        error_body("Something went wrong here; it is logged.", kind="server_error", param=None, code="internal"),
        {},
    )


def _json(status_code: int, body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, status_code, headers, media_type="application/json")

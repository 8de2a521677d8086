"""`/v1/prompts/{template_id}/stats` and `/v1/system/analytics`: live figures over several windows of time."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request

from rs_gateway.api.analytics_schemas import AnalyticsBody, TemplateAnalyticsBody, WindowBody, utc, window_of
from rs_gateway.api.schemas import ErrorBody
from rs_gateway.domain.analytics import WINDOWS, break_down, since
from rs_gateway.domain.errors import InvalidRequestError, ModelNotFoundError, shown
from rs_gateway.domain.ports import TraceStore
from rs_gateway.domain.sketch import RELATIVE_ERROR
from rs_gateway.domain.stats import StatsReader
from rs_gateway.serving import Serving

router = APIRouter(tags=["operations"])

Window = Annotated[
    str | None,
    Query(description="Only this window; all of them when it is left out.", json_schema_extra={"enum": [*WINDOWS]}),
]
_ERRORS: dict[int | str, dict[str, Any]] = {400: {"model": ErrorBody}, 503: {"model": ErrorBody}}


@router.head("/v1/system/analytics", include_in_schema=False)
@router.get("/v1/system/analytics", summary="Live figures of everything", responses=_ERRORS)
async def system_analytics(request: Request, window: Window = None) -> AnalyticsBody:
    """Requests, outcomes, error classes, latency, tokens and cost, by template, version, combination and model."""
    names = _windows(window)
    now_s = time.time()
    windows = await anyio.to_thread.run_sync(_read, request.app.state.stats, names, now_s, None)
    return AnalyticsBody(**_reading(request, now_s), windows=windows)


@router.head("/v1/prompts/{template_id}/stats", include_in_schema=False)
@router.get(
    "/v1/prompts/{template_id}/stats",
    summary="Live figures of one template",
    responses={**_ERRORS, 404: {"model": ErrorBody}},
)
async def template_stats(template_id: str, request: Request, window: Window = None) -> TemplateAnalyticsBody:
    """The same for one template: one that is registered, or one that was removed and once was asked for."""
    names = _windows(window)
    now_s = time.time()
    serving: Serving = request.app.state.serving
    known = {*serving.state.templates, *serving.served.catalog.pools, *serving.served.catalog.unavailable}
    reader: StatsReader = request.app.state.stats
    if template_id not in known and not await anyio.to_thread.run_sync(_was_asked_for, reader, template_id):
        raise ModelNotFoundError(template_id, kind="template", available=known)
    windows = await anyio.to_thread.run_sync(_read, reader, names, now_s, template_id)
    return TemplateAnalyticsBody(template_id=template_id, **_reading(request, now_s), windows=windows)


def _windows(window: str | None) -> Sequence[str]:
    if window is None:
        return list(WINDOWS)
    if window not in WINDOWS:
        raise InvalidRequestError(f"There is no window {shown(window)}: ask for {', '.join(WINDOWS)}.", param="window")
    return [window]


def _was_asked_for(reader: StatsReader, template_id: str) -> bool:
    return bool(reader.stats(since_s=None, template_id=template_id))


def _read(reader: StatsReader, names: Sequence[str], now_s: float, template_id: str | None) -> dict[str, WindowBody]:
    """Blocks: reads the store and adds up."""
    windows: dict[str, WindowBody] = {}
    for name in names:
        since_s = since(name, now_s=now_s)
        windows[name] = window_of(since_s, break_down(reader.stats(since_s=since_s, template_id=template_id)))
    return windows


def _reading(request: Request, now_s: float) -> dict[str, Any]:
    serving: Serving = request.app.state.serving
    store: TraceStore = request.app.state.traces
    return {
        "as_of": utc(now_s),
        "percentile_relative_error": RELATIVE_ERROR,
        "commit_lag_s": serving.settings.stores.flush_interval_seconds,
        "waiting_requests": store.health().queued,
    }

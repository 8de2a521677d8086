"""`/metrics`: the live figures for Prometheus."""

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.ports import StoreHealth, TraceStore
from rs_gateway.domain.stats import StatsReader

router = APIRouter(tags=["operations"])

_FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format, or OpenMetrics when `accept` asks for it.",
        "content": {"text/plain": {"schema": {"type": "string"}}, "application/openmetrics-text": {}},
    }
}


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", summary="Live figures for Prometheus", response_class=Response, responses=_FORMATS)
async def metrics(request: Request) -> Response:
    """When the store cannot be read: `route_switch_trace_store_up 0`, and the process' own figures alone."""
    store: TraceStore = request.app.state.traces
    body, content_type = await anyio.to_thread.run_sync(
        _exposition, request.app.state.stats, store.health(), request.app.version, request.headers.get("accept", "")
    )
    return Response(body, headers={"content-type": content_type})


def _exposition(reader: StatsReader, health: StoreHealth, version: str, accept: str) -> tuple[bytes, str]:
    # Imported at the first scrape: it brings a web server of its own along.
    from rs_gateway.adapters.prometheus_text import Readings, exposition

    try:
        rows = reader.stats(since_s=None)
    except StoreError:
        rows = None
    return exposition(Readings(rows, health, version), accept=accept)

"""`/health`, `/health/storage`, `/status`: is it up, can it store, and what does it serve."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from rs_gateway.access import Access
from rs_gateway.domain.health import CombinationState
from rs_gateway.domain.pools import Pool
from rs_gateway.domain.ports import TraceStore
from rs_gateway.domain.router import Router
from rs_gateway.serving import Serving

router = APIRouter(tags=["operations"])


@router.get("/health", summary="The process is up")
async def health() -> dict[str, str]:
    """Looks at nothing but itself, so that a failing disk does not get the process restarted."""
    return {"status": "ok"}


@router.get(
    "/health/storage",
    summary="The stores can be used; 503 when one cannot",
    responses={503: {"description": "The same, with what is wrong."}},
)
async def storage_health(request: Request) -> JSONResponse:
    """Of the trace store: how many rows wait, how many were lost, and why.

    Of the key store and the prompt registry: what stands in the way of reading them.
    """
    store: TraceStore = request.app.state.traces
    access: Access = request.app.state.access
    serving: Serving = request.app.state.serving
    state, registry_error = store.health(), serving.freshness.registry_error
    ok = state.ok and access.error is None and registry_error is None
    body = {**asdict(state), "ok": ok, "access_error": access.error, "registry_error": registry_error}
    return JSONResponse(body, status_code=200 if ok else 503)


@router.get("/status", summary="What is served, and what stands in the way of anything newer")
async def status(request: Request) -> dict[str, Any]:
    """Every template with its combinations, live versions and weights; problems of registry and configuration."""
    serving: Serving = request.app.state.serving
    served, settings = serving.served, serving.settings
    store: TraceStore = request.app.state.traces
    router: Router = request.app.state.router
    access: Access = request.app.state.access
    states = router.states(time.monotonic())
    problems = dict(serving.freshness.registry_problems)
    freshness = serving.freshness
    errors = (problems, served.catalog.unavailable, freshness.registry_error, freshness.configuration_error)
    hindered = any(errors) or not store.health().ok or access.error is not None
    return {
        "status": "degraded" if hindered else "ok",
        "version": request.app.version,
        "started_at": request.app.state.started_at,
        "strategy": settings.gateway.strategy,
        "client_keys": "required" if access.required else "none yet: every request from this machine is let in",
        "templates": {t: _pool(pool, serving, states) for t, pool in sorted(served.catalog.pools.items())},
        "unavailable": dict(served.catalog.unavailable),
        "passthrough_models": sorted(served.catalog.passthrough),
        "registry": asdict(serving.freshness),
        "trace_store": asdict(store.health()),
        "access_store": {"ok": access.error is None, "error": access.error},
    }


def _pool(pool: Pool, serving: Serving, states: Mapping[str, CombinationState]) -> dict[str, Any]:
    registered = serving.state.templates[pool.key]
    return {
        "problem": serving.freshness.registry_problems.get(pool.key),
        "versions": len(registered.versions),
        "combinations": [
            {
                "combination_id": c.combination_id,
                "model": c.model,
                "provider": c.provider,
                "weight": c.weight,
                "weight_overridden": c.combination_id in registered.weights,
                "version": pool.versions[c.combination_id].number,
                "metadata": c.metadata,
                # Of this process alone; None until it was a candidate.
                "health": asdict(states[c.combination_id]) if c.combination_id in states else None,
            }
            for c in pool.combinations
        ],
    }

"""`/v1/prompts/{id}/stats`, `/v1/system/analytics` and `/metrics`: what they answer, and that it is what was stored."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.api import analytics, metrics
from rs_gateway.api.errors import body_of, status_of
from rs_gateway.domain.errors import RouteSwitchError, StoreError
from rs_gateway.domain.stats import StatsRow
from rs_gateway.domain.traces import Attempt, Outcome, StoreMode, Trace, Usage, UsageSource


def a_trace(trace_id: str, *, seconds_ago: float = 0.0) -> Trace:
    return Trace(
        trace_id=trace_id,
        started_at=time.time() - seconds_ago - 0.5,
        request_model="intent",
        outcome=Outcome.COMPLETE,
        stream=True,
        latency_s=0.5,
        usage=Usage(12, 3, UsageSource.PROVIDER, cached_input_tokens=8),
        template_id="intent",
        version=4,
        combination_id="intent@small",
        provider="local",
        model="small",
        time_to_first_token_s=0.125,
        cost_usd=0.25,
    )


def some_traces() -> list[Trace]:
    """Two of template `intent`, of which one fell back; one of `triage` that failed; one pass-through, not stored."""
    attempts = (
        Attempt("intent@small", "local", "small", 4, "provider_timeout", None, 0.1),
        Attempt("intent@big", "remote", "big", 4, None, 200, 0.4),
    )
    fallen = replace(a_trace("01B"), combination_id="intent@big", provider="remote", model="big", attempts=attempts)
    failed = replace(
        a_trace("01C", seconds_ago=1_800),
        template_id="triage",
        version=1,
        combination_id="triage@small",
        outcome=Outcome.PROVIDER_ERROR,
        error_code="provider_timeout",
        usage=Usage.unknown(),
        cost_usd=None,
    )
    plain = replace(
        a_trace("01D"),
        template_id=None,
        version=None,
        combination_id="local/small",
        endpoint="embeddings",
        cost_usd=None,
        store=StoreMode.NONE,
    )
    return [a_trace("01A"), fallen, failed, plain]


class BrokenReader:
    """A StatsReader whose store cannot be read."""

    def stats(self, *, since_s: int | None, template_id: str | None = None) -> list[StatsRow]:
        raise StoreError("The trace store is damaged.")

    def close(self) -> None:
        pass


@dataclass
class Served:
    """As much of what is served as the routes look at."""

    templates: dict[str, object] = field(default_factory=lambda: {"intent": None, "quiet": None})

    @property
    def serving(self) -> Any:
        return SimpleNamespace(
            state=SimpleNamespace(templates=self.templates),
            served=SimpleNamespace(catalog=SimpleNamespace(pools={}, unavailable={"absent": "not registered"})),
            settings=SimpleNamespace(stores=SimpleNamespace(flush_interval_seconds=0.05)),
        )


async def refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RouteSwitchError)
    return Response(body_of(error), status_of(error), media_type="application/json")


@contextmanager
def asking(path: Path, *, stats: Any = None) -> Generator[TestClient]:
    app = FastAPI(version="1.2.3", exception_handlers={RouteSwitchError: refused})
    app.include_router(analytics.router)
    app.include_router(metrics.router)
    app.state.serving = Served().serving
    app.state.traces = SqliteTraceStore(path)
    app.state.stats = stats or SqliteStatsReader(path)
    try:
        yield TestClient(app)
    finally:
        app.state.traces.close()
        app.state.stats.close()


@pytest.fixture
def client(tmp_path: Path) -> Generator[TestClient]:
    path = tmp_path / "traces.db"
    store = SqliteTraceStore(path)
    for trace in some_traces():
        store.append(trace)
    store.close()
    with asking(path) as client:
        yield client


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(text: str, name: str, **labels: str) -> float:
    found = [v for (n, have), v in samples(text).items() if n == name and labels.items() <= have]
    assert found, f"no {name} with {labels}"
    return sum(found)


def test_the_figures_of_the_system_are_those_of_every_request(client: TestClient) -> None:
    body = client.get("/v1/system/analytics").json()
    assert list(body["windows"]) == ["5m", "1h", "24h", "all"]
    assert [body["windows"][name]["overall"]["requests"] for name in body["windows"]] == [3, 4, 4, 4]
    everything = body["windows"]["all"]
    overall = everything["overall"]
    assert overall["outcomes"] == {"complete": 3, "provider_error": 1}
    assert overall["error_classes"] == {"provider_timeout": 1}
    assert overall["success_rate"] == 0.75
    assert (overall["cost_usd"], overall["unpriced_requests"], overall["fallbacks"]) == (0.5, 1, 1)
    assert overall["tokens"] == {"input": 36, "output": 9, "cached_input": 24, "cache_write": 0, "reasoning": 0}
    assert overall["latency_s"]["max"] == 0.5
    assert overall["latency_s"]["p95"] == pytest.approx(0.5, rel=body["percentile_relative_error"])
    assert overall["time_to_first_token_s"]["mean"] == 0.125
    assert [group["template_id"] for group in everything["templates"]] == ["intent", None, "triage"]
    assert everything["versions"][0]["version"] == 4
    assert {c["combination_id"] for c in everything["combinations"]} == {
        *("intent@small", "intent@big", "triage@small", "local/small")
    }
    assert [(m["provider"], m["model"], m["requests"]) for m in everything["models"]] == [
        ("local", "small", 3),
        ("remote", "big", 1),
    ]
    assert {e["endpoint"]: e["requests"] for e in everything["endpoints"]} == {"chat.completions": 3, "embeddings": 1}


def test_an_answer_says_how_exact_and_how_fresh_it_is(client: TestClient) -> None:
    body = client.get("/v1/system/analytics", params={"window": "all"}).json()
    assert (body["percentile_relative_error"], body["commit_lag_s"], body["waiting_requests"]) == (0.01, 0.05, 0)
    assert body["as_of"].endswith("+00:00")
    assert body["windows"]["all"]["since"] is None


def test_a_window_can_be_asked_for_alone(client: TestClient) -> None:
    body = client.get("/v1/system/analytics", params={"window": "5m"}).json()
    assert list(body["windows"]) == ["5m"]
    assert body["windows"]["5m"]["since"].endswith(":00+00:00")


@pytest.mark.parametrize("path", ["/v1/system/analytics", "/v1/prompts/intent/stats"])
@pytest.mark.parametrize("window", ["5", "", "7d"])
def test_a_window_that_there_is_not_is_refused_with_those_that_there_are(
    client: TestClient, path: str, window: str
) -> None:
    answer = client.get(path, params={"window": window})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "window", "invalid_request")
    assert repr(window) in error["message"]
    assert "5m, 1h, 24h, all" in error["message"]


def test_the_figures_of_a_template_are_its_own(client: TestClient) -> None:
    body = client.get("/v1/prompts/intent/stats").json()
    window = body["windows"]["24h"]
    assert (body["template_id"], window["overall"]["requests"]) == ("intent", 2)
    assert [group["template_id"] for group in window["templates"]] == ["intent"]


@pytest.mark.parametrize("template_id", ["quiet", "absent"])
def test_a_template_that_nobody_asked_for_yet_has_figures_of_zero(client: TestClient, template_id: str) -> None:
    answer = client.get(f"/v1/prompts/{template_id}/stats")
    overall = answer.json()["windows"]["all"]["overall"]
    assert answer.status_code == 200
    assert (overall["requests"], overall["success_rate"], overall["cost_usd"]) == (0, None, None)
    assert overall["latency_s"] == {"p50": None, "p95": None, "p99": None, "mean": None, "max": None}


def test_a_template_that_was_removed_keeps_its_figures(client: TestClient) -> None:
    body = client.get("/v1/prompts/triage/stats", params={"window": "all"}).json()
    assert body["windows"]["all"]["overall"]["requests"] == 1


def test_an_unknown_template_is_not_found_and_the_known_ones_are_named(client: TestClient) -> None:
    answer = client.get("/v1/prompts/nothing/stats")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert "'nothing'" in error["message"]
    assert "intent" in error["message"]


@pytest.mark.parametrize("path", ["/v1/system/analytics", "/v1/prompts/intent/stats", "/metrics"])
def test_head_answers_as_get_does(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == 200


def test_a_store_that_cannot_be_read_is_said_to_be(tmp_path: Path) -> None:
    with asking(tmp_path / "traces.db", stats=BrokenReader()) as client:
        answer = client.get("/v1/system/analytics")
        scraped = client.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_error")
    assert scraped.status_code == 200
    assert total(scraped.text, "route_switch_trace_store_up") == 0


def test_the_document_describes_every_answer(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    window = document["paths"]["/v1/system/analytics"]["get"]["parameters"][0]
    assert "24h" in str(window["schema"])
    responses = document["paths"]["/v1/prompts/{template_id}/stats"]["get"]["responses"]
    assert {"200", "400", "404", "503"} <= responses.keys()
    assert set(document["paths"]["/metrics"]) == {"get"}


def test_prometheus_can_read_the_figures(client: TestClient) -> None:
    scraped = client.get("/metrics")
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")
    labels = {"template": "intent", "version": "4", "combination": "intent@small", "provider": "local"}
    assert total(scraped.text, "route_switch_requests_total") == 4
    assert total(scraped.text, "route_switch_requests_total", **labels, outcome="complete") == 1
    assert total(scraped.text, "route_switch_errors_total", code="provider_timeout") == 1
    assert total(scraped.text, "route_switch_tokens_total", direction="input") == 36
    assert total(scraped.text, "route_switch_cost_usd_total") == 0.5
    assert total(scraped.text, "route_switch_fallbacks_total", combination="intent@big") == 1
    assert total(scraped.text, "route_switch_requests_total", template="", endpoint="embeddings") == 1
    assert total(scraped.text, "route_switch_trace_queue_rows") == 0
    assert total(scraped.text, "route_switch_traces_dropped_total") == 0
    assert total(scraped.text, "route_switch_trace_store_up") == 1
    assert total(scraped.text, "route_switch_build_info", version="1.2.3") == 1


def test_histograms_count_up_to_each_bound_and_to_infinity(client: TestClient) -> None:
    scraped = client.get("/metrics")
    name = "route_switch_time_to_first_token_seconds"
    counts = [total(scraped.text, f"{name}_bucket", le=bound) for bound in ("0.1", "0.25", "300.0", "+Inf")]
    assert counts == [0, 4, 4, 4]
    assert total(scraped.text, f"{name}_count") == 4
    assert total(scraped.text, f"{name}_sum") == 0.5
    assert total(scraped.text, "route_switch_request_duration_seconds_bucket", le="0.25") == 0
    assert total(scraped.text, "route_switch_request_duration_seconds_bucket", le="1.0") == 4


def test_a_scraper_that_wants_openmetrics_gets_it(client: TestClient) -> None:
    scraped = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert scraped.headers["content-type"].startswith("application/openmetrics-text")
    assert scraped.text.endswith("# EOF\n")


def test_metrics_do_not_start_anew_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    for expected in (1, 2):
        with asking(path) as client:
            client.app.state.traces.append(a_trace(f"t{expected}"))  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
        with asking(path) as client:
            assert total(client.get("/metrics").text, "route_switch_requests_total") == expected

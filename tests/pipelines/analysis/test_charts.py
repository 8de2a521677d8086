"""Charts are drawn for real, and what their titles say is what the tables hold."""

from dataclasses import replace
from pathlib import Path

import altair as alt
import polars as pl
import pytest
import vl_convert

from rs_pipelines.analysis import (
    lineage,
    lineage_charts,
    routing,
    routing_charts,
    study_charts,
    traffic,
    traffic_charts,
)
from rs_pipelines.analysis.chart_style import Drawing
from rs_pipelines.analysis.study_tables import need_comparison, pick_study
from rs_pipelines.lake import Lake
from rs_pipelines.workbench import Workbench
from tests.pipelines.stored_rows import FakeTraceReader


def title_of(chart: Drawing) -> str:
    """Its first line or lines, as they stand in the specification; the chart is drawn."""
    specification = chart.to_dict()
    assert vl_convert.vegalite_to_svg(specification).startswith("<svg")
    return " ".join(specification["title"]["text"])


@pytest.fixture
def one_quiet_minute(tmp_path: Path) -> pl.LazyFrame:
    """One request, of no template, at an unknown price, that nobody scored and no strategy decided."""
    reader = FakeTraceReader()
    reader.add_trace(template_id=None, version=None, combination_id=None, decision=None)
    lake = Lake(tmp_path)
    lake.ingest(reader)
    return traffic.scored_traces(lake)


def test_titles_say_how_much_was_asked_and_how_it_ended(weeks: Workbench) -> None:
    traces = traffic.scored_traces(weeks.lake)
    n, complete = traces.select(pl.len(), (pl.col("outcome") == "complete").sum()).collect().row(0)
    by_time = traffic.over_time(traces)
    requests = traffic_charts.requests_chart(traffic.over_time(traces, by=["template_id"]))
    assert title_of(requests) == f"{n:,} requests, at most {by_time['requests'].max()} per day"
    assert title_of(traffic_charts.trouble_chart(by_time)).startswith(f"{1 - complete / n:.1%} of requests did not")


def test_titles_say_how_long_it_took_what_it_cost_and_how_good_it_was(weeks: Workbench) -> None:
    traces = traffic.scored_traces(weeks.lake)
    latency = traffic_charts.latency_chart(traffic.figures(traces, by=["model"]))
    assert title_of(latency).startswith("Half of mini's requests took under 0.4")
    total = traces.select(pl.col("cost_usd").sum()).collect().item()
    spend = traffic_charts.spend_chart(traffic.over_time(traces, by=["model"]))
    assert title_of(spend).startswith(f"{total:.4f} USD, ")
    by_version = traffic.over_time(traces, by=["template_id", "version", "model"])
    assert "ticket-request v2 on mini 0.8" in title_of(traffic_charts.quality_chart(by_version))


def test_titles_say_what_the_strategies_did(weeks: Workbench) -> None:
    routed = routing.routed_traces(traffic.scored_traces(weeks.lake))
    assert title_of(routing_charts.shares_chart(routing.pool_shares(routed))).startswith("Choices within ")
    choices = routing_charts.choices_chart(traffic.over_time(routed, by=["template_id", "chosen"]))
    assert title_of(choices).startswith("ticket-mini got 7")
    stepped_in, n = routing.fallbacks(routed), routing.count(routed)
    fallbacks = routing_charts.fallbacks_chart(stepped_in, n_requests=n)
    assert title_of(fallbacks).startswith(f"{stepped_in['requests'].sum()} requests (")
    assert title_of(routing_charts.bills_chart(routing.bills(routed))).startswith("ticket-large costs 0.9")


def test_titles_say_how_a_study_went(weeks: Workbench) -> None:
    study = pick_study(weeks.studies)
    comparison = need_comparison(weeks.studies, study)
    assert title_of(study_charts.history_chart(study)).startswith(f"From {study.live_value:.2f} (live) to ")
    assert title_of(study_charts.grid_chart(study)).startswith(f"Chosen: i{study.best.instruction} (")
    verdict = comparison.verdict
    assert title_of(study_charts.rows_chart(comparison)).startswith(f"{verdict.won} held-out rows won")
    assert title_of(study_charts.labels_chart(comparison)) == "Better on 3 of 3 answers, worse on 0"


def test_titles_say_what_stands_behind_a_version_and_what_it_served(weeks: Workbench) -> None:
    examples = lineage.examples_behind(lineage.follow_back(weeks, "ticket-request", 2))
    assert title_of(lineage_charts.evidence_chart(examples)) == "240 examples stand behind it, 240 of them from traces"
    traces = traffic.scored_traces(weeks.lake, template_id="ticket-request")
    made_live = lineage.times_made_live(weeks.registry.get("ticket-request"))
    service = lineage_charts.service_chart(traffic.over_time(traces, by=["version", "model"]), made_live)
    assert title_of(service).startswith("Requests served: v1 ")


def test_a_quiet_minute_draws_charts_that_say_what_is_missing(one_quiet_minute: pl.LazyFrame) -> None:
    traces, routed = one_quiet_minute, routing.routed_traces(one_quiet_minute)
    titles = [
        title_of(traffic_charts.requests_chart(traffic.over_time(traces, by=["template_id"]))),
        title_of(traffic_charts.trouble_chart(traffic.over_time(traces))),
        title_of(traffic_charts.latency_chart(traffic.figures(traces, by=["model"]))),
        title_of(traffic_charts.spend_chart(traffic.over_time(traces, by=["model"]))),
        title_of(traffic_charts.quality_chart(traffic.over_time(traces, by=["template_id", "version", "model"]))),
        title_of(routing_charts.shares_chart(routing.pool_shares(routed))),
        title_of(routing_charts.choices_chart(traffic.over_time(routed, by=["template_id", "chosen"]))),
        title_of(routing_charts.fallbacks_chart(routing.fallbacks(routed), n_requests=0)),
        title_of(routing_charts.bills_chart(routing.bills(routed))),
    ]
    assert titles == [
        "1 requests, at most 1 per minute",
        "All 1 requests ended complete",
        "Half of small's requests took under 0.25 s, 95% under 0.25 s",
        "Nobody knows what these requests cost",
        "No request has a score yet",
        "No strategy had anything to decide",
        "No strategy had anything to decide",
        "None of 0 requests needed a fallback",
        "Nobody knows what these combinations cost",
    ]


def test_a_study_that_has_only_begun_draws_charts_that_say_so(weeks: Workbench) -> None:
    study = pick_study(weeks.studies)
    begun = replace(study, instructions=(), demo_sets=(), trials=(), rows=(), live_value=None, finished=False)
    assert title_of(study_charts.history_chart(begun)) == "Nothing was evaluated yet"
    assert title_of(study_charts.grid_chart(begun)) == "No pair was evaluated yet"


def test_a_comparison_without_scores_or_closed_answers_says_so(weeks: Workbench) -> None:
    comparison = need_comparison(weeks.studies, pick_study(weeks.studies))
    missing = replace(
        comparison, rows=tuple(replace(row, candidate_value=None) for row in comparison.rows), by_label=()
    )
    assert title_of(study_charts.rows_chart(missing)) == "No held-out row has both scores"
    assert title_of(study_charts.labels_chart(missing)) == "The right answers are no closed list"


def test_looking_at_charts_leaves_the_readers_own_style_alone() -> None:
    assert alt.theme.active != "route_switch", "only a notebook that asks for it gets it"

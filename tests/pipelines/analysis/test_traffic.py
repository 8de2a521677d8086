from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.domain.stats import Figures
from rs_gateway.domain.traces import Outcome
from rs_pipelines.analysis.traffic import (
    DAILY,
    daily_figures,
    figures,
    over_time,
    scored_traces,
    span,
)
from rs_pipelines.lake import Lake
from rs_pipelines.parquet_files import replace_parquet
from rs_pipelines.workbench import Workbench
from tests.pipelines.stored_rows import DAY_S, NOON, FakeTraceReader


def lake_of(folder: Path, reader: FakeTraceReader) -> Lake:
    lake = Lake(folder / "lake")
    lake.ingest(reader)
    return lake


def test_the_lakes_figures_are_those_that_the_gateway_counted_live(weeks: Workbench) -> None:
    counted: dict[object, Figures] = {}
    with closing(SqliteStatsReader(weeks.data / "traces.db")) as reader:
        for row in reader.stats(since_s=None):
            counted.setdefault((row.key.template_id, row.key.version, row.key.model), Figures()).merge(row.figures)
    table = figures(scored_traces(weeks.lake), by=["template_id", "version", "model"])
    assert table.height == len(counted) == 5
    for row in table.iter_rows(named=True):
        live = counted[row["template_id"], row["version"], row["model"]]
        assert row["requests"] == live.requests
        assert {name: row[name] for name in Outcome if row[name]} == live.outcomes
        assert (row["input_tokens"], row["output_tokens"]) == (live.input_tokens, live.output_tokens)
        assert (row["usage_unknown"], row["unpriced"]) == (live.usage_unknown, live.unpriced)
        assert row["cost_usd"] is None if live.priced == 0 else row["cost_usd"] == pytest.approx(live.cost_usd)
        assert row["latency_p50_s"] == pytest.approx(live.latency.quantiles([0.5])[0], rel=0.1)


def test_the_daily_table_keeps_days_templates_versions_and_models_apart(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    reader.add_trace()
    reader.add_trace(version=2)
    reader.add_trace(model="large")
    reader.add_trace(template_id="refunds")
    reader.add_trace(started_at=NOON + DAY_S)
    reader.add_trace(started_at=NOON + DAY_S)
    table = daily_figures(lake_of(tmp_path, reader))
    assert table.select(*DAILY, "requests").rows() == [
        (date(2025, 3, 1), "orders", 1, "large", 1),
        (date(2025, 3, 1), "orders", 1, "small", 1),
        (date(2025, 3, 1), "orders", 2, "small", 1),
        (date(2025, 3, 1), "refunds", 1, "small", 1),
        (date(2025, 3, 2), "orders", 1, "small", 2),
    ]


def test_what_nobody_knows_is_null_and_counted(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    reader.add_trace(cost_usd=None, input_tokens=None, output_tokens=None, usage_source="unknown")
    reader.add_trace(cost_usd=None, outcome="rejected", input_tokens=None, output_tokens=None, usage_source="unknown")
    row = figures(scored_traces(lake_of(tmp_path, reader)), by=["template_id"]).row(0, named=True)
    assert (row["cost_usd"], row["input_tokens"], row["mean_score"], row["first_token_p50_s"]) == (None,) * 4
    assert (row["usage_unknown"], row["unpriced"]) == (2, 1), "a rejected request got nothing that costs"


def test_a_price_of_nothing_is_known(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    reader.add_trace(cost_usd=0.0)
    row = figures(scored_traces(lake_of(tmp_path, reader)), by=["template_id"]).row(0, named=True)
    assert (row["cost_usd"], row["unpriced"]) == (0.0, 0)


def test_percentiles_are_those_of_the_requests_and_not_of_other_percentiles(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    for n in range(101):
        reader.add_trace(latency_s=n / 100, stream=1, time_to_first_token_s=n / 200)
    row = figures(scored_traces(lake_of(tmp_path, reader)), by=["model"]).row(0, named=True)
    latencies = [row[f"latency_p{q}_s"] for q in (50, 95, 99)]
    assert latencies == pytest.approx([0.5, 0.95, 0.99])
    assert (row["first_token_p50_s"], row["first_token_p95_s"]) == pytest.approx((0.25, 0.475))


def test_the_score_given_last_counts_and_comments_do_not(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    twice, once, never = (reader.add_trace() for _ in range(3))
    reader.add_feedback(twice, "score", 0.0)
    reader.add_feedback(twice, "score", 1.0)
    reader.add_feedback(once, "score", 0.5)
    reader.add_feedback(once, "label", "right")
    reader.add_feedback(once, "label", "more right")
    reader.add_feedback(never, "comment", "0.1")
    row = figures(scored_traces(lake_of(tmp_path, reader)), by=["template_id"]).row(0, named=True)
    assert (row["requests"], row["scored"], row["mean_score"], row["labelled"]) == (3, 2, 0.75, 1)


def test_one_template_or_the_last_days_can_be_looked_at_alone(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    reader.add_trace()
    reader.add_trace(template_id="refunds")
    reader.add_trace(template_id="refunds", started_at=NOON + DAY_S)
    lake = lake_of(tmp_path, reader)
    assert scored_traces(lake, template_id="refunds").collect().height == 2
    assert scored_traces(lake, template_id="refunds", since=date(2025, 3, 2)).collect().height == 1


@pytest.mark.parametrize(
    ("seconds", "until"),
    [
        (60, datetime(2025, 3, 1, 12, 1, tzinfo=UTC)),
        (DAY_S, datetime(2025, 3, 1, 13, tzinfo=UTC)),
        (30 * DAY_S, datetime(2025, 3, 2, tzinfo=UTC)),
    ],
)
def test_the_shorter_the_time_the_finer_it_is_shown(tmp_path: Path, seconds: float, until: datetime) -> None:
    reader = FakeTraceReader()
    reader.add_trace(started_at=NOON)
    reader.add_trace(started_at=NOON + seconds)
    traces = scored_traces(lake_of(tmp_path, reader))
    table = over_time(traces)
    assert table["until"][0] == until
    assert table["requests"].to_list() == [1, 1]
    ends = span(traces)
    assert ends is not None
    assert [end.timestamp() for end in ends] == [NOON, NOON + seconds]


def test_where_nothing_was_asked_the_tables_are_empty(tmp_path: Path) -> None:
    traces = scored_traces(Lake(tmp_path))
    assert span(traces) is None
    assert over_time(traces, by=["model"]).is_empty()
    assert daily_figures(Lake(tmp_path)).is_empty()


def test_a_saved_table_is_read_back_as_it_was(tmp_path: Path, weeks: Workbench) -> None:
    table = daily_figures(weeks.lake)
    replace_parquet(table, tmp_path / "new folder" / "daily.parquet")
    assert pl.read_parquet(tmp_path / "new folder" / "daily.parquet").equals(table)


_TRACES = st.lists(
    st.fixed_dictionaries(
        {
            "template_id": st.sampled_from(["a", "b", None]),
            "version": st.sampled_from([1, 2, None]),
            "outcome": st.sampled_from([outcome.value for outcome in Outcome]),
            "cost_usd": st.sampled_from([None, 0.0, 0.25]),
            "score": st.sampled_from([None, 0.0, 1.0]),
        }
    ),
    max_size=12,
)


@given(_TRACES)
def test_groups_sum_up_to_the_whole_however_they_are_cut(rows: list[dict[str, object]]) -> None:
    defaults = {"latency_s": 0.1, "time_to_first_token_s": None, "input_tokens": 1, "output_tokens": 1}
    schema = {
        "template_id": pl.String(),
        "version": pl.Int64(),
        "outcome": pl.String(),
        "cost_usd": pl.Float64(),
        "score": pl.Float64(),
        "latency_s": pl.Float64(),
        "time_to_first_token_s": pl.Float64(),
        "input_tokens": pl.Int64(),
        "output_tokens": pl.Int64(),
        "usage_source": pl.String(),
        "labelled": pl.Boolean(),
    }
    full = [{**row, **defaults, "usage_source": "provider", "labelled": False} for row in rows]
    table = figures(pl.LazyFrame(full, schema=schema), by=["template_id", "version"])
    assert table["requests"].sum() == len(rows)
    assert table.select(pl.sum_horizontal(Outcome)).to_series().to_list() == table["requests"].to_list()
    assert {name: table[name].sum() for name in Outcome if table[name].sum()} == Counter(row["outcome"] for row in rows)
    assert table["cost_usd"].sum() == sum(row["cost_usd"] or 0 for row in rows)  # pyright: ignore[reportArgumentType, reportCallIssue]  # numbers
    assert table["scored"].sum() == sum(row["score"] is not None for row in rows)

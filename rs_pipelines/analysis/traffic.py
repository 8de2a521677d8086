"""Analysis tables over the lake: what was asked, how it ended, how long it took, what it cost, how good it was.

Percentiles and means of groups do not add up, so every table is made from the traces themselves, by `figures`.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import polars as pl

from rs_gateway.domain.feedback import FeedbackKind
from rs_gateway.domain.traces import Outcome, UsageSource
from rs_pipelines.lake import Lake
from rs_pipelines.lake_schema import TRACE_SCHEMA

DAILY = ("dt", "template_id", "version", "model")
"""What the daily table keeps apart: the UTC day, and which prompt ran on which model."""

_COLUMNS = (
    *("trace_id", "started_at", "dt", "template_id", "version", "combination_id", "provider", "model", "outcome"),
    *("error_code", "stream", "latency_s", "time_to_first_token_s", "input_tokens", "output_tokens", "usage_source"),
    *("cost_usd", "decision", "attempts"),
)
_NOTHING_DELIVERED = (Outcome.REJECTED.value, Outcome.PROVIDER_ERROR.value)


def scored_traces(lake: Lake, *, template_id: str | None = None, since: date | None = None) -> pl.LazyFrame:
    """One row a trace, without what was said in it, and what was said about it later.

    It may be collected at any time, also after an erasure or a compaction.

    Args:
        template_id: of this template alone; None: of all.
        since: from this UTC day on; None: from the beginning.

    Columns beyond the lake's own: `score`, the one that was given last, None without one; `labelled`, whether somebody
    said what would have been right.
    """
    wanted = [] if since is None else [pl.col("dt") >= since]
    wanted += [] if template_id is None else [pl.col("template_id") == template_id]
    return lake.lasting(lambda: _scored(lake, wanted))


def figures(traces: pl.LazyFrame, *, by: Sequence[str]) -> pl.DataFrame:
    """The figures of each group of `scored_traces`, sorted by `by`. What nobody knows is null, never 0.

    Columns: those of `by`; `requests`; one for each outcome, which sum to it; `latency_p50_s`, `_p95_s` and `_p99_s`
    until the last byte, of every request; `first_token_p50_s` and `_p95_s` of streams that began; `input_tokens` and
    `output_tokens` (sums of those known), `usage_estimated` and `usage_unknown` (requests); `cost_usd` (sum of those
    known) and `unpriced` (requests that got something at a price nobody knows); `scored`, `mean_score`, `labelled`.
    """
    outcomes = [(pl.col("outcome") == outcome.value).sum().alias(outcome.value) for outcome in Outcome]
    latency, first_token = pl.col("latency_s"), pl.col("time_to_first_token_s")
    unpriced = pl.col("cost_usd").is_null() & ~pl.col("outcome").is_in(_NOTHING_DELIVERED)
    return (
        traces.group_by(by)
        .agg(
            pl.len().alias("requests"),
            *outcomes,
            *(latency.quantile(q / 100, "linear").alias(f"latency_p{q}_s") for q in (50, 95, 99)),
            *(first_token.quantile(q / 100, "linear").alias(f"first_token_p{q}_s") for q in (50, 95)),
            *(_known_sum(name) for name in ("input_tokens", "output_tokens")),
            (pl.col("usage_source") == UsageSource.ESTIMATED.value).sum().alias("usage_estimated"),
            (pl.col("usage_source") == UsageSource.UNKNOWN.value).sum().alias("usage_unknown"),
            _known_sum("cost_usd"),
            unpriced.sum().alias("unpriced"),
            pl.col("score").count().alias("scored"),
            pl.col("score").mean().alias("mean_score"),
            pl.col("labelled").sum().alias("labelled"),
        )
        .sort(by, nulls_last=True)
        .collect()
    )


def daily_figures(lake: Lake) -> pl.DataFrame:
    """The figures of every day, template, version and model."""
    return figures(scored_traces(lake), by=DAILY)


def daily_schema() -> pl.Schema:
    """The columns of `daily_figures`, which are the same whatever the lake holds."""
    columns = {**{name: TRACE_SCHEMA[name] for name in _COLUMNS}, "score": pl.Float64(), "labelled": pl.Boolean()}
    return figures(pl.LazyFrame(schema=columns), by=DAILY).schema


def over_time(traces: pl.LazyFrame, *, by: Sequence[str] = ()) -> pl.DataFrame:
    """The figures by `at` and `until`, when a period began and ended (UTC), and by what else is named.

    A period is a minute where all requests lie within three hours, an hour within four days, and a day otherwise.
    """
    ends = span(traces)
    length = timedelta(0) if ends is None else ends[1] - ends[0]
    period = "1m" if length <= timedelta(hours=3) else "1h" if length <= timedelta(days=4) else "1d"
    dated = traces.with_columns(at=pl.col("started_at").dt.truncate(period))
    return figures(dated.with_columns(until=pl.col("at").dt.offset_by(period)), by=("at", "until", *by))


def span(traces: pl.LazyFrame) -> tuple[datetime, datetime] | None:
    """When the first and the last request began, UTC; None without any."""
    ends = traces.select(first=pl.col("started_at").min(), last=pl.col("started_at").max()).collect()
    first, last = ends.row(0)
    return None if first is None else (first, last)


def _scored(lake: Lake, wanted: Sequence[pl.Expr]) -> pl.LazyFrame:
    feedback = lake.feedback(["seq", "trace_id", "kind", "value", "created_at"])
    scores = (
        feedback.filter(pl.col("kind") == FeedbackKind.SCORE.value)
        .with_columns(score=pl.col("value").cast(pl.Float64(), strict=False))
        .sort("created_at", "seq")
        .unique("trace_id", keep="last", maintain_order=True)
        .select("trace_id", "score")
    )
    labels = (
        feedback.filter(pl.col("kind") == FeedbackKind.LABEL.value)
        .select("trace_id", labelled=pl.lit(value=True))
        .unique("trace_id")
    )
    return (
        lake.traces(_COLUMNS)
        .filter(*wanted)
        .join(scores, on="trace_id", how="left")
        .join(labels, on="trace_id", how="left")
        .with_columns(pl.col("labelled").fill_null(value=False))
    )


def _known_sum(name: str) -> pl.Expr:
    return pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name)

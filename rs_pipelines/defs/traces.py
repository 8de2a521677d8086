"""Assets `traces`, `feedback` and `live_scores`: the gateway's trace store in the lake, and the scores of answers."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl

from rs_pipelines import steps
from rs_pipelines.defs.columns import column_schema
from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.groups import DATA_OWNERS, LAKE
from rs_pipelines.defs.metadata import of_ingest, of_live_scores
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.lake_schema import FEEDBACK_SCHEMA, TRACE_SCHEMA
from rs_pipelines.live_scores import LIVE_SCORE_SCHEMA, score_live
from rs_pipelines.parquet_files import replace_parquet

TRACES, FEEDBACK = dg.AssetKey("traces"), dg.AssetKey("feedback")
FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=6), fail_window=timedelta(hours=24))
"""Of what an ingest brings up to date. What an optimisation makes is not stale while nobody has anything new."""
_STORED = {name: dtype for name, dtype in TRACE_SCHEMA.items() if name != "dt"}
_IMPORTED = pl.Schema(dict.fromkeys(("variables", "messages", "expected", "split", "id"), pl.String()))

trace_store = dg.AssetSpec(
    "trace_store",
    group_name=LAKE,
    kinds={"sqlite"},
    owners=DATA_OWNERS,
    metadata=column_schema(_STORED),
    description="What the gateway writes: one row a request, and what was said about it later. Not made here.",
)
imported_rows = dg.AssetSpec(
    "imported_rows",
    group_name=LAKE,
    kinds={"json"},
    owners=DATA_OWNERS,
    metadata=column_schema(_IMPORTED),
    description="Labelled rows from files: `route-switch dataset import`. Not made here.",
)


@dg.multi_asset(
    name="lake",
    specs=[
        dg.AssetSpec(
            TRACES,
            deps=[trace_store],
            group_name=LAKE,
            kinds={"parquet", "polars"},
            owners=DATA_OWNERS,
            freshness_policy=FRESH,
            metadata=column_schema(TRACE_SCHEMA),
            description="One row a request, as Parquet by day: appended from the gateway's store exactly once.",
        ),
        dg.AssetSpec(
            FEEDBACK,
            deps=[trace_store],
            group_name=LAKE,
            kinds={"parquet", "polars"},
            owners=DATA_OWNERS,
            freshness_policy=FRESH,
            metadata=column_schema(FEEDBACK_SCHEMA),
            description="Labels, scores, outcomes and comments on traces, as Parquet by day.",
        ),
    ],
)
def lake(context: dg.AssetExecutionContext, stores: StoresResource) -> Iterator[dg.MaterializeResult[Any]]:
    with explained():
        bench = stores.open()
        report = steps.ingest(bench, watch=stores.watch)
        n_traces, n_feedback = steps.lake_rows(bench)
    context.log.info(f"{report.rows} new traces, {report.feedback_rows} new feedback rows")
    yield dg.MaterializeResult(asset_key=TRACES, metadata=of_ingest(report, new=report.rows, rows=n_traces))
    yield dg.MaterializeResult(
        asset_key=FEEDBACK, metadata=of_ingest(report, new=report.feedback_rows, rows=n_feedback)
    )


@dg.asset(
    deps=[TRACES, FEEDBACK],
    group_name=LAKE,
    kinds={"parquet", "polars"},
    owners=DATA_OWNERS,
    freshness_policy=FRESH,
    metadata=column_schema(LIVE_SCORE_SCHEMA),
    description="How good the live versions' answers were, as far as anybody said: what the drift sensor looks at.",
)
def live_scores(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    with explained():
        bench = stores.open()
        table = score_live(bench)
        replace_parquet(table.frame, bench.live_scores)
    for target, why in table.unscored.items():
        context.log.warning(f"{target}: {why}")
    return dg.MaterializeResult(metadata=of_live_scores(table))

"""Asset `daily_figures`: the analysis table over the lake, for whoever reports from it."""

from typing import Any

import dagster as dg

from rs_pipelines.analysis import traffic
from rs_pipelines.defs.columns import column_schema
from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.groups import DATA_OWNERS, LAKE
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.traces import FEEDBACK, FRESH, TRACES
from rs_pipelines.parquet_files import replace_parquet


@dg.asset(
    deps=[TRACES, FEEDBACK],
    group_name=LAKE,
    kinds={"parquet", "polars"},
    owners=DATA_OWNERS,
    freshness_policy=FRESH,
    metadata=column_schema(traffic.daily_schema()),
    description="Requests, outcomes, latency, tokens, cost and score by day, template, version and model.",
)
def daily_figures(stores: StoresResource) -> dg.MaterializeResult[Any]:
    with explained():
        bench = stores.open()
        table = traffic.daily_figures(bench.lake)
        replace_parquet(table, bench.daily_figures)
    return dg.MaterializeResult(metadata={"dagster/row_count": table.height})

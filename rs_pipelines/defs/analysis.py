"""Asset `daily_figures`: the analysis table over the lake, for whoever reports from it."""

from typing import Any

import dagster as dg

from rs_pipelines.analysis import traffic
from rs_pipelines.defs.resources import StoresResource


@dg.asset(
    deps=[dg.AssetKey("traces")],
    group_name="lake",
    kinds={"parquet", "polars"},
    description="Requests, outcomes, latency, tokens, cost and score by day, template, version and model.",
)
def daily_figures(stores: StoresResource) -> dg.MaterializeResult[Any]:
    bench = stores.open()
    table = traffic.daily_figures(bench.lake)
    traffic.save_figures(table, bench.data / "daily_figures.parquet")
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in table.schema.items()]
    return dg.MaterializeResult(
        metadata={"dagster/row_count": table.height, "dagster/column_schema": dg.TableSchema(columns=columns)}
    )

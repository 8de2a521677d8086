"""Asset `traces`: the gateway's trace store, as Parquet in the lake."""

from typing import Any

import dagster as dg

from rs_pipelines import steps
from rs_pipelines.defs.metadata import of_ingest
from rs_pipelines.defs.resources import StoresResource


@dg.asset(
    group_name="lake",
    kinds={"sqlite", "parquet"},
    description="New traces and feedback from the gateway's store, appended to the lake exactly once.",
)
def traces(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    report = steps.ingest(stores.open(), watch=stores.watch)
    context.log.info(f"{report.rows} new traces, {report.feedback_rows} new feedback rows")
    return dg.MaterializeResult(metadata=of_ingest(report))

"""Asset `comparison`: the study's choice against the live version on the rows that the search never saw."""

from typing import Any

import dagster as dg
import polars as pl

from rs_pipelines import steps
from rs_pipelines.defs.columns import column_schema
from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.groups import OPTIMIZATION, PROMPT_OWNERS
from rs_pipelines.defs.metadata import of_comparison
from rs_pipelines.defs.optimization import study
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.run_study import study_of_run
from rs_pipelines.report import verdict_line

_ROWS = pl.Schema(
    {
        "example_id": pl.String(),
        "expected": pl.String(),
        "live_value": pl.Float64(),
        "candidate_value": pl.Float64(),
        "live_output": pl.String(),
        "candidate_output": pl.String(),
        "live_tokens": pl.Int64(),
        "candidate_tokens": pl.Int64(),
    }
)


@dg.asset(
    deps=[study],
    partitions_def=targets,
    group_name=OPTIMIZATION,
    kinds={"json", "python"},
    owners=PROMPT_OWNERS,
    pool="lm",
    metadata=column_schema(_ROWS),
    description="The best candidate and the live version, row by row, on the test split.",
)
def comparison(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    with explained():
        bench = stores.open()
        target = bench.target_of_key(context.partition_key)
        searched = study_of_run(context.instance, context.run.run_id)
        compared = steps.compare(bench, target, study_id=searched and searched.study_id, watch=stores.watch)
    context.log.info(verdict_line(compared))
    return dg.MaterializeResult(metadata=of_comparison(compared))

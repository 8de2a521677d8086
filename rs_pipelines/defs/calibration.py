"""Asset `calibration_sample`: labelled examples, split by a fixed hash into train, val and test."""

from typing import Any

import dagster as dg

from rs_pipelines import planning, steps
from rs_pipelines.defs.columns import column_schema
from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.groups import OPTIMIZATION, PROMPT_OWNERS
from rs_pipelines.defs.metadata import of_preflight, of_sample
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.traces import FEEDBACK, TRACES, imported_rows
from rs_pipelines.sample_store import SAMPLE_COLUMNS


@dg.asset(
    deps=[TRACES, FEEDBACK, imported_rows],
    partitions_def=targets,
    group_name=OPTIMIZATION,
    kinds={"parquet", "polars"},
    owners=PROMPT_OWNERS,
    metadata=column_schema(SAMPLE_COLUMNS),
    description="The examples of one target: inputs with the output that would have been right, and who says so.",
)
def calibration_sample(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    with explained():
        bench = stores.open()
        target = bench.target_of_key(context.partition_key)
        sample = steps.draw(bench, target, watch=stores.watch)
        inspected = planning.inspect_sample(bench, target, sample)
    context.log.info(f"sample {sample.sample_id}: {len(sample.examples)} examples")
    return dg.MaterializeResult(metadata={**of_sample(sample), **of_preflight(inspected)})

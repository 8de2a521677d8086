"""Asset `calibration_sample`: labelled examples, split by a fixed hash into train, val and test."""

from typing import Any

import dagster as dg

from rs_pipelines import steps
from rs_pipelines.defs.metadata import of_preflight, of_sample
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.traces import traces


@dg.asset(
    deps=[traces],
    partitions_def=targets,
    group_name="optimization",
    kinds={"polars", "duckdb"},
    description="The examples of one target: inputs with the output that would have been right, and who says so.",
)
def calibration_sample(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    bench = stores.open()
    target = bench.target_of_key(context.partition_key)
    sample = steps.draw(bench, target, watch=stores.watch)
    context.log.info(f"sample {sample.sample_id}: {len(sample.examples)} examples")
    return dg.MaterializeResult(
        metadata={**of_sample(sample), **of_preflight(steps.inspect_sample(bench, target, sample))}
    )

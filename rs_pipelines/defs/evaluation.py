"""Asset `comparison`: the study's choice against the live version on the rows that the search never saw."""

from typing import Any

import dagster as dg

from rs_pipelines import steps
from rs_pipelines.defs.metadata import of_comparison
from rs_pipelines.defs.optimization import study
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.run_study import study_id_of_run
from rs_pipelines.report import verdict_line


@dg.asset(
    deps=[study],
    partitions_def=targets,
    group_name="optimization",
    kinds={"python"},
    pool="lm",
    description="The best candidate and the live version, row by row, on the test split.",
)
def comparison(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    bench = stores.open()
    target, study_id = bench.target_of_key(context.partition_key), study_id_of_run(context.instance, context.run.run_id)
    compared = steps.compare(bench, target, study_id=study_id, watch=stores.watch)
    context.log.info(verdict_line(compared))
    return dg.MaterializeResult(metadata=of_comparison(compared))

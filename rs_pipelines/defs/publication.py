"""Asset `publication`: the proven winner becomes a version, and live. Materialising it alone cannot bypass the gate."""

from typing import Any

import dagster as dg

from rs_pipelines import steps
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.run_study import study_id_of_run
from rs_pipelines.publishing import Published


@dg.asset(
    deps=[comparison],
    partitions_def=targets,
    group_name="optimization",
    kinds={"yaml"},
    description="The version in the prompt registry that the gateway serves at its next refresh.",
)
def publication(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    bench = stores.open()
    target = bench.target_of_key(context.partition_key)
    study_id = study_id_of_run(context.instance, context.run.run_id)
    result = steps.publish_winner(bench, target, study_id=study_id)
    if not isinstance(result, Published):
        raise dg.Failure(description="Nothing was published: " + " ".join(result.reasons), allow_retries=False)
    context.log.info(f"version {result.version} of {target.template_id} is live for {target.model}")
    compared = steps.comparison_of(bench, target, study_id)
    return dg.MaterializeResult(
        metadata={
            "template_id": target.template_id,
            "model": target.model,
            "version": result.version,
            "study_id": compared.study_id,
            "comparison_id": compared.comparison_id,
        }
    )

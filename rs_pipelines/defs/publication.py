"""Asset `publication`: the proven winner becomes a version, and live. Materialising it alone cannot bypass the gate."""

from typing import Any

import dagster as dg

from rs_pipelines import results, steps
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.groups import OPTIMIZATION, PROMPT_OWNERS
from rs_pipelines.defs.metadata import of_publication
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.run_study import study_of_run
from rs_pipelines.publishing import Published


@dg.asset(
    deps=[comparison],
    partitions_def=targets,
    group_name=OPTIMIZATION,
    kinds={"yaml"},
    owners=PROMPT_OWNERS,
    description="The version in the prompt registry that the gateway serves at its next refresh.",
)
def publication(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult[Any]:
    with explained():
        bench = stores.open()
        target = bench.target_of_key(context.partition_key)
        searched = study_of_run(context.instance, context.run.run_id)
        study_id = searched and searched.study_id
        result = steps.publish_winner(bench, target, study_id=study_id)
        compared = results.comparison_of(bench, target, study_id)
        sample = results.sample_of_study(bench, target, study_id)
    if not isinstance(result, Published):
        raise dg.Failure(description="Nothing was published: " + " ".join(result.reasons), allow_retries=False)
    context.log.info(f"version {result.version} of {target.template_id} is live for {target.model}")
    return dg.MaterializeResult(
        metadata=of_publication(
            result,
            compared,
            live=bench.live(target).text,
            sample=sample,
            folder=bench.studies.directory(target, compared.study_id),
            run_id=None if searched is None else searched.run_id,
        )
    )

"""The gate, where the Dagster UI shows it. Publishing verifies everything again; nothing depends on this alone."""

import warnings

import dagster as dg

from rs_pipelines import steps
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.metadata import of_comparison
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.run_study import study_id_of_run

with warnings.catch_warnings():
    # Partitioned checks are in preview. An unpartitioned one would let one target's pass stand for another's failure.
    warnings.simplefilter("ignore", dg.PreviewWarning)

    @dg.asset_check(
        asset=comparison,
        name="beats_live",
        blocking=True,
        partitions_def=targets,
        description="The gain is proven on held-out rows. A failure means: no proven gain, so nothing is published.",
    )
    def beats_live(context: dg.AssetCheckExecutionContext, stores: StoresResource) -> dg.AssetCheckResult:
        bench = stores.open()
        study_id = study_id_of_run(context.instance, context.run.run_id)
        compared = steps.comparison_of(bench, bench.target_of_key(context.partition_key), study_id)
        verdict = compared.verdict
        return dg.AssetCheckResult(
            passed=verdict.publish, description=" ".join(verdict.reasons), metadata=of_comparison(compared)
        )

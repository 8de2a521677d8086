"""The job that runs the whole loop, and the sensor that makes partitions appear. Off until somebody turns it on."""

import dagster as dg

from rs_pipelines.defs.calibration import calibration_sample
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.optimization import study
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.publication import publication
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.traces import traces

OPTIMIZE = "optimize"

optimize = dg.define_asset_job(
    OPTIMIZE,
    selection=dg.AssetSelection.assets(traces, calibration_sample, study, comparison, publication),
    description="Ingest, draw a sample, search, prove, publish: the whole loop for one target.",
)


@dg.sensor(
    name="new_targets",
    minimum_interval_seconds=30,
    description="Adds a partition for every template x model that the configuration runs.",
)
def new_targets(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SensorResult | dg.SkipReason:
    known = set(context.instance.get_dynamic_partitions("targets"))
    missing = [t.key for t in stores.open().targets() if t.key not in known]
    if not missing:
        return dg.SkipReason("every target has its partition")
    return dg.SensorResult(dynamic_partitions_requests=[targets.build_add_request(missing)])

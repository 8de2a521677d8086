"""What Dagster loads: `workspace.yaml` and `[tool.dg]` name this module."""

from collections.abc import Mapping

import dagster as dg

from rs_gateway.pipeline_sections import PipelineSettings
from rs_gateway.settings import Settings
from rs_pipelines.defs.analysis import daily_figures
from rs_pipelines.defs.automation import schedules, sensors
from rs_pipelines.defs.calibration import calibration_sample
from rs_pipelines.defs.checks import comparison_checks, sample_checks
from rs_pipelines.defs.configuration import configured
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.executors import executor_of
from rs_pipelines.defs.jobs import ingest, optimize_job
from rs_pipelines.defs.optimization import study
from rs_pipelines.defs.publication import publication
from rs_pipelines.defs.requested_runs import RequestedRuns
from rs_pipelines.defs.resources import Stores
from rs_pipelines.defs.traces import imported_rows, lake, live_scores, trace_store
from rs_pipelines.defs.upkeep import upkeep


def build_defs(resources: Mapping[str, object] | None = None, *, settings: Settings | None = None) -> dg.Definitions:
    """The definitions; tests and in-process runs pass resources of their own.

    Args:
        settings: what the launchpad shows, whether sensors and schedules are on, and where steps are carried out; None
            shows nothing, all off, in the process of their run.
    """
    on = settings is not None and settings.gateway.optimization.enabled
    return dg.Definitions(
        assets=[
            trace_store,
            imported_rows,
            lake,
            daily_figures,
            live_scores,
            calibration_sample,
            study,
            comparison,
            publication,
        ],
        asset_checks=[sample_checks, comparison_checks],
        jobs=[ingest, optimize_job(None if settings is None else settings.mipro_v2), upkeep],
        sensors=sensors(on=on),
        schedules=schedules(on=on),
        resources={"stores": Stores(), "requested": RequestedRuns(), **(resources or {})},
        executor=executor_of(PipelineSettings() if settings is None else settings.pipelines),
    )


defs = build_defs(settings=configured())

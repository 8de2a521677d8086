"""What Dagster loads: `workspace.yaml` and `[tool.dg]` name this module."""

from collections.abc import Mapping

import dagster as dg

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.settings import Settings, load_settings
from rs_pipelines.defs.analysis import daily_figures
from rs_pipelines.defs.automation import schedules, sensors
from rs_pipelines.defs.calibration import calibration_sample
from rs_pipelines.defs.checks import comparison_checks, sample_checks
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.executors import executor_of, pipeline_settings
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
        settings: what the launchpad shows, and whether sensors and schedules are on; None shows nothing, all off.
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
        executor=executor_of(pipeline_settings()),
    )


def configured() -> Settings | None:
    """The configuration; None where there is none, or none that can be read: every step then says why."""
    try:
        return load_settings()
    except ConfigurationError:
        return None


defs = build_defs(settings=configured())

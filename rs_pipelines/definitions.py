"""What Dagster loads: `workspace.yaml` and `[tool.dg]` name this module."""

from collections.abc import Mapping

import dagster as dg

from rs_pipelines.defs.analysis import daily_figures
from rs_pipelines.defs.automation import new_targets, optimize
from rs_pipelines.defs.calibration import calibration_sample
from rs_pipelines.defs.checks import beats_live
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.executors import executor_of, pipeline_settings
from rs_pipelines.defs.optimization import study
from rs_pipelines.defs.publication import publication
from rs_pipelines.defs.resources import Stores
from rs_pipelines.defs.traces import traces


def build_defs(resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """The definitions; tests and in-process runs pass resources of their own."""
    return dg.Definitions(
        assets=[traces, daily_figures, calibration_sample, study, comparison, publication],
        asset_checks=[beats_live],
        jobs=[optimize],
        sensors=[new_targets],
        resources={"stores": Stores(), **(resources or {})},
        executor=executor_of(pipeline_settings()),
    )


defs = build_defs()

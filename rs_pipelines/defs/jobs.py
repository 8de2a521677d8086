"""What can be launched: bringing traces into the lake, and the whole loop for one target."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from rs_gateway.pipeline_sections import MiproSettings
from rs_pipelines.defs.analysis import daily_figures
from rs_pipelines.defs.calibration import calibration_sample
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.optimization import study, study_config
from rs_pipelines.defs.publication import publication
from rs_pipelines.defs.traces import FEEDBACK, TRACES, live_scores

INGEST, OPTIMIZE = "ingest", "optimize"
AS_CONFIGURED: Mapping[str, Any] = {"ops": {"study": {"config": {}}}}
"""Run configuration that overrides nothing: route-switch.yaml counts as it is when the run starts."""

ingest = dg.define_asset_job(
    INGEST,
    selection=dg.AssetSelection.assets(TRACES, FEEDBACK, daily_figures, live_scores),
    description="Bring new traces and feedback into the lake, and make daily figures and live scores of them.",
)


def optimize_job(mipro: MiproSettings | None) -> Any:
    """The loop; with settings, the launchpad shows them as the run's configuration, ready to be changed.

    A run that crashed is launched again once, and goes on where it was. One that failed, or found no gain, is not.
    """
    return dg.define_asset_job(
        OPTIMIZE,
        selection=dg.AssetSelection.assets(TRACES, FEEDBACK, calibration_sample, study, comparison, publication),
        config=None if mipro is None else {"ops": {"study": {"config": study_config(mipro)}}},
        tags={"dagster/max_retries": "1"},
        description="Ingest, draw a sample, search, prove, publish: the whole loop for one target.",
    )

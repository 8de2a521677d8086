"""Which study a run works on: the one that its own step `study` ended with, whatever other runs do meanwhile."""

import dagster as dg

from rs_pipelines.defs.metadata import STUDY_ID

_STUDY = dg.AssetKey("study")


def study_id_of_run(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """The id of the study that this run searched; None when it searched none, and so means the target's latest."""
    found: str | None = None
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records:
        made = record.asset_materialization
        if made is not None and made.asset_key == _STUDY:
            found = str(made.metadata[STUDY_ID].value)
    return found

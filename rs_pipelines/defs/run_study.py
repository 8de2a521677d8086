"""Which study a run works on: the one that its own step `study` ended with, whatever other runs do meanwhile."""

from dataclasses import dataclass

import dagster as dg

from rs_pipelines.defs.metadata import STUDY_ID

_STUDY = dg.AssetKey("study")


@dataclass(frozen=True, slots=True)
class RunStudy:
    """A study, and the run that searched it."""

    study_id: str
    run_id: str


def study_of_run(instance: dg.DagsterInstance, run_id: str) -> RunStudy | None:
    """What this run searched, or the run that it executes again from a failure behind `study`.

    None: neither searched anything, so the target's latest study is meant.
    """
    asked: str | None = run_id
    while asked is not None:
        found = _study_id(instance, asked)
        if found is not None:
            return RunStudy(found, asked)
        run = instance.get_run_by_id(asked)
        asked = None if run is None else run.parent_run_id
    return None


def _study_id(instance: dg.DagsterInstance, run_id: str) -> str | None:
    found: str | None = None
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records:
        made = record.asset_materialization
        if made is not None and made.asset_key == _STUDY:
            found = str(made.metadata[STUDY_ID].value)
    return found

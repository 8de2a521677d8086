"""Runs whose records show rows that had to go: Dagster keeps what a run reported, tables of rows included."""

import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress

import dagster as dg
from dagster._core.storage.event_log import SqlEventLogStorage  # these are not exported, and nothing else gets there
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetKeyTable

from rs_pipelines.defs.instance import opened_instance
from rs_pipelines.defs.metadata import STUDY_ID
from rs_pipelines.workbench import Workbench


def runs_of(bench: Workbench, study_ids: Collection[str]) -> list[str]:
    """Ids of the runs that searched or compared these studies; none where Dagster has never run here."""
    if not (bench.data / "dagster" / "dagster.yaml").exists():
        return []
    with opened_instance(bench) as instance:
        return [run.run_id for run in instance.get_runs() if not _studies(instance, run.run_id).isdisjoint(study_ids)]


def _forget_copies(storage: EventLogStorage, run_ids: Collection[str]) -> None:
    """Dagster leaves two copies of what a deleted run reported: its checks, and each asset's last materialization."""
    if not isinstance(storage, SqlEventLogStorage):
        return
    with storage.index_connection() as connection:
        connection.execute(AssetCheckExecutionsTable.delete().where(AssetCheckExecutionsTable.c.run_id.in_(run_ids)))
        last_of_them = AssetKeyTable.c.last_run_id.in_(run_ids)
        connection.execute(AssetKeyTable.update().where(last_of_them).values(last_materialization=None))


def _studies(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    made = [record.asset_materialization for record in records]
    return {str(asset.metadata[STUDY_ID].value) for asset in made if asset is not None and STUDY_ID in asset.metadata}


def forget_runs(bench: Workbench, run_ids: Collection[str]) -> None:
    """Delete these runs with all that they reported. What the studies found stays with the studies."""
    if not run_ids:
        return
    with opened_instance(bench) as instance:
        for run_id in run_ids:
            with suppress(dg.DagsterInvariantViolationError):  # somebody else deleted it
                instance.delete_run(run_id)
        _forget_copies(instance.event_log_storage, run_ids)
    for path in (bench.data / "dagster").rglob("*.db"):
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

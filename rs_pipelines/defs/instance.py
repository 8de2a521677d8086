"""Dagster's own stores under the data directory: made once, whole, by one process, whoever is killed meanwhile."""

import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import structlog
import yaml
from dagster._core.instance.ref import InstanceRef  # not exported, and nothing else overrides a dagster.yaml
from filelock import FileLock
from sqlalchemy.exc import SQLAlchemyError

from rs_pipelines.durable_files import write_durably
from rs_pipelines.workbench import Workbench

log = structlog.get_logger()
_INSTANCE: Mapping[str, Any] = {
    "telemetry": {"enabled": False},
    "nux": {"enabled": False},
    # A failed gate is an answer, not an accident: running it again would pay for the model calls again.
    "run_retries": {"enabled": True, "max_retries": 0, "retry_on_asset_or_op_failure": False},
    "run_monitoring": {"enabled": True, "free_slots_after_run_end_seconds": 60},
    # Counted by runs, not by steps: a step's claim outlives a killed process, and then everybody waits for nobody.
    "concurrency": {"pools": {"granularity": "run", "default_limit": 1}},
}
_NOT_COPIED = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
_STORES = ("history", "schedules", "storage")


def dagster_home(bench: Workbench) -> Path:
    """Dagster's folder, ready for any number of processes; a dagster.yaml that is there already is left alone.

    Dagster makes its tables when it first opens them, not in one piece: a process killed there, or two at once, leave
    stores that nobody can open any more. So the first opening happens here, behind a lock, and is marked when done.
    """
    home = bench.data / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    made = home / ".made"
    if not made.exists():
        with FileLock(home / ".making.lock"):
            if not made.exists():
                _make(home)
                write_durably(made, b"")
    return home


@contextmanager
def instance_of_the_terminal(bench: Workbench) -> Generator[dg.DagsterInstance]:
    """The same instance, for a run in this very process: what the run prints stays at the terminal.

    Dagster copies what steps print through helper processes in our own process group. A Ctrl-C reaches those as well,
    and they answer with tracebacks.
    """
    ref = InstanceRef.from_dir(str(dagster_home(bench)), overrides={"compute_logs": _NOT_COPIED})
    with dg.DagsterInstance.from_ref(ref) as instance:
        yield instance


@contextmanager
def opened_instance(bench: Workbench) -> Generator[dg.DagsterInstance]:
    """The instance that the UI shows."""
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        yield instance


def _make(home: Path) -> None:
    config = home / "dagster.yaml"
    if not config.exists():
        write_durably(config, yaml.safe_dump(dict(_INSTANCE), sort_keys=False).encode())
    try:
        _open_once(home)
    except (SQLAlchemyError, dg.DagsterError) as error:
        # Half-made by a process that was killed, before a single run was recorded; kept, in case it was not.
        aside = home / f"unreadable-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        aside.mkdir()
        for name in _STORES:
            if (home / name).exists():
                shutil.move(home / name, aside / name)
        log.warning("dagster_stores_made_anew", aside=str(aside), error=type(error).__name__)
        _open_once(home)


def _open_once(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs(limit=1)
        instance.get_dynamic_partitions("targets")
        instance.all_instigator_state()

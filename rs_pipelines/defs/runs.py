"""Runs of the job from the command line: in this process, on the UI's own Dagster instance, so that it shows them."""

import os
import socket
from dataclasses import dataclass
from uuid import uuid4

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError  # not exported, and nothing else tells it apart

from rs_pipelines.definitions import build_defs
from rs_pipelines.defs.automation import OPTIMIZE
from rs_pipelines.defs.instance import instance_of_the_terminal, opened_instance
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import Stores
from rs_pipelines.defs.run_study import study_id_of_run
from rs_pipelines.sample import Target
from rs_pipelines.steps import Effort, Watcher, ignore
from rs_pipelines.workbench import Workbench

_PROCESS_TAG = "route-switch/process"


def add_partitions(bench: Workbench) -> None:
    """Make every target of the configuration a partition, so that the UI offers it."""
    with opened_instance(bench) as instance:
        _add(instance, bench)


@dataclass(frozen=True, slots=True)
class OptimizeRun:
    """A run that came to a verdict: Dagster's id of it, and the study that it searched and compared."""

    run_id: str
    study_id: str


def optimize_in_process(bench: Workbench, target: Target, effort: Effort, *, watch: Watcher = ignore) -> OptimizeRun:
    """Run the whole loop for one target, and hold the target meanwhile. A failed gate is no error.

    Raises:
        StudyBusyError: somebody else is optimising the target.
        RouteSwitchError: what went wrong in a step, as the step raised it.
        KeyboardInterrupt: somebody stopped it; Dagster has it as canceled.
    """
    config = {
        "mode": effort.mode,
        "num_trials": effort.num_trials,
        "max_calls": effort.max_calls,
        "seed": effort.seed,
    }
    job = build_defs({"stores": Stores(lambda: bench, watch)}).resolve_job_def(OPTIMIZE)
    run_id = str(uuid4())
    with bench.studies.lock(target), instance_of_the_terminal(bench) as instance:
        _add(instance, bench)
        _end_orphans(instance)
        try:
            job.execute_in_process(
                instance=instance,
                run_id=run_id,
                partition_key=target.key,
                run_config={
                    "ops": {"study": {"config": {k: v for k, v in config.items() if v is not None}}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                tags={"route-switch/target": target.key, _PROCESS_TAG: f"{socket.gethostname()} {os.getpid()}"},
            )
        except (DagsterAssetCheckFailedError, dg.Failure):
            pass  # no is an answer, not an accident; the comparison and `steps.reasons` have the reasons
        except dg.DagsterExecutionInterruptedError:
            # Dagster takes an interrupt that its own UI did not ask for as a failure; a person's Ctrl-C is none.
            run = instance.get_run_by_id(run_id)
            if run is not None:
                instance.report_run_canceled(
                    run, "Stopped from the command line. Run it again: it goes on where it was."
                )
            raise KeyboardInterrupt from None
        study_id = study_id_of_run(instance, run_id)
    assert study_id is not None, "a run without a study has raised"
    return OptimizeRun(run_id, study_id)


def _end_orphans(instance: dg.DagsterInstance) -> None:
    """End the runs of command lines that were killed: they could not say so themselves, and would run for ever."""
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        host, _, pid = run.tags.get(_PROCESS_TAG, "").partition(" ")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            instance.report_run_failed(run, f"Process {pid} was killed. Run it again: it goes on where it was.")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _add(instance: dg.DagsterInstance, bench: Workbench) -> None:
    name = targets.name
    assert name is not None
    known = set(instance.get_dynamic_partitions(name))
    instance.add_dynamic_partitions(name, [t.key for t in bench.targets() if t.key not in known])

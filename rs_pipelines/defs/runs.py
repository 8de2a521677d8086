"""Runs of the job from the command line: in this process, on the UI's own Dagster instance, so that it shows them."""

import os
import socket
from dataclasses import asdict, dataclass
from uuid import uuid4

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError  # not exported, and nothing else tells it apart

from rs_gateway.domain.errors import RouteSwitchError
from rs_pipelines.definitions import build_defs
from rs_pipelines.defs.instance import instance_of_the_terminal, opened_instance
from rs_pipelines.defs.jobs import OPTIMIZE
from rs_pipelines.defs.launches import PROCESS_TAG, end_orphans
from rs_pipelines.defs.partitions import TARGETS, missing_targets
from rs_pipelines.defs.resources import Stores
from rs_pipelines.defs.run_study import study_of_run
from rs_pipelines.effort import Effort
from rs_pipelines.sample import Target
from rs_pipelines.step_events import Watcher, ignore
from rs_pipelines.workbench import Workbench


def add_partitions(bench: Workbench) -> None:
    """Make every target of the configuration a partition, so that the UI offers it."""
    with opened_instance(bench) as instance:
        _add(instance, bench)


class SampleRefusedError(RouteSwitchError):
    """A check of the sample stopped the run before the search."""

    code = "sample_refused"


@dataclass(frozen=True, slots=True)
class OptimizeRun:
    """A run that came to a verdict: Dagster's id of it, and the study that it searched and compared."""

    run_id: str
    study_id: str


def optimize_in_process(bench: Workbench, target: Target, effort: Effort, *, watch: Watcher = ignore) -> OptimizeRun:
    """Run the whole loop for one target, and hold the target meanwhile. A failed gate is no error.

    Raises:
        StudyBusyError: somebody else is optimising the target.
        RouteSwitchError, OSError: what went wrong in a step, as the step raised it.
        KeyboardInterrupt: somebody stopped it; Dagster has it as canceled.
    """
    config = {name: value for name, value in asdict(effort).items() if value is not None}
    job = build_defs({"stores": Stores(lambda: bench, watch)}).resolve_job_def(OPTIMIZE)
    run_id = str(uuid4())
    with bench.studies.lock(target), instance_of_the_terminal(bench) as instance:
        instance.add_dynamic_partitions(TARGETS, [target.key])
        _add(instance, bench)
        end_orphans(instance)
        try:
            job.execute_in_process(
                instance=instance,
                run_id=run_id,
                partition_key=target.key,
                run_config={
                    "ops": {"study": {"config": config}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                tags={
                    "route-switch/target": target.key,
                    PROCESS_TAG: f"{socket.gethostname()} {os.getpid()}",
                    # Whoever typed the command starts it again; the UI's daemon must not do so behind their back.
                    "dagster/max_retries": "0",
                },
            )
        except dg.Failure as failure:
            if isinstance(failure.__cause__, RouteSwitchError | OSError):
                raise failure.__cause__ from None
        except DagsterAssetCheckFailedError as failure:
            # No is an answer, not an accident; the comparison and `steps.reasons` have the reasons.
            if study_of_run(instance, run_id) is None:
                raise SampleRefusedError(_words_of_red_checks(instance, run_id) or str(failure)) from None
        except dg.DagsterExecutionInterruptedError:
            # Dagster takes an interrupt that its own UI did not ask for as a failure; a person's Ctrl-C is none.
            run = instance.get_run_by_id(run_id)
            if run is not None:
                instance.report_run_canceled(
                    run, "Stopped from the command line. Run it again: it goes on where it was."
                )
            raise KeyboardInterrupt from None
        searched = study_of_run(instance, run_id)
    assert searched is not None, "a run without a study has raised"
    return OptimizeRun(run_id, searched.study_id)


def _words_of_red_checks(instance: dg.DagsterInstance, run_id: str) -> str:
    """What the blocking checks of a run found wrong; Dagster's own error only has their names."""
    found: list[str] = []
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records:
        check = record.event_log_entry.get_dagster_event().asset_check_evaluation_data
        if check.blocking and not check.passed:
            found.append(f"{check.check_name}: {check.description}")
    return "\n".join(found)


def _add(instance: dg.DagsterInstance, bench: Workbench) -> None:
    instance.add_dynamic_partitions(TARGETS, missing_targets(instance, bench))

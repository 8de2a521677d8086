"""What Dagster knows of a target's or a job's runs, for those who would start another one."""

import os
import socket
from dataclasses import dataclass

import dagster as dg

_UNFINISHED = frozenset(
    {
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.MANAGED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    }
)
_PARTITION_TAG = "dagster/partition"
PROCESS_TAG = "route-switch/process"
"""Host and process id of a command line, on the runs that it executes itself."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """The run that was launched last.

    Attributes:
        age_s: seconds since it was launched; ended_s: since it ended, 0 while it has not.
    """

    run_id: str
    unfinished: bool
    failed: bool
    age_s: float
    ended_s: float

    def why_not_now(self, *, patience_s: float) -> str | None:
        """Why nothing should be launched beside or after it; None when it is in nobody's way.

        Args:
            patience_s: how long a failure is left alone; a person may launch at any time.
        """
        if self.unfinished:
            return f"run {self.run_id[:8]} is under way"
        if self.failed and self.ended_s < patience_s:
            return (
                f"run {self.run_id[:8]} failed or found no gain {self.ended_s:.0f} s ago: not again by itself before "
                f"{patience_s:.0f} s are over"
            )
        return None


def last_run_of_job(instance: dg.DagsterInstance, job_name: str, *, now_s: float) -> LastRun | None:
    """The job's latest run, whoever launched it."""
    return _last(instance, dg.RunsFilter(job_name=job_name), now_s)


def last_run_of_target(instance: dg.DagsterInstance, key: str, *, now_s: float) -> LastRun | None:
    """The target's latest run, from wherever: a sensor, the launchpad, a backfill, the command line."""
    return _last(instance, dg.RunsFilter(tags={_PARTITION_TAG: key}), now_s)


def end_orphans(instance: dg.DagsterInstance) -> None:
    """End the runs of command lines that were killed: they could not say so themselves, and would run for ever."""
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        host, _, pid = run.tags.get(PROCESS_TAG, "").partition(" ")
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


def _last(instance: dg.DagsterInstance, runs: dg.RunsFilter, now_s: float) -> LastRun | None:
    records = instance.get_run_records(filters=runs, limit=1)
    if not records:
        return None
    record, run = records[0], records[0].dagster_run
    return LastRun(
        run_id=run.run_id,
        unfinished=run.status in _UNFINISHED,
        failed=run.status is dg.DagsterRunStatus.FAILURE,
        age_s=now_s - record.create_timestamp.timestamp(),
        ended_s=0.0 if record.end_time is None else now_s - record.end_time,
    )

"""Runs that a tick has asked for and that Dagster may not have recorded yet, so that no other tick asks beside it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

import dagster as dg

from rs_pipelines.defs.launches import LastRun

_PENDING_S = 120.0
"""Dagster gives a tick up after 60 s, and then launches what it asked for, one run after the other."""


@dataclass(frozen=True, slots=True)
class _Request:
    after_run_id: str | None
    at_s: float


@dataclass(frozen=True, slots=True)
class RequestedRuns:
    """Lets one tick at a time ask for a run of a target or a job.

    A sensor and a schedule that look in the same second both see that nothing is under way. All ticks are evaluated in
    threads of one process, the code location's, so a lock and a note of who asked are enough.

    Attributes:
        clock_s: seconds that only grow.
    """

    clock_s: Callable[[], float] = time.monotonic
    _requests: dict[str, _Request] = field(default_factory=dict[str, _Request])
    _lock: Lock = field(default_factory=Lock)

    def why_not(self, key: str, *, seen: LastRun | None, latest: Callable[[], LastRun | None]) -> str | None:
        """Note that a run is asked for, and return None; or say why none is to be asked for.

        Args:
            key: what the run is for: a target or a job.
            seen: the last run, as it was known when the tick began to decide.
            latest: gives the last run as it is known now.
        """
        with self._lock:
            run = latest()
            run_id, now_s = None if run is None else run.run_id, self.clock_s()
            if run_id is not None and (seen is None or run_id != seen.run_id):
                return f"run {run_id[:8]} has just been launched"
            earlier = self._requests.get(key)
            if earlier is not None and earlier.after_run_id == run_id and now_s - earlier.at_s < _PENDING_S:
                return "another sensor or schedule has just asked for a run"
            self._requests[key] = _Request(run_id, now_s)
            return None


RequestedRunsResource = dg.ResourceParam[RequestedRuns]

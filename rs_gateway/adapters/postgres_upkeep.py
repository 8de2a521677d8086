"""What time makes necessary in a trace store in Postgres, a few rows at a time.

Deleting holds up neither writers nor readers there, and gateways that delete at the same time pass over each other's
rows: each may do it all.
"""

from collections.abc import Callable
from typing import LiteralString, TypeAlias

import psycopg

from rs_gateway.adapters.trace_retention import Retention, first_id
from rs_gateway.domain.stats import HOUR_S, KEPT_S, MINUTE_S

_ROWS = 500
"""Of one step: milliseconds, and the queue waits for no longer."""

# The newest row of a table stays: readers recognise the store by the row that they read last.
_DELETE_PAYLOADS = (
    "DELETE FROM route_switch.trace_payloads WHERE trace_id IN (SELECT trace_id FROM route_switch.trace_payloads "
    "WHERE trace_id < %s ORDER BY trace_id LIMIT %s FOR UPDATE SKIP LOCKED)"
)
_DELETE_TRACES = (
    "DELETE FROM route_switch.traces WHERE trace_id IN (SELECT trace_id FROM route_switch.traces WHERE trace_id < %s "
    "AND seq < (SELECT max(seq) FROM route_switch.traces) ORDER BY trace_id LIMIT %s FOR UPDATE SKIP LOCKED)"
)
_DELETE_FEEDBACK = (
    "DELETE FROM route_switch.feedback WHERE seq IN (SELECT seq FROM route_switch.feedback WHERE created_at < %s "
    "AND seq < (SELECT max(seq) FROM route_switch.feedback) ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)"
)
_DELETE_MINUTES = (
    "DELETE FROM route_switch.stats WHERE ctid IN (SELECT ctid FROM route_switch.stats "
    "WHERE period_s = 60 AND start_s < %s LIMIT %s FOR UPDATE SKIP LOCKED)"
)
_DELETE_HOURS = (
    "DELETE FROM route_switch.stats WHERE ctid IN (SELECT ctid FROM route_switch.stats "
    "WHERE period_s = 3600 AND start_s < %s LIMIT %s FOR UPDATE SKIP LOCKED)"
)

_Task: TypeAlias = tuple[LiteralString, object]
"""A statement, and what it compares with."""


class PostgresUpkeep:
    """Which rows are due. Used by the thread that owns the connection."""

    def __init__(self, retention: Retention, *, clock: Callable[[], float], interval_s: float) -> None:
        """Begin with a round at once, then one every `interval_s`. `clock` gives seconds since the epoch."""
        self._retention, self._clock, self._interval_s = retention, clock, interval_s
        self._round: list[_Task] = []

    def step(self, connection: psycopg.Connection) -> float:
        """Delete some of what is due; how many seconds to wait before the next step. Raises psycopg.Error."""
        if not self._round:
            self._round = self._due(self._clock())
        statement, bound = self._round[-1]
        if connection.execute(statement, (bound, _ROWS)).rowcount < _ROWS:
            self._round.pop()
        return 0.0 if self._round else self._interval_s

    def _due(self, now_s: float) -> list[_Task]:
        """The tasks of one round, the last one first."""
        tasks: list[_Task] = [
            (_DELETE_MINUTES, now_s - KEPT_S - MINUTE_S),
            (_DELETE_HOURS, now_s - KEPT_S - HOUR_S),
        ]
        feedback, traces = self._retention.feedback_before(now_s), self._retention.traces_before(now_s)
        payloads = self._retention.payloads_before(now_s)
        if feedback is not None:
            tasks.append((_DELETE_FEEDBACK, feedback))
        if traces is not None:
            tasks.append((_DELETE_TRACES, first_id(traces)))
        if payloads is not None:
            tasks.append((_DELETE_PAYLOADS, first_id(payloads)))
        return tasks

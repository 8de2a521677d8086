"""Traces in Postgres, shared by gateways on several hosts: one writer a process; readers page by commit sequence."""

import time
from collections.abc import Callable, Mapping

from rs_gateway.adapters.paged_traces import PagedTraces, TraceQueries
from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_trace_database import PostgresTraceDatabase
from rs_gateway.adapters.postgres_trace_schema import NEWEST_POSITIONS, SETTLED_BEFORE, TRACE_SCHEMA
from rs_gateway.adapters.postgres_upkeep import PostgresUpkeep
from rs_gateway.adapters.queued_traces import QueuedTraces
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.adapters.trace_rows import FEEDBACK_COLUMNS, PAYLOAD_COLUMNS, TRACE_COLUMNS
from rs_gateway.adapters.trace_writer import Prepare, TraceWriter, WriterLimits
from rs_gateway.domain.ports import NewestPositions

# The `LIMIT 1` in the join makes it one look into an index for each row of the page: whatever the planner believes of
# the tables, a page costs what its rows cost.
_PAYLOAD = (
    f"LEFT JOIN LATERAL (SELECT {', '.join(PAYLOAD_COLUMNS)} FROM route_switch.trace_payloads "  # noqa: S608 our names
    "WHERE trace_payloads.trace_id = traces.trace_id LIMIT 1) AS payload ON true"
)
QUERIES = TraceQueries(
    traces=(
        f"SELECT {', '.join(TRACE_COLUMNS)} FROM (SELECT * FROM route_switch.traces "  # noqa: S608 our names
        f"WHERE seq > %s AND seq < {SETTLED_BEFORE} ORDER BY seq LIMIT %s) AS traces {_PAYLOAD} ORDER BY seq"
    ).encode(),
    feedback=(
        f"SELECT {', '.join(FEEDBACK_COLUMNS)} FROM route_switch.feedback "  # noqa: S608 our names
        f"WHERE seq > %s AND seq < {SETTLED_BEFORE} ORDER BY seq LIMIT %s"
    ).encode(),
    scores=(
        "SELECT seq, template_id, combination_id, value::double precision "  # noqa: S608 our names
        "FROM route_switch.feedback JOIN LATERAL (SELECT template_id, combination_id FROM route_switch.traces "
        "WHERE traces.trace_id = feedback.trace_id LIMIT 1) AS answered ON true "
        "WHERE kind = 'score' AND combination_id IS NOT NULL "
        f"AND seq > %s AND seq < {SETTLED_BEFORE} ORDER BY seq LIMIT %s"
    ).encode(),
    trace=(
        f"SELECT {', '.join(TRACE_COLUMNS)} FROM route_switch.traces {_PAYLOAD} "  # noqa: S608 our names
        "WHERE trace_id = %s"
    ).encode(),
    newest_score=(
        "SELECT seq FROM route_switch.feedback "  # noqa: S608 our names
        f"WHERE kind = 'score' AND seq < {SETTLED_BEFORE} ORDER BY seq DESC LIMIT 1 OFFSET %s"
    ).encode(),
)
_SELECT_NEWEST = f"SELECT {NEWEST_POSITIONS}".encode()


class PostgresTraceStore(QueuedTraces):
    """The gateway's side of the store.

    A trace is stored when Postgres has committed it, by the server's own `synchronous_commit`. While the server cannot
    be reached traces wait in the queue, and those that find no room there are counted; everybody who waits is told at
    once: `committed` returns False though the trace stays queued, feedback is withdrawn.
    """

    def __init__(
        self,
        place: PostgresPlace,
        *,
        limits: WriterLimits = WriterLimits(),  # noqa: B008 it is frozen
        retention: Retention = Retention(),  # noqa: B008 it is frozen
        upkeep_interval_s: float = 3_600.0,
        prepare: Prepare | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Connect, create or migrate the tables, and start the writer.

        Args:
            retention: applied at the start and every `upkeep_interval_s`, a few rows at a time between commits.
            prepare: see TraceWriter; what it returns is stored, the live figures count the record as it came.
            clock: seconds since the epoch; retention goes by it.
        Raises:
            SchemaTooNewError, StoreError, ConfigurationError: the message says why and what to do.
        """
        writer = TraceWriter(
            PostgresTraceDatabase(
                PostgresDatabase(place, TRACE_SCHEMA, busy_timeout_s=limits.write_timeout_s),
                PostgresUpkeep(retention, clock=clock, interval_s=upkeep_interval_s),
            ),
            name="traces postgres",
            limits=limits,
            prepare=prepare,
        )
        super().__init__(writer)


class PostgresTraceReader(PagedTraces[bytes]):
    """The pipelines' side of the store: one statement a page. A database without our tables is empty.

    A page ends before the oldest transaction that is still open in the cluster, whoever's it is: what was committed
    after that comes with a later page, exactly once.
    """

    def __init__(self, place: PostgresPlace) -> None:
        """Nothing is connected yet. Raises ConfigurationError: the URL is none."""
        self._database = PostgresDatabase(place, TRACE_SCHEMA)
        super().__init__(self._database, QUERIES)

    def newest_positions(self) -> NewestPositions:
        """See TraceReader. Raises SchemaTooNewError, StoreError.

        Positions are counted by the transaction, so there are many more of them than rows.
        """
        rows = self._database.rows(_SELECT_NEWEST, ())
        return NewestPositions(*rows[0]) if rows else NewestPositions()

    def trace(self, trace_id: str) -> Mapping[str, object] | None:
        """See PagedTraces."""
        return None if "\0" in trace_id else super().trace(trace_id)  # which no text in Postgres can hold

"""Taking traces out of a trace store in Postgres, while gateways write to it."""

from collections.abc import Collection, Generator, Sequence

from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_trace_schema import TRACE_SCHEMA
from rs_gateway.domain.ports import Erased, StoredInput

_ROWS_A_COMMIT = 200
_INPUTS = (
    b"SELECT trace_id, template_id, variables, request_messages "
    b"FROM route_switch.traces LEFT JOIN route_switch.trace_payloads USING (trace_id) "
)
_OF_USER = _INPUTS + b"WHERE end_user = %s ORDER BY seq"
_OF_IDS = _INPUTS + b"WHERE trace_id = ANY(%s) ORDER BY seq"
_N_FEEDBACK = b"SELECT count(*) FROM route_switch.feedback WHERE trace_id = ANY(%s)"
_DELETE_PAYLOADS = b"DELETE FROM route_switch.trace_payloads WHERE trace_id = ANY(%s)"
_DELETE_TRACES = b"DELETE FROM route_switch.traces WHERE trace_id = ANY(%s)"
_DELETE_FEEDBACK = b"DELETE FROM route_switch.feedback WHERE trace_id = ANY(%s)"
_VACUUM = b"VACUUM route_switch.traces, route_switch.trace_payloads, route_switch.feedback"


class PostgresEraser:
    """See TraceEraser. Deleted rows are vacuumed away, which frees their place and does not overwrite it.

    What the server's write-ahead log and its archive still hold of them goes when those do.
    """

    def __init__(self, place: PostgresPlace) -> None:
        """Nothing is connected yet. Raises ConfigurationError: the URL is none."""
        self._database = PostgresDatabase(place, TRACE_SCHEMA)

    def of_user(self, end_user: str) -> Sequence[StoredInput]:
        """See TraceEraser."""
        # As it is stored: see `postgres_trace_database.py`.
        return [StoredInput(*row) for row in self._database.rows(_OF_USER, (end_user.replace("\0", "\ufffd"),))]

    def of_ids(self, trace_ids: Collection[str]) -> Sequence[StoredInput]:
        """See TraceEraser."""
        return [StoredInput(*row) for row in self._database.rows(_OF_IDS, (_possible(trace_ids),))]

    def n_feedback(self, trace_ids: Collection[str]) -> int:
        """See TraceEraser."""
        rows = self._database.rows(_N_FEEDBACK, (_possible(trace_ids),))
        return rows[0][0] if rows else 0

    def erase(self, trace_ids: Collection[str]) -> Erased:
        """See TraceEraser."""
        if not self._database.rows(b"SELECT 1", ()):
            return Erased(0, 0)
        traces = feedback = 0
        for some in _chunks(_possible(trace_ids)):
            with self._database.writing() as connection:
                connection.execute(_DELETE_PAYLOADS, (some,))
                traces += connection.execute(_DELETE_TRACES, (some,)).rowcount
        # Last: feedback on a trace that is gone is refused, so no more comes.
        for some in _chunks(_possible(trace_ids)):
            with self._database.writing() as connection:
                feedback += connection.execute(_DELETE_FEEDBACK, (some,)).rowcount
        self._database.rows(_VACUUM, ())
        return Erased(traces, feedback)


def _possible(trace_ids: Collection[str]) -> list[str]:
    return sorted(trace_id for trace_id in trace_ids if "\0" not in trace_id)


def _chunks(trace_ids: Sequence[str]) -> Generator[Sequence[str]]:
    for start in range(0, len(trace_ids), _ROWS_A_COMMIT):
        yield list(trace_ids[start : start + _ROWS_A_COMMIT])

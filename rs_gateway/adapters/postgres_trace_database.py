"""The writer's side of a trace store in Postgres: a batch and the figures that count it, in one transaction."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

import msgspec
import psycopg
import structlog
from psycopg import errors

from rs_gateway.adapters.postgres_database import PostgresDatabase
from rs_gateway.adapters.postgres_stats import add_figures
from rs_gateway.adapters.postgres_trace_schema import OWN_NUMBER, ROWS_A_TRANSACTION
from rs_gateway.adapters.postgres_upkeep import PostgresUpkeep
from rs_gateway.adapters.queued_record import QueuedRecord
from rs_gateway.adapters.trace_rows import (
    ENCODING_ERRORS,
    WRITTEN_FEEDBACK_COLUMNS,
    WRITTEN_PAYLOAD_COLUMNS,
    WRITTEN_TRACE_COLUMNS,
    Row,
    not_storable,
)
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.stats import Tally
from rs_gateway.domain.traces import Trace

log = structlog.get_logger()

_TYPES = {
    **dict.fromkeys(("started_at", "latency_s", "time_to_first_token_s", "cost_usd", "created_at"), "double precision"),
    **dict.fromkeys(("version", "input_tokens", "output_tokens", "cached_input_tokens"), "bigint"),
    **dict.fromkeys(("reasoning_tokens", "cache_write_tokens"), "bigint"),
    **dict.fromkeys(("stream", "parsed"), "smallint"),
    "place": "integer",
}
"""Column -> its type, where that is not text."""


def _insert(table: str, columns: Sequence[str], *, numbered_by: str | None, key: str) -> bytes:
    """A statement with one parameter, the rows as a JSON array: the server takes them apart, not our own processor.

    A retry may follow a commit that succeeded but reported an error: a row that is there already is left alone.
    """
    into, values = list(columns), list(columns)
    if numbered_by is not None:
        into, values = ["seq", *into], [f"{OWN_NUMBER} + {numbered_by}", *values]
    given = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in ("place", *columns))
    return (
        f"INSERT INTO route_switch.{table} ({', '.join(into)}) "  # noqa: S608 our names
        f"SELECT {', '.join(values)} FROM json_to_recordset(%s::json) AS given ({given}) "
        f"ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
    ).encode()


_INSERT_TRACES = _insert("traces", WRITTEN_TRACE_COLUMNS, numbered_by="place", key="trace_id")
_INSERT_PAYLOADS = _insert("trace_payloads", WRITTEN_PAYLOAD_COLUMNS, numbered_by=None, key="trace_id")
_INSERT_FEEDBACK = _insert("feedback", WRITTEN_FEEDBACK_COLUMNS, numbered_by="place", key="feedback_id")
_SELECT_KNOWN = b"SELECT trace_id FROM route_switch.traces WHERE trace_id = ANY(%s)"
# Only in a database that was copied into a younger cluster is there anything to do. The transaction's number is drawn
# after the statement has seen what is there, so it is above those of all rows that it sees.
_COME_AFTER_ALL_ROWS = f"""UPDATE route_switch.trace_sequence SET base = newest.seq + 1 - own.number FROM
    (SELECT greatest((SELECT max(seq) FROM route_switch.traces), (SELECT max(seq) FROM route_switch.feedback),
        deleted_traces, deleted_feedback) AS seq FROM route_switch.trace_sequence) AS newest,
    (SELECT pg_current_xact_id()::text::bigint * {ROWS_A_TRANSACTION} AS number) AS own
    WHERE newest.seq >= base + own.number""".encode()  # noqa: S608 our names

_STATEMENT_BYTES = 16 * 2**20
"""Of one parameter, about: far below what Postgres takes."""

# What one row can do wrong by itself.
_ROW_ERRORS = (*ENCODING_ERRORS, psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded)

_Placed: TypeAlias = tuple[int, QueuedRecord]
"""A record and its place in the batch, by which its row is numbered."""


class PostgresTraceDatabase:
    """The writer's connection: opens, migrates, writes a batch as one transaction, and opens again after a fault."""

    def __init__(self, database: PostgresDatabase, upkeep: PostgresUpkeep) -> None:
        self._database, self._upkeep = database, upkeep
        self._numbered_in = 0

    def open(self) -> None:
        """See TraceDatabase. Raises SchemaTooNewError too."""
        self._database.open()

    def write(self, batch: Sequence[QueuedRecord]) -> None:
        """See TraceDatabase. Whoever waits or not, a commit is as durable as the server makes it."""
        placed = list(enumerate(batch))
        assert len(placed) <= ROWS_A_TRANSACTION
        try:
            self._write_together(placed)
        except StoreError as error:
            if isinstance(error.__cause__, errors.UniqueViolation):
                self._database.close()  # a number that is taken: the next try draws higher ones
            elif isinstance(error.__cause__, _ROW_ERRORS):
                return self._write_one_by_one(placed)
            raise
        except ENCODING_ERRORS:
            self._write_one_by_one(placed)
        return None

    def maintain(self) -> float:
        """See TraceDatabase."""
        with self._database.writing() as connection:
            return self._upkeep.step(connection)

    def close(self) -> None:
        """See TraceDatabase."""
        self._database.close()

    def _write_together(self, placed: Sequence[_Placed]) -> None:
        with self._database.writing() as connection:
            tally = Tally()
            known = self._begin(connection, placed)
            _write_rows(connection, placed, known, tally)
            add_figures(connection, tally)

    def _write_one_by_one(self, placed: Sequence[_Placed]) -> None:
        """The same when some row cannot be stored: that one is found, and does not take its neighbours along."""
        with self._database.writing() as connection:
            tally = Tally()
            known = self._begin(connection, placed)
            for item in placed:
                of_item = Tally()
                try:
                    with connection.transaction():
                        known |= _write_rows(connection, [item], known, of_item)
                except _ROW_ERRORS as error:
                    item[1].rows, item[1].verdict = None, not_storable(item[1].record, error)
                else:
                    tally.merge(of_item)
            try:
                with connection.transaction():
                    add_figures(connection, tally)
            except _ROW_ERRORS as error:
                # Traces are worth more than the figures about them.
                log.error("figures_not_storable", error=str(error))

    def _begin(self, connection: psycopg.Connection, placed: Sequence[_Placed]) -> set[str]:
        """The traces that feedback speaks of and that are stored; and numbers that come after all rows there are.

        Asked before anything is written, so that whoever takes rows in the order of transactions meets no feedback
        before its trace.
        """
        asked = [item.record.trace_id for _, item in placed if isinstance(item.record, Feedback)]
        known = {row[0] for row in connection.execute(_SELECT_KNOWN, (asked,))} if asked else set[str]()
        if self._numbered_in != self._database.generation:
            connection.execute(_COME_AFTER_ALL_ROWS)
            self._numbered_in = self._database.generation
        return known


def _write_rows(
    connection: psycopg.Connection, placed: Sequence[_Placed], known: AbstractSet[str], tally: Tally
) -> set[str]:
    """Write what is to be written and count what was not there before; the ids of the traces that were stored.

    Args:
        known: traces that were stored before.
    """
    traces: list[_Placed] = []
    remarks: list[_Placed] = []
    for place, item in placed:
        item.missed = False
        if item.rows is not None:
            (traces if isinstance(item.record, Trace) else remarks).append((place, item))
    rows = [(place, *item.rows[0]) for place, item in traces if item.rows is not None and item.rows[0] is not None]
    stored = _insert_rows(connection, _INSERT_TRACES, ("place", *WRITTEN_TRACE_COLUMNS), rows)
    payloads: list[Row] = []
    new = set(stored)
    for place, item in traces:
        assert isinstance(item.record, Trace)
        assert item.rows is not None
        row, payload = item.rows
        if row is not None and item.record.trace_id not in new:
            continue  # a retry after a commit that succeeded but reported an error: it was counted then
        new.discard(item.record.trace_id)  # twice in one batch is stored once
        if payload is not None:
            payloads.append((place, *payload))
        tally.add(item.record)
    _insert_rows(connection, _INSERT_PAYLOADS, ("place", *WRITTEN_PAYLOAD_COLUMNS), payloads)
    for _, item in remarks:
        item.missed = item.record.trace_id not in known and item.record.trace_id not in stored
    said = [(p, *i.rows[0]) for p, i in remarks if not i.missed and i.rows is not None and i.rows[0] is not None]
    _insert_rows(connection, _INSERT_FEEDBACK, ("place", *WRITTEN_FEEDBACK_COLUMNS), said)
    return stored


def _insert_rows(
    connection: psycopg.Connection, statement: bytes, columns: Sequence[str], rows: Sequence[Row]
) -> set[str]:
    """The keys of the rows that were not there before."""
    new: set[str] = set()
    waiting: list[bytes] = []
    size = 0
    for row in rows:
        waiting.append(_as_json(columns, row))
        size += len(waiting[-1])
        if size >= _STATEMENT_BYTES:
            new |= _execute(connection, statement, waiting)
            waiting, size = [], 0
    return new | _execute(connection, statement, waiting)


def _execute(connection: psycopg.Connection, statement: bytes, rows: Sequence[bytes]) -> set[str]:
    if not rows:
        return set()
    array = (b"[" + b",".join(rows) + b"]").decode()
    return {row[0] for row in connection.execute(statement, (array,))}


def _as_json(columns: Sequence[str], row: Row) -> bytes:
    encoded = msgspec.json.encode(dict(zip(columns, row, strict=True)))
    if b"\\u0000" in encoded:  # Postgres has no NUL in a text; in a payload, which is JSON text, it stands escaped
        row = tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row)
        encoded = msgspec.json.encode(dict(zip(columns, row, strict=True)))
    return encoded

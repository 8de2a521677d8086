"""Live figures in Postgres: added to in the transaction of the traces that they count, and read back."""

import msgspec
import psycopg

from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_trace_schema import TRACE_SCHEMA
from rs_gateway.adapters.stats_rows import PLACE_COLUMNS, decoded, encoded, place_of, stats_row
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.stats import ALL_TIME, HOUR_S, MINUTE_S, StatsRow, Tally, hour_after

# One gateway at a time, in one order: the rows are few, and every gateway adds to the same ones.
TAKE_TURNS = b"SELECT pg_advisory_xact_lock(hashtextextended('route_switch.stats', 0))"
_PLACES = (
    "json_to_recordset(%s::json) AS place (period_s bigint, start_s bigint, template_id text, version bigint, "
    "combination_id text, provider text, model text, endpoint text)"
)
_COLUMNS = ", ".join(PLACE_COLUMNS)
_READ_SOME = (
    f"SELECT {_COLUMNS}, figures FROM route_switch.stats JOIN {_PLACES} USING ({_COLUMNS})"  # noqa: S608 our names
).encode()
_WRITE_ONE = (
    f"INSERT INTO route_switch.stats ({_COLUMNS}, figures) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) "  # noqa: S608
    f"ON CONFLICT ({_COLUMNS}) DO UPDATE SET figures = excluded.figures"
).encode()
_READ_PERIOD = (
    f"SELECT {_COLUMNS}, figures FROM route_switch.stats "  # noqa: S608 our names
    "WHERE period_s = %s AND start_s >= %s AND start_s < %s AND (%s::text IS NULL OR template_id = %s)"
)
_READ_ONE_PERIOD = _READ_PERIOD.encode()
_READ_TWO_PERIODS = f"{_READ_PERIOD} UNION ALL {_READ_PERIOD}".encode()
_FOR_EVER = 2**62


def add_figures(connection: psycopg.Connection, tally: Tally) -> None:
    """Add a batch to the stored figures, as the last thing in the transaction that is open.

    Raises:
        ValueError, OverflowError: a request of the batch can be in no figures.
        psycopg.Error.
    """
    added = {place_of(row): row.figures for row in tally.rows()}
    if not added:
        return
    connection.execute(TAKE_TURNS)
    places = msgspec.json.encode([dict(zip(PLACE_COLUMNS, place, strict=True)) for place in added]).decode()
    sums = {tuple(row[:-1]): decoded(row[-1]) for row in connection.execute(_READ_SOME, (places,))}
    for place, figures in added.items():
        known = sums.setdefault(place, figures)
        if known is not figures:
            known.merge(figures)
    with connection.cursor() as cursor:
        cursor.executemany(_WRITE_ONE, [(*place, encoded(figures)) for place, figures in sums.items()])


class PostgresStatsReader:
    """StatsReader with a connection of its own. A database without our tables is empty."""

    def __init__(self, place: PostgresPlace) -> None:
        """Nothing is connected yet. Raises ConfigurationError: the URL is none."""
        self._database = PostgresDatabase(place, TRACE_SCHEMA)

    def stats(self, *, since_s: int | None, template_id: str | None = None) -> list[StatsRow]:
        """See StatsReader. Raises SchemaTooNewError, StoreError."""
        if since_s is None:
            rows = self._database.rows(_READ_ONE_PERIOD, (ALL_TIME, 0, _FOR_EVER, template_id, template_id))
        else:
            hour = hour_after(since_s)
            minutes = (MINUTE_S, since_s, hour, template_id, template_id)
            hours = (HOUR_S, hour, _FOR_EVER, template_id, template_id)
            rows = self._database.rows(_READ_TWO_PERIODS, (*minutes, *hours))
        try:
            return [stats_row(row) for row in rows]
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"The trace store {self._database.url} holds figures that cannot be read ({error}): restore a backup, "
                "or delete the rows of its table `stats`, and counting begins anew."
            ) from error

    def close(self) -> None:
        """See StatsReader."""
        self._database.close()

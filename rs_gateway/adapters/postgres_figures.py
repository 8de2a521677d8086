"""Live figures of one template, taken out of a trace store in Postgres as they are kept, and put into one."""

from collections.abc import Sequence

import msgspec

from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_stats import TAKE_TURNS
from rs_gateway.adapters.postgres_trace_schema import TRACE_SCHEMA
from rs_gateway.adapters.stats_rows import PLACE_COLUMNS, encoded, place_of, stats_row
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.stats import StatsRow

_COLUMNS = ", ".join((*PLACE_COLUMNS, "figures"))
_READ = f"SELECT {_COLUMNS} FROM route_switch.stats WHERE template_id = %s ORDER BY 1, 2, 4, 5".encode()  # noqa: S608 our names
_DELETE = b"DELETE FROM route_switch.stats WHERE template_id = %s"
_INSERT = f"INSERT INTO route_switch.stats ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)".encode()  # noqa: S608


class PostgresFigures:
    """See TemplateFigures, with a connection of its own. A database without our tables is empty."""

    def __init__(self, place: PostgresPlace) -> None:
        """Nothing is connected yet. Raises ConfigurationError: the URL is none."""
        self._database = PostgresDatabase(place, TRACE_SCHEMA)

    def read(self, template_id: str) -> list[StatsRow]:
        """See TemplateFigures."""
        try:
            return [stats_row(row) for row in self._database.rows(_READ, (template_id,))]
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"The trace store {self._database.url} holds figures that cannot be read ({error}): restore a backup, "
                "or delete the rows of its table `stats`, and counting begins anew."
            ) from error

    def replace(self, template_id: str, rows: Sequence[StatsRow]) -> None:
        """See TemplateFigures."""
        with self._database.writing() as connection:
            connection.execute(TAKE_TURNS)
            connection.execute(_DELETE, (template_id,))
            with connection.cursor() as cursor:
                cursor.executemany(_INSERT, [(*place_of(row), encoded(row.figures)) for row in rows])

    def close(self) -> None:
        """See TemplateFigures."""
        self._database.close()

"""Live figures in the trace store's file: added to in the transaction of the traces that they count, and read back."""

import sqlite3
from pathlib import Path

import msgspec

from rs_gateway.adapters.sqlite_read_only import ReadOnlyStore
from rs_gateway.adapters.stats_rows import PLACE_COLUMNS, Place, decoded, encoded, place_of, stats_row
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.stats import ALL_TIME, HOUR_S, MINUTE_S, Figures, StatsRow, Tally, hour_after

_MATCH = " AND ".join(f"{name} = ?" for name in PLACE_COLUMNS)
_READ_ONE = f"SELECT figures FROM stats WHERE {_MATCH}"  # noqa: S608 our names
_WRITE_ONE = (
    f"INSERT INTO stats ({', '.join(PLACE_COLUMNS)}, figures) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608 our names
    "ON CONFLICT DO UPDATE SET figures = excluded.figures"
)
_READ_PERIOD = (
    f"SELECT {', '.join(PLACE_COLUMNS)}, figures FROM stats "  # noqa: S608 our names
    "WHERE period_s = ? AND start_s >= ? AND start_s < ? AND (? IS NULL OR template_id = ?)"
)
_READ_TWO_PERIODS = f"{_READ_PERIOD} UNION ALL {_READ_PERIOD}"
_FOR_EVER = 2**62


class SqliteStatsWriter:
    """Adds to the stored figures; remembers what it wrote last, so that one process alone need not read it back."""

    def __init__(self) -> None:
        self._known: dict[Place, Figures] = {}
        self._data_version: object = None

    def add(self, connection: sqlite3.Connection, tally: Tally) -> None:
        """Add a batch to the stored figures, in the transaction that is open. Raises sqlite3.Error.

        Whenever that transaction is not committed, or the connection is another one, call `forget` before the next.
        """
        # It changes when another connection has committed, and only then.
        (data_version,) = connection.execute("PRAGMA data_version").fetchone()
        known = self._known if data_version == self._data_version else {}
        self.forget()
        written: dict[Place, Figures] = {}
        for row in tally.rows():
            place = place_of(row)
            figures = known.get(place) or _stored(connection, place)
            if figures is None:
                figures = row.figures
            else:
                figures.merge(row.figures)
            connection.execute(_WRITE_ONE, (*place, encoded(figures)))
            written[place] = figures
        # Only what this batch touched, so that it cannot grow.
        self._known, self._data_version = written, data_version

    def forget(self) -> None:
        """Read everything anew at the next batch."""
        self._known = {}
        self._data_version = None


class SqliteStatsReader:
    """StatsReader over the trace store's file, with a connection of its own. A file that is not there is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._store = ReadOnlyStore(path)

    def stats(self, *, since_s: int | None, template_id: str | None = None) -> list[StatsRow]:
        """See StatsReader. Raises SchemaTooNewError, StoreError."""
        if since_s is None:
            rows = self._store.rows(_READ_PERIOD, (ALL_TIME, 0, _FOR_EVER, template_id, template_id))
        else:
            hour = hour_after(since_s)
            minutes = (MINUTE_S, since_s, hour, template_id, template_id)
            hours = (HOUR_S, hour, _FOR_EVER, template_id, template_id)
            rows = self._store.rows(_READ_TWO_PERIODS, (*minutes, *hours))
        try:
            return [stats_row(row) for row in rows]
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"The trace store {self._path} holds figures that cannot be read ({error}): restore a backup, or "
                "delete the rows of its table `stats`, and counting begins anew."
            ) from error

    def close(self) -> None:
        """See StatsReader."""
        self._store.close()


def _stored(connection: sqlite3.Connection, place: Place) -> Figures | None:
    found = connection.execute(_READ_ONE, place).fetchone()
    return None if found is None else decoded(found[0])

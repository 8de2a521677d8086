"""Live figures of one template, taken out of a SQLite trace store as they are kept, and put into one."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rs_gateway.adapters.sqlite_read_only import ReadOnlyStore, unreadable
from rs_gateway.adapters.sqlite_trace_schema import TRACE_SCHEMA
from rs_gateway.adapters.stats_rows import PLACE_COLUMNS, encoded, place_of, stats_row
from rs_gateway.domain.stats import StatsRow

_COLUMNS = ", ".join((*PLACE_COLUMNS, "figures"))
_BUSY_TIMEOUT_S = 10.0


class SqliteFigures:
    """See TemplateFigures. A store that is not there is empty, and made when it is written."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet."""
        self._path = path

    def read(self, template_id: str) -> list[StatsRow]:
        """See TemplateFigures."""
        with closing(ReadOnlyStore(self._path)) as store:
            found = store.rows(
                f"SELECT {_COLUMNS} FROM stats WHERE template_id = ? ORDER BY 1, 2, 4, 5",  # noqa: S608 our names
                (template_id,),
            )
        return [stats_row(row) for row in found]

    def replace(self, template_id: str, rows: Sequence[StatsRow]) -> None:
        """See TemplateFigures."""
        path = self._path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                TRACE_SCHEMA.migrate(connection, path)
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM stats WHERE template_id = ?", (template_id,))
                marks = ", ".join("?" * len(_COLUMNS.split(", ")))
                connection.executemany(
                    f"INSERT INTO stats ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 our names
                    [(*place_of(row), encoded(row.figures)) for row in rows],
                )
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise unreadable(path, error) from error

    def close(self) -> None:
        """See TemplateFigures."""

"""Live figures of one template, taken out of a SQLite trace store as they are kept, and put into one."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rs_gateway.adapters.sqlite_read_only import ReadOnlyStore, unreadable
from rs_gateway.adapters.sqlite_trace_schema import TRACE_SCHEMA
from rs_gateway.adapters.stats_rows import PLACE_COLUMNS, encoded, place_of, stats_row
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.stats import StatsRow

_COLUMNS = ", ".join((*PLACE_COLUMNS, "figures"))
_BUSY_TIMEOUT_S = 10.0


class FiguresExistError(StoreError):
    """The store has figures of this template already."""

    code = "figures_exist"


def read_figures(path: Path, template_id: str) -> list[StatsRow]:
    """Every row of a template, of every period: minutes, hours and all time. A store that is not there is empty.

    Raises:
        SchemaTooNewError, StoreError: the store cannot be read.
    """
    with closing(ReadOnlyStore(path)) as store:
        found = store.rows(f"SELECT {_COLUMNS} FROM stats WHERE template_id = ? ORDER BY 1, 2, 4, 5", (template_id,))  # noqa: S608
    return [stats_row(row) for row in found]


def write_figures(path: Path, template_id: str, rows: Sequence[StatsRow], *, replace: bool) -> None:
    """Make these rows all that the store counts of a template, in one transaction. The gateway may be writing.

    Args:
        replace: whether figures that are there go; without it they are refused.

    Raises:
        FiguresExistError: there are some. SchemaTooNewError, StoreError: the store cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            TRACE_SCHEMA.migrate(connection, path)
            connection.execute("BEGIN IMMEDIATE")
            counted = connection.execute("SELECT 1 FROM stats WHERE template_id = ? LIMIT 1", (template_id,)).fetchone()
            if counted is not None and not replace:
                raise FiguresExistError(
                    f"The trace store {path} has figures of {template_id!r} already: leave out --restore-analytics, or "
                    "pass --overwrite to have the package's in their place."
                )
            connection.execute("DELETE FROM stats WHERE template_id = ?", (template_id,))
            marks = ", ".join("?" * len(_COLUMNS.split(", ")))
            connection.executemany(
                f"INSERT INTO stats ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 our names
                [(*place_of(row), encoded(row.figures)) for row in rows],
            )
            connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise unreadable(path, error) from error

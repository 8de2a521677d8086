"""Pages of a SQLite file as Arrow columns, read by a driver in C at half the cost of rows of Python objects.

The driver brings an SQLite of its own. Two of them in one process undo each other's file locks (POSIX drops all of a
process's locks on a file when it closes any of its descriptors), so a file that this process has open already is not
opened here: the caller reads rows instead.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.ports import ArrowStream

if TYPE_CHECKING:
    import adbc_driver_manager as adbc

_OPEN_FILES = Path("/dev/fd")
_BUSY_TIMEOUT_MS = 5_000
T = TypeVar("T")


def read_columns(
    path: Path, queries: list[str], *, batch_rows: int, load: Callable[[ArrowStream], T]
) -> list[T] | None:
    """What `load` makes of each query's columns, each read in a transaction of its own that ends before the next.

    Args:
        batch_rows: at least as many rows as a query gives; types are found out from that many.
        load: must read the stream to its end.

    Returns:
        None where rows have to be read instead: no driver is installed, or this process has the file open.
    Raises:
        StoreError: the file cannot be read.
    """
    if _open_in_this_process(path):
        return None
    try:
        import adbc_driver_manager as adbc
        import adbc_driver_sqlite
    except ImportError:
        return None
    try:
        with (
            adbc_driver_sqlite.connect(f"{path.absolute().as_uri()}?mode=ro") as database,
            adbc.AdbcConnection(database) as connection,
        ):
            with adbc.AdbcStatement(connection) as statement:
                statement.set_sql_query(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
                statement.execute_query()
            return [_run(connection, query, batch_rows=batch_rows, load=load) for query in queries]
    except adbc.Error as error:
        raise StoreError(f"The trace store {path} cannot be read: {error}") from error


def _run(connection: "adbc.AdbcConnection", query: str, *, batch_rows: int, load: Callable[[ArrowStream], T]) -> T:
    import adbc_driver_manager as adbc

    with adbc.AdbcStatement(connection) as statement:
        statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch_rows)})
        statement.set_sql_query(query)
        stream, _ = statement.execute_query()
        # Read to its end here: until then the statement is a transaction, and that keeps the WAL from shrinking.
        return load(stream)


def _open_in_this_process(path: Path) -> bool:
    """Whether any descriptor of this process is this file; where that cannot be seen, it is taken to be so."""
    try:
        wanted = path.stat()
        descriptors = [int(entry.name) for entry in _OPEN_FILES.iterdir()]
    except OSError:
        return True
    for descriptor in descriptors:
        try:
            found = os.fstat(descriptor)
        except OSError:  # the listing's own, closed since
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False

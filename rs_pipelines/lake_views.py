"""DuckDB over the lake: views that name no files but ask for them whenever a query begins.

They show one moment, that at which they were made. Where a file of it has been removed since, as by an erasure, they
go on with the present one.
"""

import atexit
import shutil
import tempfile
import weakref
from collections.abc import Collection
from pathlib import Path

import duckdb
import polars as pl

from rs_pipelines.lake_edit import read_manifest, refuse_missing_parts
from rs_pipelines.lake_manifest import SCHEMA_VERSION, Manifest
from rs_pipelines.lake_place import LakePlace
from rs_pipelines.lake_schema import SQL_TYPES, TABLES, Table, TableName

_PARTS = "parts_of_the_lake"
_NEWEST_FEEDBACK = """
SELECT
    trace_id,
    arg_max(json_extract_string(value, '$'), (created_at, seq)) FILTER (kind = 'label') AS label,
    arg_max(value, (created_at, seq)) FILTER (kind = 'score')::DOUBLE AS score,
    arg_max(value, (created_at, seq)) FILTER (kind = 'outcome')::BOOLEAN AS outcome,
    arg_max(json_extract_string(value, '$'), (created_at, seq)) FILTER (kind = 'comment') AS comment,
    max(created_at) AS said_at
FROM feedback GROUP BY trace_id
"""


def connect(files: LakePlace) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views `traces`, `feedback` and `newest_feedback`. Times are UTC."""
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    filesystem = files.filesystem()
    if filesystem is not None:
        connection.register_filesystem(filesystem)
    moment = _Moment(files)
    connection.create_function(_PARTS, moment.paths, ["VARCHAR", "INTEGER"], "VARCHAR[]")  # pyright: ignore[reportUnknownMemberType]
    for table in TABLES:
        connection.execute(f"CREATE VIEW {table.name} AS {_view(table, moment.schemas(table.name))}")
    connection.execute(f"CREATE VIEW newest_feedback AS {_NEWEST_FEEDBACK}")
    _close_at_exit(connection)
    return connection


def is_about_a_removed_file(error: duckdb.Error) -> bool:
    """Whether a query failed because somebody removed a file while it ran."""
    return isinstance(error, duckdb.IOException) and (
        "No such file" in str(error) or "No files found" in str(error) or isinstance(error.__cause__, FileNotFoundError)
    )


class _Moment:
    """Which files the views read."""

    def __init__(self, files: LakePlace) -> None:
        self._files = files
        self._manifest = read_manifest(files)
        self._nothing: Path | None = None

    def schemas(self, table: TableName) -> list[int]:
        """The schemas that its parts have, and may have later: what replaces one has the newest."""
        found = {part.schema for part in self._manifest.table(table).parts}
        return sorted(found | {SCHEMA_VERSION}) if found else []

    def paths(self, table: TableName, schema: int) -> list[str]:
        """Patterns that match exactly the parts of this schema; called by DuckDB when a query begins."""
        if self._files.absent(_names(self._manifest, table, schema)):
            refuse_missing_parts(self._files)
            self._manifest = read_manifest(self._files)
        names = _names(self._manifest, table, schema)
        return [_pattern(self._files.path(name)) for name in names] or [_pattern(self._no_rows(table))]

    def _no_rows(self, table: TableName) -> Path:
        """A file without rows, for DuckDB reads no empty list of files."""
        if self._nothing is None:
            self._nothing = Path(tempfile.mkdtemp(prefix="route-switch-"))
            weakref.finalize(self, shutil.rmtree, self._nothing, ignore_errors=True)
        path = self._nothing / f"{table}.parquet"
        if not path.exists():
            pl.DataFrame(schema=next(known.schema for known in TABLES if known.name == table)).write_parquet(path)
        return path


def _names(manifest: Manifest, table: TableName, schema: int) -> list[str]:
    return [part.path for part in manifest.table(table).parts if part.schema == schema]


def _view(table: Table, schemas: Collection[int]) -> str:
    columns = ", ".join(f"NULL::{SQL_TYPES[dtype]} AS {name}" for name, dtype in table.schema.items())
    # The empty row set gives types and order, and the columns that the parts of an older schema lack.
    rows = [f"(SELECT {columns} LIMIT 0)"]
    for schema in schemas:
        parts = f"{_PARTS}('{table.name}', {schema})"
        rows.append(f"SELECT * FROM read_parquet({parts}, hive_partitioning = false)")  # noqa: S608 ours alone
    return " UNION ALL BY NAME ".join(rows)


def _pattern(path: Path | str) -> str:
    """What matches exactly this file."""
    return "".join(f"[{char}]" if char in "[*?" else char for char in str(path))


def _close_at_exit(connection: duckdb.DuckDBPyConnection) -> None:
    """DuckDB complains at the end of a process about a connection that is still open and has a Python function."""
    known = weakref.ref(connection)

    def close() -> None:
        still_open = known()
        if still_open is not None:
            still_open.close()

    atexit.register(close)
    weakref.finalize(connection, atexit.unregister, close)

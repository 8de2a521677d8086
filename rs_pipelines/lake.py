"""The lake: traces and feedback as Parquet, filled incrementally and exactly once, read by anyone without a lock.

A manifest names every file that counts (lake_manifest.py). It is replaced atomically together with the cursors, so that
a row and the cursor behind it become visible in the same instant; a file that no manifest names is left over from a
killed ingest. Never read the folder by a pattern: ask `Lake`, which reads what the manifest names.
"""

import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl

from rs_gateway.domain.ports import TraceReader
from rs_pipelines.ingest import IngestReport, OnPage, ignore_page, ingest
from rs_pipelines.lake_edit import KEPT_FOR_READERS, Clock, LakeEdit, edit, read_manifest, scan_parts, utc_now
from rs_pipelines.lake_files import LakeFiles
from rs_pipelines.lake_manifest import Manifest, Part
from rs_pipelines.lake_schema import FEEDBACK, SQL_TYPES, TABLES, TRACES, Table


class Lake:
    """Parquet under one folder: `traces/dt=YYYY-MM-DD/`, `feedback/dt=YYYY-MM-DD/` and `manifest.json`."""

    def __init__(
        self,
        root: Path,
        *,
        lock_timeout_s: float = 30.0,
        before_step: Callable[[str], None] | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """A lake in `root`, which need not exist yet. See LakeFiles for the arguments."""
        self.root = root
        self._clock = clock
        self._files = LakeFiles(root, lock_timeout_s=lock_timeout_s, before_step=before_step or _ignore_step)

    def ingest(self, reader: TraceReader, *, page_rows: int = 50_000, on_page: OnPage = ignore_page) -> IngestReport:
        """Bring what is new in the trace store. Killed anywhere, the next call goes on; no row is lost or doubled.

        Args:
            page_rows: rows read, written and made visible at a time; memory grows with it.
            on_page: told after each page what has come so far.

        Raises:
            LakeBusyError: another ingest did not end in time.
            LakeCorruptError: the manifest is damaged or missing, or the trace store is another one than before.
            SchemaTooNewError: a newer program wrote this lake.
        """
        started = time.monotonic()
        with self.edit() as lake:
            lake.purge(older_than=KEPT_FOR_READERS)
            report = ingest(lake, reader, page_rows=page_rows, on_page=on_page)
        return replace(report, seconds=time.monotonic() - started)

    @contextmanager
    def edit(self) -> Generator[LakeEdit]:
        """Be the only one to change the lake: rewrite parts, or drop them. See lake_edit.py."""
        with edit(self._files, clock=self._clock) as lake:
            yield lake

    def manifest(self) -> Manifest:
        """What counts at this moment; an empty one where nothing was ever ingested."""
        return read_manifest(self._files)

    def traces(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """All traces, with the columns of TRACE_SCHEMA or those asked for. Never blocked by an ingest."""
        return self._scan(TRACES, columns)

    def feedback(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """All feedback, with the columns of FEEDBACK_SCHEMA or those asked for."""
        return self._scan(FEEDBACK, columns)

    def duckdb_connection(self) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB with the views `traces` and `feedback` over what counts now. Times are UTC."""
        connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
        connection.execute("SET TimeZone = 'UTC'")
        manifest = self.manifest()
        for table in TABLES:
            connection.execute(f"CREATE VIEW {table.name} AS {self._view(table, manifest.table(table.name).parts)}")
        return connection

    def _scan(self, table: Table, columns: Sequence[str] | None) -> pl.LazyFrame:
        frame = scan_parts(self._files, table, self.manifest().table(table.name).parts)
        return frame if columns is None else frame.select(columns)

    def _view(self, table: Table, parts: Collection[Part]) -> str:
        columns = ", ".join(f"NULL::{SQL_TYPES[dtype]} AS {name}" for name, dtype in table.schema.items())
        empty = f"SELECT {columns} LIMIT 0"
        if not parts:
            return empty
        paths = ", ".join(_sql_path(self._files.path(part.path)) for part in parts)
        # The empty row set gives columns that no part has, and the order.
        return f"({empty}) UNION ALL BY NAME SELECT * FROM read_parquet([{paths}], hive_partitioning = false)"  # noqa: S608  (names from our schema, paths escaped)


def _ignore_step(step: str) -> None:
    del step


def _sql_path(path: Path) -> str:
    """A DuckDB string literal that names exactly this file."""
    escaped = "".join(f"[{char}]" if char in "[*?" else char for char in str(path))
    return "'" + escaped.replace("'", "''") + "'"

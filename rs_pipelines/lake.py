"""The lake: traces and feedback as Parquet, filled incrementally and exactly once, read by anyone without a lock.

A manifest names every file that counts. It is replaced atomically together with the cursors, so that a row and the
cursor behind it become visible in the same instant; a file that no manifest names is left over from a killed ingest.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
from filelock import FileLock, Timeout

from rs_gateway.domain.errors import SchemaTooNewError, StoreError
from rs_gateway.domain.ports import StoredRows, TraceReader
from rs_pipelines.durable_files import put_in_place, sync_path, temporary_for

SCHEMA_VERSION = 1
_INSTANT = pl.Datetime("us", "UTC")

TRACE_SCHEMA = pl.Schema(
    {
        "seq": pl.Int64(),
        "trace_id": pl.String(),
        "started_at": _INSTANT,
        "template_id": pl.String(),
        "version": pl.Int64(),
        "combination_id": pl.String(),
        "provider": pl.String(),
        "model": pl.String(),
        "request_model": pl.String(),
        "response_model": pl.String(),
        "outcome": pl.String(),
        "error_code": pl.String(),
        "finish_reason": pl.String(),
        "stream": pl.Boolean(),
        "latency_s": pl.Float64(),
        "time_to_first_token_s": pl.Float64(),
        "input_tokens": pl.Int64(),
        "output_tokens": pl.Int64(),
        "usage_source": pl.String(),
        "cost_usd": pl.Float64(),
        "end_user": pl.String(),
        "key_id": pl.String(),
        "decision": pl.String(),
        "attempts": pl.String(),
        "request_messages": pl.String(),
        "variables": pl.String(),
        "parameters": pl.String(),
        "rendered_messages": pl.String(),
        "response": pl.String(),
        "dt": pl.Date(),
    }
)
"""The reader's columns, and `dt`, the UTC day of `started_at`. The seven from `decision` on are JSON text."""

FEEDBACK_SCHEMA = pl.Schema(
    {
        "seq": pl.Int64(),
        "feedback_id": pl.String(),
        "trace_id": pl.String(),
        "kind": pl.String(),
        "value": pl.String(),
        "source": pl.String(),
        "created_at": _INSTANT,
        "dt": pl.Date(),
    }
)
"""The reader's columns (`value` is JSON text), and `dt`, the UTC day of `created_at`."""

_SQL_TYPES: Mapping[pl.DataType, str] = {
    pl.Int64(): "BIGINT",
    pl.String(): "VARCHAR",
    pl.Float64(): "DOUBLE",
    pl.Boolean(): "BOOLEAN",
    pl.Date(): "DATE",
    _INSTANT: "TIMESTAMP WITH TIME ZONE",
}


class LakeBusyError(StoreError):
    """Another ingest of the same lake is under way."""

    code = "lake_busy"
    retryable = True


class LakeCorruptError(StoreError):
    """The lake is not what its manifest says, or not of this trace store; going on would lose or double rows."""

    code = "lake_corrupt"


@dataclass(frozen=True, slots=True)
class LakeFile:
    """One Parquet file that counts.

    Attributes:
        path: relative to the lake's root, with `/`.
        first_sequence, last_sequence: smallest and largest commit sequence in it.
    """

    path: str
    rows: int
    first_sequence: int
    last_sequence: int


@dataclass(frozen=True, slots=True)
class TableState:
    """What the lake holds of one table.

    Attributes:
        cursor: commit sequence up to which everything is in `files`.
    """

    cursor: int = 0
    files: tuple[LakeFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that counts in the lake; written only as a whole."""

    schema_version: int = SCHEMA_VERSION
    traces: TableState = field(default_factory=TableState)
    feedback: TableState = field(default_factory=TableState)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest brought.

    Attributes:
        rows, feedback_rows: new rows; files: new Parquet files.
        last_sequence: commit sequence of the last trace in the lake.
    """

    rows: int
    feedback_rows: int
    files: int
    last_sequence: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    schema: pl.Schema
    instant: str
    """The column that decides the day."""
    order: tuple[str, ...]

    def state(self, manifest: Manifest) -> TableState:
        return manifest.traces if self.name == "traces" else manifest.feedback

    def changed(self, manifest: Manifest, state: TableState) -> Manifest:
        return replace(manifest, traces=state) if self.name == "traces" else replace(manifest, feedback=state)


_TRACES = _Table("traces", TRACE_SCHEMA, "started_at", ("template_id", "seq"))
_FEEDBACK = _Table("feedback", FEEDBACK_SCHEMA, "created_at", ("seq",))
_TABLES = (_TRACES, _FEEDBACK)


def _ignore_step(step: str) -> None:
    del step


class Lake:
    """Parquet under one folder: `traces/dt=YYYY-MM-DD/`, `feedback/dt=YYYY-MM-DD/` and `manifest.json`."""

    def __init__(
        self, root: Path, *, lock_timeout_s: float = 30.0, before_step: Callable[[str], None] = _ignore_step
    ) -> None:
        """A lake in `root`, which need not exist yet.

        Args:
            lock_timeout_s: how long an ingest waits for another one before it is refused.
            before_step: called with the name of each thing that is about to be done to the disk; the tests kill there.
        """
        self.root = root
        self._lock_timeout_s = lock_timeout_s
        self._before_step = before_step

    def ingest(
        self,
        reader: TraceReader,
        *,
        page_rows: int = 50_000,
        on_page: Callable[[IngestReport], None] | None = None,
    ) -> IngestReport:
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
        with self._alone():
            manifest = self._begin()
            _refuse_other_store(self, reader, manifest)
            report = IngestReport(0, 0, 0, manifest.traces.cursor, 0.0)
            # Feedback first: a trace is committed before its feedback, so no feedback ever stands without its trace.
            for table, read in ((_FEEDBACK, reader.feedback), (_TRACES, reader.traces)):
                full = True
                while full:
                    page = read(after=table.state(manifest).cursor, limit=page_rows)
                    # A short page is the end: chasing a busy writer would only make many small files.
                    full = len(page.rows) >= page_rows
                    if not page.rows:
                        break
                    manifest, n_files = self._add_page(table, page, manifest)
                    report = IngestReport(
                        rows=report.rows + (len(page.rows) if table is _TRACES else 0),
                        feedback_rows=report.feedback_rows + (len(page.rows) if table is _FEEDBACK else 0),
                        files=report.files + n_files,
                        last_sequence=manifest.traces.cursor,
                        seconds=time.monotonic() - started,
                    )
                    if on_page is not None:
                        on_page(report)
        return replace(report, seconds=time.monotonic() - started)

    def manifest(self) -> Manifest:
        """What counts at this moment; an empty one where nothing was ever ingested."""
        try:
            content = (self.root / "manifest.json").read_bytes()
        except FileNotFoundError:
            return Manifest()
        try:
            version = msgspec.json.decode(content, type=_ManifestVersion).schema_version
            if version > SCHEMA_VERSION:
                raise SchemaTooNewError(
                    f"The lake in {self.root} has schema {version}, this program knows {SCHEMA_VERSION}: update it."
                )
            return msgspec.json.decode(content, type=Manifest)
        except msgspec.MsgspecError as error:
            raise LakeCorruptError(
                f"{self.root / 'manifest.json'} cannot be read ({error}): restore it from a backup, "
                "or move the whole folder away and ingest again."
            ) from error

    def traces(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """All traces, with the columns of TRACE_SCHEMA or those asked for. Never blocked by an ingest."""
        return self._scan(_TRACES, columns)

    def feedback(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """All feedback, with the columns of FEEDBACK_SCHEMA or those asked for."""
        return self._scan(_FEEDBACK, columns)

    def duckdb_connection(self) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB with the views `traces` and `feedback` over what counts now. Times are UTC."""
        connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
        connection.execute("SET TimeZone = 'UTC'")
        manifest = self.manifest()
        for table in _TABLES:
            connection.execute(f"CREATE VIEW {table.name} AS {self._view(table, manifest)}")
        return connection

    @contextmanager
    def _alone(self) -> Generator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".ingest.lock", timeout=self._lock_timeout_s)
        try:
            lock.acquire()
        except Timeout as error:
            raise LakeBusyError(
                f"Another ingest of {self.root} is under way and did not end within {self._lock_timeout_s:g} s: "
                "try again when it has ended."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _begin(self) -> Manifest:
        """The manifest to go on from, with what a killed ingest left behind removed."""
        manifest = self.manifest()
        counted = {self.root / file.path for table in _TABLES for file in table.state(manifest).files}
        present = [
            path
            for table in _TABLES
            for pattern in ("dt=*/*.parquet", "dt=*/.*.tmp")
            for path in (self.root / table.name).glob(pattern)
        ]
        if not (self.root / "manifest.json").exists():
            # The manifest is written before the first file, so files without one mean that it was lost.
            if present:
                raise LakeCorruptError(
                    f"{self.root} holds {len(present)} files but no manifest.json: restore it from a backup, "
                    "or move the whole folder away and ingest again."
                )
            self._commit(manifest)
        for path in present:
            if path not in counted:
                self._before_step(f"remove {path.name}")
                path.unlink()
        return manifest

    def _add_page(self, table: _Table, page: StoredRows, manifest: Manifest) -> tuple[Manifest, int]:
        state = table.state(manifest)
        frame = _frame(table, page)
        first, last = _as_int(frame["seq"].min()), _as_int(frame["seq"].max())
        if first <= state.cursor or last > page.last_sequence or frame["seq"].is_duplicated().any():
            raise LakeCorruptError(
                f"The reader gave {table.name} {first} to {last} after {state.cursor}, up to {page.last_sequence}: "
                "rows would be lost or doubled, so nothing was taken."
            )
        files: list[LakeFile] = []
        folders: set[Path] = set()
        for (day,), part in frame.partition_by("dt", as_dict=True, maintain_order=True).items():
            folder = self.root / table.name / f"dt={day}"
            part_first, part_last = _as_int(part["seq"].min()), _as_int(part["seq"].max())
            path = folder / f"{part_first:012d}-{part_last:012d}.parquet"
            self._write(part.sort(table.order), path)
            folders.add(folder)
            files.append(LakeFile(path.relative_to(self.root).as_posix(), part.height, part_first, part_last))
        for folder in (*folders, self.root / table.name, self.root):
            sync_path(folder)
        changed = table.changed(manifest, TableState(page.last_sequence, (*state.files, *files)))
        self._commit(changed)
        return changed, len(files)

    def _write(self, frame: pl.DataFrame, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_for(path)
        self._before_step(f"write {temporary.name}")
        frame.write_parquet(temporary, compression="zstd", compression_level=1)
        sync_path(temporary)
        self._before_step(f"rename {temporary.name}")
        temporary.replace(path)

    def _commit(self, manifest: Manifest) -> None:
        path = self.root / "manifest.json"
        temporary = temporary_for(path)
        self._before_step("write manifest")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        self._before_step("rename manifest")
        put_in_place(temporary, path)
        self._before_step("return from commit")

    def _scan(self, table: _Table, columns: Sequence[str] | None) -> pl.LazyFrame:
        files = table.state(self.manifest()).files
        paths = [self.root / file.path for file in files]
        frame = _scan_files(paths, table.schema) if paths else pl.LazyFrame(schema=table.schema)
        return frame if columns is None else frame.select(columns)

    def _view(self, table: _Table, manifest: Manifest) -> str:
        files = table.state(manifest).files
        if not files:
            columns = ", ".join(f"NULL::{_SQL_TYPES[dtype]} AS {name}" for name, dtype in table.schema.items())
            return f"SELECT {columns} LIMIT 0"
        paths = ", ".join(_sql_path(self.root / file.path) for file in files)
        return f"SELECT {', '.join(table.schema)} FROM read_parquet([{paths}], hive_partitioning = false)"  # noqa: S608  (names from our schema, paths escaped)


class _ManifestVersion(msgspec.Struct):
    schema_version: int


def _frame(table: _Table, page: StoredRows) -> pl.DataFrame:
    """The page as typed columns; nothing is guessed, and a value of another type raises LakeCorruptError."""
    wanted = [name for name in table.schema if name != "dt"]
    missing = [name for name in wanted if name not in page.columns]
    if missing:
        raise LakeCorruptError(f"The trace store gives no column {', '.join(missing)} for {table.name}.")
    values = dict(zip(page.columns, zip(*page.rows, strict=True), strict=True))
    frame = pl.DataFrame([_series(name, values[name], table.schema[name]) for name in wanted])
    return frame.with_columns(pl.col(table.instant).dt.date().alias("dt"))


def _series(name: str, values: Sequence[object], dtype: pl.DataType) -> pl.Series:
    try:
        if dtype == pl.Boolean():  # SQLite has no booleans
            return pl.Series(name, [None if v is None else bool(v) for v in values], dtype=dtype, strict=True)
        if dtype == _INSTANT:
            seconds = pl.Series(name, values, dtype=pl.Float64(), strict=True)
            if seconds.null_count():
                raise TypeError("a row without its time")
            return (seconds * 1e6).round().cast(pl.Int64()).cast(_INSTANT)
        return pl.Series(name, values, dtype=dtype, strict=True)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise LakeCorruptError(f"Column {name!r} of the trace store holds what is no {dtype}: {error}") from error


def _refuse_other_store(lake: Lake, reader: TraceReader, manifest: Manifest) -> None:
    """Refuse a store whose sequence is not the one that the cursor belongs to: its rows would be taken for known ones.

    That is another store in the old one's place, one restored from an older backup, or one that lost its last commits
    in a power cut and numbers anew. Two rows tell, as far as retention left them: the oldest one that the store has,
    and the one that the cursor stands on, which no other store has.
    """
    for table, read in ((_TRACES, reader.traces), (_FEEDBACK, reader.feedback)):
        cursor = table.state(manifest).cursor
        # The row itself may have expired since; a store of ours keeps its newest one, so something follows.
        if cursor and not read(after=cursor - 1, limit=1).rows:
            raise LakeCorruptError(
                f"The trace store has no row {cursor} of {table.name} or later, up to which {lake.root} was filled: "
                "the store was replaced, or restored from an older backup, so new rows would be missed. Move the lake "
                "folder away and ingest again."
            )
    cursor = manifest.traces.cursor
    for after in (0, cursor - 1) if cursor else ():
        page = reader.traces(after=after, limit=1)
        row = dict(zip(page.columns, page.rows[0], strict=True)) if page.rows else None
        if row is None or _as_int(row["seq"]) > cursor:
            continue
        known = _trace_id_at(lake, manifest, _as_int(row["seq"]))
        if known is not None and known != row["trace_id"]:
            raise LakeCorruptError(
                f"The lake in {lake.root} was not filled from this trace store: trace {row['seq']} is {known} in the "
                f"lake and {row['trace_id']} in the store, so new rows would be missed. Bring the old trace store "
                "back, or move the folder away and ingest again."
            )


def _trace_id_at(lake: Lake, manifest: Manifest, sequence: int) -> str | None:
    files = (file for file in manifest.traces.files if file.first_sequence <= sequence <= file.last_sequence)
    paths = [lake.root / file.path for file in files]
    if not paths:
        return None
    found = _scan_files(paths, TRACE_SCHEMA).filter(pl.col("seq") == sequence).select("trace_id").collect()
    return found["trace_id"][0] if found.height else None


def _scan_files(paths: Sequence[Path], schema: pl.Schema) -> pl.LazyFrame:
    return pl.scan_parquet(list(paths), schema=schema, glob=False, hive_partitioning=False)


def _sql_path(path: Path) -> str:
    """A DuckDB string literal that names exactly this file."""
    escaped = "".join(f"[{char}]" if char in "[*?" else char for char in str(path))
    return "'" + escaped.replace("'", "''") + "'"


def _as_int(value: Any) -> int:
    assert isinstance(value, int)
    return value

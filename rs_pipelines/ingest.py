"""Ingest: what is new in the trace store becomes parts of the lake, each row exactly once, a page at a time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from rs_gateway.domain.ports import StoredRows, TraceReader
from rs_pipelines.lake_edit import LakeEdit
from rs_pipelines.lake_manifest import Anchor, LakeCorruptError
from rs_pipelines.lake_schema import FEEDBACK, INSTANT, TRACES, Table, TableName


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest brought.

    Attributes:
        rows, feedback_rows: new rows; files: new Parquet files.
        last_sequence: position in the trace store up to which its traces are in the lake.
        seconds: how long it took.
        expected: how far the store was ahead when the ingest began, in positions: about as many as rows, traces and
            feedback together.
    """

    rows: int
    feedback_rows: int
    files: int
    last_sequence: int
    seconds: float
    expected: int = 0


OnPage = Callable[[IngestReport], None]


def ignore_page(report: IngestReport) -> None:
    """Watch nothing."""
    del report


def ingest(lake: LakeEdit, reader: TraceReader, *, page_rows: int, on_page: OnPage = ignore_page) -> IngestReport:
    """Bring what is new in the trace store. Killed anywhere, the next call goes on; no row is lost or doubled.

    Args:
        page_rows: rows read, written and made visible at a time; memory grows with it.
        on_page: told after each page what has come so far.

    Raises:
        LakeCorruptError: the trace store is another one than before, or holds what no column can.
    """
    started = time.monotonic()
    newest = reader.newest_positions()
    ahead: dict[TableName, int] = {"traces": newest.traces, "feedback": newest.feedback}
    _refuse_other_store(lake, reader, ahead)
    expected = sum(position - lake.manifest.table(name).cursor for name, position in ahead.items())
    report = IngestReport(0, 0, 0, lake.manifest.traces.cursor, 0.0, expected)
    # Feedback first: a trace is committed before its feedback, so that at the end none stands without its trace.
    for table, read in ((FEEDBACK, reader.feedback), (TRACES, reader.traces)):
        full = True
        while full:
            page = read(after=lake.manifest.table(table.name).cursor, limit=page_rows)
            # A short page is the end: chasing a busy writer would only make many small files.
            full = len(page.rows) >= page_rows
            if not page.rows:
                break
            n_files = _add_page(lake, table, page)
            report = IngestReport(
                rows=report.rows + (len(page.rows) if table is TRACES else 0),
                feedback_rows=report.feedback_rows + (len(page.rows) if table is FEEDBACK else 0),
                files=report.files + n_files,
                last_sequence=lake.manifest.traces.cursor,
                seconds=time.monotonic() - started,
                expected=expected,
            )
            on_page(report)
    return report


def _add_page(lake: LakeEdit, table: Table, page: StoredRows) -> int:
    cursor = lake.manifest.table(table.name).cursor
    rows = _frame(table, page)
    if page.last_sequence <= cursor or rows["seq"].is_duplicated().any():
        raise LakeCorruptError(
            f"The reader gave {table.name} up to position {page.last_sequence} after {cursor}, some of them twice or "
            "none of them new: rows would be lost or doubled, so nothing was taken."
        )
    parts = lake.write(table, rows)
    lake.append(table, parts, cursor=page.last_sequence, anchor=_anchor(table, rows))
    return len(parts)


def _anchor(table: Table, rows: pl.DataFrame) -> Anchor:
    return Anchor(rows["seq"][-1], rows[_id_column(table)][-1])


def _id_column(table: Table) -> str:
    return "trace_id" if table is TRACES else "feedback_id"


def _frame(table: Table, page: StoredRows) -> pl.DataFrame:
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
        if dtype == INSTANT:
            seconds = pl.Series(name, values, dtype=pl.Float64(), strict=True)
            if seconds.null_count():
                raise TypeError("a row without its time")
            return (seconds * 1e6).round().cast(pl.Int64()).cast(INSTANT)
        return pl.Series(name, values, dtype=dtype, strict=True)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise LakeCorruptError(f"Column {name!r} of the trace store holds what is no {dtype}: {error}") from error


def _refuse_other_store(lake: LakeEdit, reader: TraceReader, newest: Mapping[TableName, int]) -> None:
    """Refuse a store in which the cursor means something else: its rows would be taken for known ones.

    That is another store in the old one's place, one restored from an older backup, or one that lost its last commits
    in a power cut and numbers anew.
    """
    for table, read in ((TRACES, reader.traces), (FEEDBACK, reader.feedback)):
        state = lake.manifest.table(table.name)
        if newest[table.name] < state.cursor:
            raise LakeCorruptError(
                f"The trace store has come to row {newest[table.name]} of {table.name} and {lake.root} to row "
                f"{state.cursor}: the store was replaced, or restored from an older backup, so new rows would be "
                "missed. Bring the old trace store back, or move the lake folder away and ingest again."
            )
        if not state.cursor:
            continue
        row = _row(read(after=state.cursor - 1, limit=1))
        anchor = state.anchor
        if anchor is None or row is None or row["seq"] != anchor.sequence:
            # The row may have been deleted since. Then the oldest one that the store has tells.
            row = _row(read(after=0, limit=1))
            anchor = None if row is None else _known(lake, table, int(row["seq"]))
        if row is not None and anchor is not None and row[_id_column(table)] != anchor.row_id:
            raise LakeCorruptError(
                f"The lake in {lake.root} was not filled from this trace store: row {anchor.sequence} of {table.name} "
                f"is {anchor.row_id} in the lake and {row[_id_column(table)]} in the store, so new rows would be "
                "missed. Bring the old trace store back, or move the lake folder away and ingest again."
            )


def _row(page: StoredRows) -> Mapping[str, Any] | None:
    return dict(zip(page.columns, page.rows[0], strict=True)) if page.rows else None


def _known(lake: LakeEdit, table: Table, sequence: int) -> Anchor | None:
    """The row with this `seq` in the lake, if it is there."""
    for part in lake.manifest.table(table.name).parts:
        if part.first_sequence <= sequence <= part.last_sequence:
            found = lake.scan(table, part).filter(pl.col("seq") == sequence).select(_id_column(table)).collect()
            if found.height:
                return Anchor(sequence, found.item())
    return None

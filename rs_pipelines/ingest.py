"""Ingest: what is new in the trace store becomes parts of the lake, each row exactly once, a page at a time."""

import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import polars as pl

from rs_gateway.domain.ports import ArrowStream, ColumnReader, StoredRows, TraceReader
from rs_pipelines.lake_edit import LakeEdit
from rs_pipelines.lake_manifest import Anchor, LakeCorruptError, Part, TableState
from rs_pipelines.lake_schema import FEEDBACK, INSTANT, TRACES, Table, TableName

PAGE_BYTES = 64 * 2**20
"""What the rows of a page take in memory, about; an ingest holds two pages, one of them as a file too."""
_FIRST_PAGE_ROWS = 2_000
"""Of a lake that does not know yet how large its rows are."""
_EARLIEST_S, _LATEST_S = -62_135_510_400, 253_402_128_000
"""0001-01-02 and 9999-12-30: dates that there are in every time zone."""
T = TypeVar("T")


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
        page_rows: rows read, written and made visible at a time, at most; fewer where they are large.
        on_page: told after each page what has come so far.

    Raises:
        LakeCorruptError: the trace store is another one than before, or holds what no column can.
    """
    began = time.monotonic()
    newest = reader.newest_positions()
    ahead: dict[TableName, int] = {"traces": newest.traces, "feedback": newest.feedback}
    _refuse_other_store(lake, reader, ahead)
    expected = sum(position - lake.manifest.table(name).cursor for name, position in ahead.items())
    report = IngestReport(0, 0, 0, lake.manifest.traces.cursor, 0.0, expected)
    # Feedback first: a trace is committed before its feedback, so that at the end none stands without its trace.
    for table in (FEEDBACK, TRACES):
        pages = _pages(
            reader, table, state=lake.manifest.table(table.name), upto=ahead[table.name], page_rows=page_rows
        )
        # Three at a time: a page is read, the one before it is written, and the one before that reaches the disk.
        # Closed in any case, so that no thread of ours writes on when the lake is somebody else's.
        with closing(in_advance(pages)) as read, closing(in_advance(_written(lake, table, read))) as written:
            for page in written:
                lake.sync(page.parts)
                lake.append(table, page.parts, cursor=page.last_sequence, anchor=page.anchor)
                report = _plus(report, table, page, cursor=lake.manifest.traces.cursor, began=began)
                on_page(report)
    return report


def _plus(report: IngestReport, table: Table, page: "_Written", *, cursor: int, began: float) -> IngestReport:
    n_rows = sum(part.rows for part in page.parts)
    return replace(
        report,
        rows=report.rows + (n_rows if table is TRACES else 0),
        feedback_rows=report.feedback_rows + (n_rows if table is FEEDBACK else 0),
        files=report.files + len(page.parts),
        last_sequence=cursor,
        seconds=time.monotonic() - began,
    )


def in_advance(items: Iterable[T]) -> Generator[T]:
    """The same items, each of them made by a thread while the one before it is in use."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ingest") as beside:
        coming = beside.submit(next, iterator, None)
        while (item := coming.result()) is not None:
            coming = beside.submit(next, iterator, None)
            yield item


@dataclass(frozen=True, slots=True)
class _Page:
    """Rows in commit order with the columns of their table, and the position behind them."""

    rows: pl.DataFrame
    last_sequence: int


@dataclass(frozen=True, slots=True)
class _Written:
    """What has become of a page: parts that do not count yet."""

    parts: tuple[Part, ...]
    last_sequence: int
    anchor: Anchor


def _pages(reader: TraceReader, table: Table, *, state: TableState, upto: int, page_rows: int) -> Generator[_Page]:
    """The pages from where the lake is up to a position, of `page_rows` or, if rows are large, fewer.

    It ends there although a busy gateway writes on: chasing it would only make many small files.
    """
    after, limit = state.cursor, min(page_rows, _FIRST_PAGE_ROWS)
    if state.parts:
        limit = rows_that_fit(page_rows, like=state.parts[-1].rows, of_bytes=state.parts[-1].memory_bytes)
    while after < upto:
        page = _read(reader, table, after=after, limit=limit)
        if page.last_sequence <= after:
            return
        after = page.last_sequence
        if page.rows.height:
            limit = rows_that_fit(page_rows, like=page.rows.height, of_bytes=int(page.rows.estimated_size()))
            yield page


def rows_that_fit(page_rows: int, *, like: int, of_bytes: int) -> int:
    """How many rows make a page if they are as large as those `like` so many rows `of_bytes`."""
    return max(1, min(page_rows, PAGE_BYTES * like // max(of_bytes, 1)))


def _written(lake: LakeEdit, table: Table, pages: Iterable[_Page]) -> Generator[_Written]:
    for page in pages:
        anchor = Anchor(page.rows["seq"][-1], page.rows[_id_column(table)][-1])
        yield _Written(lake.stage(table, page.rows, packing="fast"), page.last_sequence, anchor)


def _read(reader: TraceReader, table: Table, *, after: int, limit: int) -> _Page:
    found = None
    if isinstance(reader, ColumnReader):
        found = reader.columns(table.name, after=after, limit=limit, load=partial(_of_columns, table))
    if found is not None:
        rows = pl.concat([pl.DataFrame(schema=table.schema), *found.chunks])
        page = _Page(rows, found.last_sequence)
    else:
        stored = (reader.traces if table is TRACES else reader.feedback)(after=after, limit=limit)
        page = _Page(_of_rows(table, stored), stored.last_sequence)
    if (page.rows.height and page.last_sequence <= after) or page.rows["seq"].is_duplicated().any():
        raise LakeCorruptError(
            f"The reader gave {table.name} up to position {page.last_sequence} after {after}, some of them twice or "
            "none of them new: rows would be lost or doubled, so nothing was taken."
        )
    return page


def _id_column(table: Table) -> str:
    return "trace_id" if table is TRACES else "feedback_id"


def _of_columns(table: Table, stream: ArrowStream) -> pl.DataFrame:
    found = pl.DataFrame(stream)
    _need_columns(table, found.columns)
    return _with_day(table, [_typed(found[name], dtype) for name, dtype in _stored(table).items()])


def _of_rows(table: Table, page: StoredRows) -> pl.DataFrame:
    _need_columns(table, page.columns)
    if not page.rows:
        return pl.DataFrame(schema=table.schema)
    values = dict(zip(page.columns, zip(*page.rows, strict=True), strict=True))
    return _with_day(table, [_series(name, values[name], dtype) for name, dtype in _stored(table).items()])


def _stored(table: Table) -> Mapping[str, pl.DataType]:
    return {name: dtype for name, dtype in table.schema.items() if name != "dt"}


def _need_columns(table: Table, given: Collection[str]) -> None:
    missing = [name for name in _stored(table) if name not in given]
    if missing:
        raise LakeCorruptError(f"The trace store gives no column {', '.join(missing)} for {table.name}.")


def _with_day(table: Table, columns: list[pl.Series]) -> pl.DataFrame:
    return pl.DataFrame(columns).with_columns(pl.col(table.instant).dt.date().alias("dt"))


def _series(name: str, values: Sequence[object], dtype: pl.DataType) -> pl.Series:
    raw = pl.Float64() if dtype == INSTANT else dtype
    if dtype == pl.Boolean():  # SQLite has no booleans
        values = [None if value is None else bool(value) for value in values]
    try:
        return _typed(pl.Series(name, values, dtype=raw, strict=True), dtype)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise LakeCorruptError(f"Column {name!r} of the trace store holds what is no {dtype}: {error}") from error


def _typed(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """The column in the lake's type. Nothing is guessed: a value of another type raises LakeCorruptError.

    A clock that was wrong by ages keeps no row out: an instant that is no date becomes the nearest that is one, and one
    that is no number the epoch.
    """
    if column.dtype == dtype:
        return column
    if dtype == INSTANT and column.dtype.is_numeric() and not column.null_count():
        seconds = column.cast(pl.Float64()).fill_nan(0.0).clip(_EARLIEST_S, _LATEST_S)
        return (seconds * 1e6).round().cast(pl.Int64()).cast(INSTANT)
    numbers = column.dtype == pl.Int64() and dtype in (pl.Float64(), pl.Boolean())  # SQLite has no booleans
    if numbers or column.null_count() == column.len():
        return column.cast(dtype)
    raise LakeCorruptError(f"Column {column.name!r} of the trace store holds {column.dtype} where {dtype} belongs.")


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

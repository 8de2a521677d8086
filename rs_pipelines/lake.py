"""The lake: traces and feedback as Parquet, filled incrementally and exactly once, read by anyone without a lock.

A manifest names every file that counts (lake_manifest.py). It is replaced atomically together with the cursors, so that
a row and the cursor behind it become visible in the same instant; a file that no manifest names is left over from a
killed ingest. Never read the folder by a pattern: ask `Lake`, which reads what the manifest names.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import duckdb
import polars as pl

from rs_gateway.domain.feedback import FeedbackKind
from rs_gateway.domain.ports import TraceReader
from rs_pipelines import lake_views
from rs_pipelines.compaction import (
    NOTHING_MERGED,
    CompactionReport,
    OnMerge,
    crowded_parts,
    ignore_merge,
    merge,
    small_parts,
)
from rs_pipelines.ingest import IngestReport, OnPage, ignore_page, ingest
from rs_pipelines.lake_bucket import LakeBucket
from rs_pipelines.lake_edit import (
    KEPT_FOR_READERS,
    Clock,
    LakeEdit,
    edit,
    edit_if_there,
    read_manifest,
    refuse_damaged_parts,
    refuse_missing_parts,
    scan_parts,
    utc_now,
)
from rs_pipelines.lake_files import LakeBusyError, LakeFiles
from rs_pipelines.lake_manifest import Manifest
from rs_pipelines.lake_place import LakePlace
from rs_pipelines.lake_schema import FEEDBACK, INSTANT, TABLES, TRACES, Table
from rs_pipelines.lasting_frame import lasting_frame

_SAID: Mapping[str, pl.DataType] = {
    FeedbackKind.LABEL.value: pl.String(),
    FeedbackKind.SCORE.value: pl.Float64(),
    FeedbackKind.OUTCOME.value: pl.Boolean(),
    FeedbackKind.COMMENT.value: pl.String(),
}
NEWEST_FEEDBACK_SCHEMA = pl.Schema({"trace_id": pl.String(), **_SAID, "said_at": INSTANT})
"""What is said about a trace now; null where nothing of that kind was said. `said_at` is when the last of it was."""

T = TypeVar("T")
_TRIES = 20
_PAUSE_S = 0.25
"""Those who wait for the lake look more often than that."""
_FAN_IN = 8
"""So many small parts of about one size, of one day, are merged by the ingest that made the last of them."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search found, and the files that count no more and could not be searched: where they are, and why."""

    rows: pl.DataFrame
    unreadable: Mapping[str, str]


class Lake:
    """Parquet in one place: `traces/dt=YYYY-MM-DD/`, `feedback/dt=YYYY-MM-DD/` and `manifest.json`."""

    def __init__(
        self,
        root: Path | str,
        *,
        lock_timeout_s: float = 30.0,
        before_step: Callable[[str], None] | None = None,
        clock: Clock = utc_now,
        turn_s: float = 5.0,
    ) -> None:
        """A lake in the folder `root`, which need not exist yet, or under a URL such as s3://bucket/prefix.

        See LakeFiles and LakeBucket for the other arguments.

        Args:
            turn_s: how long a compaction keeps others from changing the lake at a time, about.
        """
        self.root = root
        self._clock, self._turn_s = clock, turn_s
        place = LakeBucket if isinstance(root, str) else LakeFiles
        self._files: LakePlace = place(
            root,  # pyright: ignore[reportArgumentType]  # each gets its own kind
            lock_timeout_s=lock_timeout_s,
            before_step=before_step or _ignore_step,
        )

    def ingest(self, reader: TraceReader, *, page_rows: int = 25_000, on_page: OnPage = ignore_page) -> IngestReport:
        """Bring what is new in the trace store. Killed anywhere, the next call goes on; no row is lost or doubled.

        Where many small parts have come together, they are merged.

        Args:
            page_rows: rows read, written and made visible at a time, at most; fewer where they are large.
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
            merge(lake, partial(crowded_parts, fan_in=_FAN_IN))
        return replace(report, seconds=time.monotonic() - started)

    def compact(self, *, on_merge: OnMerge = ignore_merge) -> CompactionReport:
        """Merge all small parts of each day. Readers are not disturbed; killed anywhere, nothing is lost or doubled.

        It lets others change the lake every few seconds, so that no ingest and no erasure is refused for its sake.
        Raises as `ingest`.
        """
        report = NOTHING_MERGED
        while True:
            with self.edit() as lake:
                lake.purge(older_than=KEPT_FOR_READERS)
                report = merge(lake, small_parts, on_merge=on_merge, before=report, enough=_over_in(self._turn_s))
                if not any(small_parts(lake.manifest.table(table.name).parts) for table in TABLES):
                    return report
            time.sleep(_PAUSE_S)

    @contextmanager
    def edit(self) -> Generator[LakeEdit]:
        """Be the only one to change the lake: rewrite parts, or drop them. See lake_edit.py."""
        with edit(self._files, clock=self._clock) as lake:
            yield lake

    @contextmanager
    def edit_if_there(self) -> Generator[LakeEdit | None]:
        """The same; None where nothing was ever ingested, and nothing is before the block ends."""
        with edit_if_there(self._files, clock=self._clock) as lake:
            yield lake

    def exists(self) -> bool:
        """Whether anything was ever ingested here."""
        return self._files.manifest() is not None

    def manifest(self) -> Manifest:
        """What counts at this moment; an empty one where nothing was ever ingested."""
        return read_manifest(self._files)

    def settled(self, read: Callable[[], T]) -> T:
        """What `read` finds in the lake; it begins again where somebody removes a file that it has opened.

        Raises:
            LakeCorruptError: a part is missing or damaged.
        """
        for _ in range(_TRIES):
            manifest = self.manifest()
            try:
                return read()
            except FileNotFoundError:
                refuse_missing_parts(self._files)
            except (pl.exceptions.ComputeError, duckdb.Error) as error:
                refuse_missing_parts(self._files)
                removed = isinstance(error, duckdb.Error) and lake_views.is_about_a_removed_file(error)
                if not removed and self.manifest() == manifest:
                    refuse_damaged_parts(self._files, manifest)
                    raise
        raise LakeBusyError(f"{self.root} is being rewritten all the time: try again when that has ended.")

    def lasting(self, make: Callable[[], pl.LazyFrame]) -> pl.LazyFrame:
        """What `make` finds in the lake now, to be collected at any time; made anew where its files were removed."""
        return lasting_frame(make, settled=self.settled)

    def traces(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """All traces, with the columns of TRACE_SCHEMA or those asked for. Never blocked by an ingest.

        Collect it within `settled`, or make it within `lasting`: files may be removed before it is collected.
        """
        return self._scan(TRACES, columns)

    def feedback(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """All feedback, with the columns of FEEDBACK_SCHEMA or those asked for."""
        return self._scan(FEEDBACK, columns)

    def search(self, table: Table, columns: Sequence[str], *, chosen: pl.Expr) -> Searched:
        """Rows of all files, those too that count no more and stay for readers: a row may be there several times.

        Call it within `settled`. What counts no more and cannot be read is named and keeps nobody from the rest.
        """
        manifest, names = self.manifest(), self._files.names()
        counted = scan_parts(self._files, table, manifest.table(table.name).parts)
        frames, unreadable = [counted.filter(chosen).select(columns).collect()], dict[str, str]()
        for part in manifest.retired:
            if part.path in names and part.path.startswith(f"{table.name}/"):
                try:
                    frames.append(scan_parts(self._files, table, (part,)).filter(chosen).select(columns).collect())
                except pl.exceptions.PolarsError as error:
                    unreadable[str(self._files.path(part.path))] = str(error).partition("\n")[0]
        return Searched(pl.concat(frames), unreadable)

    def newest_feedback(self) -> pl.LazyFrame:
        """What is said about each trace now: NEWEST_FEEDBACK_SCHEMA, one row for each trace that something is said of.

        Of several labels (scores, outcomes, comments) of a trace the one said last counts.
        """
        said_last = self.feedback().sort("created_at", "seq").unique(("trace_id", "kind"), keep="last")
        return said_last.group_by("trace_id").agg(
            *(
                pl.col("value").filter(pl.col("kind") == kind).first().str.json_decode(dtype).alias(kind)
                for kind, dtype in _SAID.items()
            ),
            pl.col("created_at").max().alias("said_at"),
        )

    def duckdb_connection(self) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB with the views `traces`, `feedback` and `newest_feedback` over what counts now.

        Where files are removed later, the next query shows what counts then. One that is running at that very moment
        fails; `settled` repeats it. Times are UTC.
        """
        return lake_views.connect(self._files)

    def _scan(self, table: Table, columns: Sequence[str] | None) -> pl.LazyFrame:
        frame = scan_parts(self._files, table, self.manifest().table(table.name).parts)
        return frame if columns is None else frame.select(columns)


def _over_in(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since this was called."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _ignore_step(step: str) -> None:
    del step

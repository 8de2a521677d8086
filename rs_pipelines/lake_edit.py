"""Changes to the lake, each visible as a whole or not at all: rows added, parts rewritten, parts dropped.

with edit(files) as lake:
    for part in lake.manifest.traces.parts:
        rows = lake.read(TRACES, part)
        kept = rows.filter(pl.col("end_user") != "user-7")
        if kept.height < part.rows:
            lake.replace(TRACES, remove=[part], add=lake.write(TRACES, kept))
    lake.purge()
"""

from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from rs_pipelines.lake_manifest import (
    Anchor,
    LakeCorruptError,
    Manifest,
    Part,
    Retired,
    decode,
    encode,
    with_parts,
)
from rs_pipelines.lake_place import LakePlace
from rs_pipelines.lake_schema import TABLES, Packing, Table

KEPT_FOR_READERS = timedelta(days=1)
"""How long the file of a part that counts no more stays, for a notebook that opened the lake before."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class LakeEdit:
    """The lake in the hands of its only writer; `manifest` is what counts now. Get one from `edit`."""

    def __init__(self, files: LakePlace, manifest: Manifest, clock: Clock) -> None:
        self.manifest = manifest
        self.root = files.root
        self._files, self._clock = files, clock

    def read(self, table: Table, part: Part) -> pl.DataFrame:
        """The rows of a part, with all columns of the table."""
        return read_part(self._files, table, part)

    def scan(self, table: Table, part: Part) -> pl.LazyFrame:
        """The same, not read yet."""
        return scan_parts(self._files, table, (part,))

    def write(self, table: Table, rows: pl.DataFrame, *, packing: Packing = "small") -> tuple[Part, ...]:
        """Write rows, one part a day. They do not count yet.

        Args:
            rows: with all columns of the table, in any order; none gives no part.
        """
        parts = self.stage(table, rows, packing=packing)
        self.sync(parts)
        return parts

    def stage(self, table: Table, rows: pl.DataFrame, *, packing: Packing) -> tuple[Part, ...]:
        """The first half of `write`: the files have all their content, and a loss of power may take it."""
        parts: list[Part] = []
        ordered = rows.select(table.schema.names()).sort("dt", *table.order)
        for day, n_rows in ordered["dt"].rle().struct.unnest().select("value", "len").iter_rows():
            begin = sum(part.rows for part in parts)
            chosen = ordered.slice(begin, n_rows)
            first, last = _as_int(chosen["seq"].min()), _as_int(chosen["seq"].max())
            name = f"{table.name}/dt={day}/{first:012d}-{last:012d}.{self.manifest.revision + 1:06d}.parquet"
            size = self._files.write_part(name, chosen, packing=packing)
            parts.append(Part(name, day, n_rows, first, last, size, int(chosen.estimated_size()), packing))
        return tuple(parts)

    def sync(self, parts: Collection[Part]) -> None:
        """The second half: wait until these files are on the disk."""
        self._files.sync_parts([part.path for part in parts])

    def append(self, table: Table, parts: Collection[Part], *, cursor: int, anchor: Anchor) -> None:
        """Let new parts count, and the trace store be read up to `cursor`, in one instant."""
        state = self.manifest.table(table.name)
        changed = replace(state, cursor=cursor, anchor=anchor, parts=(*state.parts, *parts))
        self._commit(self.manifest.with_table(table.name, changed))

    def replace(self, table: Table, *, remove: Collection[Part], add: Collection[Part]) -> None:
        """Let `add` count in the place of `remove`, in one instant. Either may be empty."""
        self._commit(with_parts(self.manifest, table.name, remove=remove, add=add, now=self._clock()))

    def purge(self, *, older_than: timedelta = timedelta(0)) -> int:
        """Remove the files of parts that have not counted for so long; how many.

        Without `older_than` nothing stays of what was ever replaced or dropped. A reader that opened the lake before
        is told that a file is missing and has to open it again.
        """
        now = self._clock()
        # By the distance, for the clock may have been set back: what seems to be retired later is no reason to keep it.
        due = [part for part in self.manifest.retired if abs(now - part.retired_at) >= older_than]
        if due:
            for part in due:
                self._files.remove(part.path)
            self._files.sync_folders([part.path for part in due])
            self._commit(replace(self.manifest, retired=tuple(p for p in self.manifest.retired if p not in due)))
        return len(due)

    def _commit(self, manifest: Manifest) -> None:
        manifest = manifest.next()
        self._files.replace_manifest(encode(manifest))
        self.manifest = manifest


@contextmanager
def edit(files: LakePlace, *, clock: Clock = utc_now) -> Generator[LakeEdit]:
    """Change the lake. What a killed writer left behind is removed first.

    Raises:
        LakeBusyError: another writer did not end in time.
        LakeCorruptError: the manifest is damaged or lost, or files that it names are missing.
        SchemaTooNewError: a newer program wrote this lake.
    """
    with files.alone():
        yield LakeEdit(files, _begin(files), clock)


@contextmanager
def edit_if_there(files: LakePlace, *, clock: Clock = utc_now) -> Generator[LakeEdit | None]:
    """The same; None, but nobody else's first change either, where nothing was ever ingested."""
    with files.alone():
        nothing = files.manifest() is None and not files.names()
        yield None if nothing else LakeEdit(files, _begin(files), clock)


def read_manifest(files: LakePlace) -> Manifest:
    """What counts at this moment; an empty one where nothing was ever ingested. Raises as `edit`, but LakeBusyError."""
    content = files.manifest()
    return Manifest() if content is None else decode(content, lake=str(files.root))


def scan_parts(files: LakePlace, table: Table, parts: Collection[Part | Retired]) -> pl.LazyFrame:
    """The rows of these parts, with all columns of the table."""
    if not parts:
        return pl.LazyFrame(schema=table.schema)
    paths = [str(files.path(part.path)) for part in parts]
    return pl.scan_parquet(
        paths,
        schema=table.schema,
        missing_columns="insert",
        glob=False,
        hive_partitioning=False,
        storage_options=dict(files.storage_options) or None,
    )


def _begin(files: LakePlace) -> Manifest:
    manifest, present = read_manifest(files), files.names()
    if files.manifest() is None:
        # The manifest is written before the first file, so files without one mean that it was lost.
        if present:
            raise LakeCorruptError(
                f"{files.root} holds {len(present)} files but no manifest.json: restore it from a backup, "
                "or move the whole folder away and ingest again."
            )
        files.replace_manifest(encode(manifest))
    _refuse_missing(files, manifest.counted() - present)
    for name in sorted(present - manifest.known()):
        files.remove(name)
    return manifest


def refuse_missing_parts(files: LakePlace) -> None:
    """Raise LakeCorruptError if files that count are missing; parts that are replaced meanwhile are not."""
    while True:
        content = files.manifest()
        missing = read_manifest(files).counted() - files.names()
        if not missing or files.manifest() == content:
            _refuse_missing(files, missing)
            return


def refuse_damaged_parts(files: LakePlace, manifest: Manifest) -> None:
    """Read all parts that count. Raises LakeCorruptError, which names the first one that cannot be read."""
    for table in TABLES:
        for part in manifest.table(table.name).parts:
            read_part(files, table, part)


def read_part(files: LakePlace, table: Table, part: Part) -> pl.DataFrame:
    """The rows of a part, with all columns of the table. Raises LakeCorruptError."""
    try:
        return scan_parts(files, table, (part,)).collect()
    except pl.exceptions.PolarsError as error:
        raise LakeCorruptError(
            f"{files.path(part.path)} is damaged ({error}): restore it from a backup, or move the whole folder "
            f"{files.root} away and ingest again."
        ) from error


def _refuse_missing(files: LakePlace, names: Collection[str]) -> None:
    if names:
        raise LakeCorruptError(
            f"{len(names)} files that the manifest of {files.root} names are missing, {min(names)} first: restore "
            "them from a backup, or move the whole folder away and ingest again."
        )


def _as_int(value: Any) -> int:
    assert isinstance(value, int)
    return value

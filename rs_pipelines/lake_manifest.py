"""The lake's manifest: which parts count, up to where the trace store has been read, and what is to be removed.

It is one small JSON file and only ever replaced as a whole. A part is written once and never changed: to change rows,
new parts take the place of old ones, and a reader sees either all of that or nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

import msgspec

from rs_gateway.domain.errors import SchemaTooNewError, StoreError
from rs_pipelines.lake_schema import Packing, TableName

SCHEMA_VERSION = 2


class LakeCorruptError(StoreError):
    """The lake is not what its manifest says, or not of this trace store; going on would lose or double rows."""

    code = "lake_corrupt"


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file that counts; all its rows are of one UTC day.

    Attributes:
        path: relative to the lake's root, with `/`.
        first_sequence, last_sequence: smallest and largest `seq` in it. Ranges of parts may overlap.
        bytes: size of the file.
        memory_bytes: what its rows take when they are read, roughly.
        packing: `fast` as an ingest writes, `small` as a compaction does.
        schema: schema of the lake when it was written. It decides which columns the file has.
    """

    path: str
    day: date
    rows: int
    first_sequence: int
    last_sequence: int
    bytes: int
    memory_bytes: int
    packing: Packing = "small"
    schema: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last row that was ingested: a trace store in which this `seq` is another row is another store."""

    sequence: int
    row_id: str


@dataclass(frozen=True, slots=True)
class TableState:
    """What the lake holds of one table.

    Attributes:
        cursor: position that the trace store's reader gave with the last page; 0 before the first one. Only that
            reader knows what it means: it is no bound on `seq`.
    """

    cursor: int = 0
    anchor: Anchor | None = None
    parts: tuple[Part, ...] = ()

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(part.rows for part in self.parts)

    def days(self) -> tuple[date, ...]:
        """The days that have rows, oldest first."""
        return tuple(sorted({part.day for part in self.parts}))


@dataclass(frozen=True, slots=True)
class Retired:
    """A part that counts no more. Its file stays for a while, for readers that opened the lake before."""

    path: str
    retired_at: datetime


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that counts in the lake.

    Attributes:
        revision: raised by every commit; part of the names of new parts, so that no name is ever used twice.
    """

    schema_version: int = SCHEMA_VERSION
    revision: int = 0
    traces: TableState = field(default_factory=TableState)
    feedback: TableState = field(default_factory=TableState)
    retired: tuple[Retired, ...] = ()

    def table(self, name: TableName) -> TableState:
        """The state of one table."""
        return self.traces if name == "traces" else self.feedback

    def with_table(self, name: TableName, state: TableState) -> "Manifest":
        """The same with another state of one table."""
        return replace(self, traces=state) if name == "traces" else replace(self, feedback=state)

    def counted(self) -> frozenset[str]:
        """Paths of the parts that count."""
        return frozenset(part.path for state in (self.traces, self.feedback) for part in state.parts)

    def known(self) -> frozenset[str]:
        """Paths of all files that have a reason to be there."""
        return self.counted() | {part.path for part in self.retired}

    def next(self) -> "Manifest":
        """The same, as the revision that follows."""
        return replace(self, schema_version=SCHEMA_VERSION, revision=self.revision + 1)


def with_parts(
    manifest: Manifest, name: TableName, *, remove: Collection[Part] = (), add: Collection[Part] = (), now: datetime
) -> Manifest:
    """The manifest in which `add` stands in the place of `remove`. The cursor stays.

    Raises:
        ValueError: a part in `remove` does not count: somebody else's change came in between.
    """
    state, gone = manifest.table(name), {part.path for part in remove}
    kept = tuple(part for part in state.parts if part.path not in gone)
    if len(kept) + len(gone) != len(state.parts):
        raise ValueError(f"Not all of {sorted(gone)} count in revision {manifest.revision} of {name}.")
    retired = (*manifest.retired, *(Retired(path, now) for path in sorted(gone)))
    return replace(manifest.with_table(name, replace(state, parts=(*kept, *add))), retired=retired)


def encode(manifest: Manifest) -> bytes:
    """As the content of `manifest.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def decode(content: bytes, *, lake: str) -> Manifest:
    """The manifest in `manifest.json`; one of schema 1 is read as this program would have written it.

    Args:
        lake: which lake it is of, for messages.

    Raises:
        LakeCorruptError: it is damaged. SchemaTooNewError: a newer program wrote it.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise SchemaTooNewError(
                f"The lake in {lake} has schema {version}, this program knows {SCHEMA_VERSION}: update it."
            )
        if version < SCHEMA_VERSION:
            return _of_schema_1(msgspec.json.decode(content, type=_Manifest1))
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LakeCorruptError(
            f"{lake}/manifest.json cannot be read ({error}): restore it from a backup, "
            "or move the whole folder away and ingest again."
        ) from error


class _Version(msgspec.Struct):
    schema_version: int


class _File1(msgspec.Struct):
    path: str
    rows: int
    first_sequence: int
    last_sequence: int


class _Table1(msgspec.Struct):
    cursor: int = 0
    files: tuple[_File1, ...] = ()


class _Manifest1(msgspec.Struct):
    traces: _Table1
    feedback: _Table1


_MEMORY_BYTES_1 = 2_000
"""What a row of a lake of schema 1, which did not say, is taken to be."""


def _of_schema_1(manifest: _Manifest1) -> Manifest:
    return Manifest(traces=_state_1(manifest.traces), feedback=_state_1(manifest.feedback))


def _state_1(table: _Table1) -> TableState:
    return TableState(table.cursor, None, tuple(_part_1(file) for file in table.files))


def _part_1(file: _File1) -> Part:
    folder = file.path.split("/")[1]
    day = datetime.strptime(folder, "dt=%Y-%m-%d").replace(tzinfo=UTC).date()
    size = file.rows * _MEMORY_BYTES_1
    return Part(file.path, day, file.rows, file.first_sequence, file.last_sequence, size, size, "small", 1)

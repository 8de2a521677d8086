"""Small parts of a day become larger ones, while whoever has the lake open goes on reading the old ones."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from rs_pipelines.lake_edit import LakeEdit
from rs_pipelines.lake_manifest import Part
from rs_pipelines.lake_schema import TABLES

PART_BYTES = 128 * 2**20
"""What the rows of a part take in memory at most, after a merge."""
_LARGE_SHARE = 4
"""A part of `1 / _LARGE_SHARE` of that is large enough: merging it would save little."""
_SMALLEST_CLASS_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What one compaction did.

    Attributes:
        merged, into: parts that count no more, and those in their place.
        rows: rows that were written again.
        parts: parts that the lake has now.
    """

    merged: int = 0
    into: int = 0
    rows: int = 0
    parts: int = 0


NOTHING_MERGED = CompactionReport()
OnMerge = Callable[[CompactionReport], None]


def ignore_merge(report: CompactionReport) -> None:
    """Watch nothing."""
    del report


def small_parts(parts: Iterable[Part], *, part_bytes: int = PART_BYTES) -> list[tuple[Part, ...]]:
    """Groups to merge so that no day keeps small parts that would fit into one, and every part is packed small.

    A part that only has to be packed stands alone.
    """
    parts = tuple(parts)
    groups = [group for chosen in _by_day(parts, part_bytes).values() for group in _filled(chosen, part_bytes)]
    taken = {part.path for group in groups for part in group}
    groups.extend((part,) for part in parts if part.path not in taken)
    return [group for group in groups if len(group) > 1 or any(part.packing == "fast" for part in group)]


def crowded_parts(parts: Iterable[Part], *, fan_in: int) -> list[tuple[Part, ...]]:
    """Groups to merge where a day has `fan_in` or more small parts of about one size.

    A merged part is of a larger size then, so that ingest after ingest a row is written again only as often as the
    logarithm of its day's rows.
    """
    groups: list[tuple[Part, ...]] = []
    for chosen in _by_day(parts, PART_BYTES).values():
        classes: dict[int, list[Part]] = defaultdict(list)
        for part in chosen:
            classes[_size_class(part.memory_bytes, fan_in)].append(part)
        for alike in classes.values():
            if len(alike) >= fan_in:
                groups.extend(_filled(alike, PART_BYTES))
    return [group for group in groups if len(group) > 1]


def merge(
    lake: LakeEdit,
    choose: Callable[[Iterable[Part]], Sequence[tuple[Part, ...]]],
    *,
    on_merge: OnMerge = ignore_merge,
    before: CompactionReport = NOTHING_MERGED,
    enough: Callable[[], bool] = lambda: False,
) -> CompactionReport:
    """Merge the groups that `choose` makes of a table's parts, each in one instant.

    Killed anywhere, what was merged stays merged and nothing is lost or doubled. Memory holds one group at a time.

    Args:
        before: what was merged earlier; the report adds to it.
        enough: asked after each group whether the others are left for later.
    """
    report = before
    for table in TABLES:
        for group in choose(lake.manifest.table(table.name).parts):
            if report is not before and enough():
                break
            rows = pl.concat([lake.read(table, part) for part in group])
            new = lake.write(table, rows)
            lake.replace(table, remove=group, add=new)
            report = replace(
                report, merged=report.merged + len(group), into=report.into + len(new), rows=report.rows + rows.height
            )
            on_merge(report)
    return replace(report, parts=len(lake.manifest.counted()))


def _by_day(parts: Iterable[Part], part_bytes: int) -> dict[object, list[Part]]:
    days: dict[object, list[Part]] = defaultdict(list)
    for part in sorted(parts, key=lambda p: p.first_sequence):
        if part.memory_bytes < part_bytes // _LARGE_SHARE:
            days[part.day].append(part)
    return days


def _filled(parts: Iterable[Part], part_bytes: int) -> list[tuple[Part, ...]]:
    """The parts in their order, cut so that no group takes more than `part_bytes`."""
    groups: list[list[Part]] = []
    room = 0
    for part in parts:
        if not groups or part.memory_bytes > room:
            groups.append([])
            room = part_bytes
        groups[-1].append(part)
        room -= part.memory_bytes
    return [tuple(group) for group in groups]


def _size_class(memory_bytes: int, fan_in: int) -> int:
    size_class, limit = 0, _SMALLEST_CLASS_BYTES
    while memory_bytes >= limit:
        size_class, limit = size_class + 1, limit * fan_in
    return size_class

"""Compaction: few parts, the same rows, and nobody who reads notices."""

import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_pipelines.compaction import CompactionReport, crowded_parts, small_parts
from rs_pipelines.lake import Lake
from rs_pipelines.lake_manifest import Part
from tests.pipelines.stored_rows import DAY_S, NOON, FakeTraceReader


def parts_of(sizes: list[tuple[int, int]]) -> list[Part]:
    """Parts of (day, memory bytes), as an ingest writes them."""
    return [
        Part(f"p{n}", date(2025, 3, 1 + day), 1, n, n, size, size, "fast")
        for n, (day, size) in enumerate(sizes, start=1)
    ]


@given(sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 150)), max_size=30))
def test_groups_are_of_one_day_fit_into_a_part_and_leave_no_two_small_parts_that_would_fit(
    sizes: list[tuple[int, int]],
) -> None:
    parts = parts_of(sizes)
    groups = small_parts(parts, part_bytes=100)
    grouped = [part.path for group in groups for part in group]
    assert len(grouped) == len(set(grouped))
    for group in groups:
        assert len(group) > 1 or {part.packing for part in group} == {"fast"}
        assert len({part.day for part in group}) == 1
        assert len(group) == 1 or sum(part.memory_bytes for part in group) <= 100
    assert set(grouped) == {part.path for part in parts}, "all are packed small afterwards"
    for day in {part.day for part in parts}:
        small = [group for group in groups if group[0].day == day and group[0].memory_bytes < 25]
        for one, other in pairwise(small):
            assert sum(part.memory_bytes for part in one) + other[0].memory_bytes > 100
    packed = [replace(part, packing="small") for part in parts]
    assert all(len(group) > 1 for group in small_parts(packed, part_bytes=100))


def test_parts_are_merged_by_themselves_only_when_many_of_one_size_have_come_together() -> None:
    seven = parts_of([(0, 10)] * 7)
    assert crowded_parts(seven, fan_in=8) == []
    assert crowded_parts([*seven, *parts_of([(1, 10)])], fan_in=8) == []
    assert [len(group) for group in crowded_parts(parts_of([(0, 10)] * 8), fan_in=8)] == [8]
    assert crowded_parts(parts_of([(0, 10)] * 4 + [(0, 10**6)] * 4), fan_in=8) == []


def test_many_small_ingests_write_a_row_again_only_a_few_times(tmp_path: Path) -> None:
    reader, written = FakeTraceReader(), 0
    lake = Lake(tmp_path)
    for _ in range(40):
        reader.add_trace()
        revision = lake.manifest().revision
        lake.ingest(reader)
        written += sum(p.rows for p in lake.manifest().traces.parts if int(p.path.split(".")[-2]) > revision)
    assert len(lake.manifest().traces.parts) < 16
    assert written < 40 * 8


def test_a_compaction_merges_the_small_parts_of_each_day(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for number in range(6):
        reader.add_feedback(reader.add_trace(started_at=NOON + number % 2 * DAY_S), "score", 1)
        lake.ingest(reader)
    reports: list[CompactionReport] = []
    report = lake.compact(on_merge=reports.append)
    assert (report.merged, report.into, report.rows, report.parts) == (12, 3, 12, 3)
    assert [r.merged for r in reports] == [3, 6, 12]
    assert lake.manifest().traces.days() == (date(2025, 3, 1), date(2025, 3, 2))
    assert lake.traces(["seq"]).collect()["seq"].sort().to_list() == [1, 2, 3, 4, 5, 6]
    assert lake.compact().merged == 0


def test_a_compaction_packs_every_part_small_once(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    reader.add_trace(text="".join(str(number**7) for number in range(20_000)))
    lake.ingest(reader)
    (before,) = lake.manifest().traces.parts
    assert (lake.compact().merged, lake.compact().merged) == (1, 0)
    (after,) = lake.manifest().traces.parts
    assert (before.packing, after.packing) == ("fast", "small")
    assert after.bytes < before.bytes
    assert after.bytes == (tmp_path / after.path).stat().st_size


def test_a_notebook_that_was_open_before_a_compaction_reads_on(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    reader, lake = FakeTraceReader(), Lake(tmp_path, clock=lambda: now)
    for _ in range(3):
        reader.add_trace()
        lake.ingest(reader)
    frame, connection = lake.traces(["seq"]), lake.duckdb_connection()
    lake.compact()
    for _ in range(3):
        assert frame.collect()["seq"].sort().to_list() == [1, 2, 3]
        assert connection.execute("SELECT count(*), count(DISTINCT seq) FROM traces").fetchall() == [(3, 3)]
        now += timedelta(hours=7)
        lake.compact()
    now += timedelta(hours=4)
    lake.compact()
    with pytest.raises(FileNotFoundError):
        frame.collect()
    assert lake.traces(["seq"]).collect().height == 3
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_a_long_compaction_lets_an_ingest_in_between(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path, turn_s=0)
    for day in range(3):
        reader.add_trace(started_at=NOON + day * DAY_S)
        lake.ingest(reader)
    waiting, came = threading.Event(), threading.Event()

    def ingest() -> None:
        waiting.set()
        Lake(tmp_path).ingest(reader)
        came.set()

    other = threading.Thread(target=ingest)

    def on_merge(report: CompactionReport) -> None:
        if report.merged == 1:
            reader.add_trace(started_at=NOON)
            other.start()
            assert waiting.wait(60)
        if report.merged == 2:
            assert came.wait(60), "it need not wait for the end"

    # Each of the three parts is packed in a turn of its own, and so is the one that came meanwhile with the first.
    assert lake.compact(on_merge=on_merge).merged >= 4
    other.join()
    assert lake.traces(["seq"]).collect()["seq"].sort().to_list() == [1, 2, 3, 4]
    assert {part.packing for part in lake.manifest().traces.parts} == {"small"}

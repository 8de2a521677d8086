"""Changes to the lake: whole or not at all, and forgotten for good where that is asked for."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from rs_pipelines.lake import Lake
from rs_pipelines.lake_manifest import LakeCorruptError, Manifest, decode, encode
from rs_pipelines.lake_schema import TRACES
from tests.pipelines.lake_faults import Killed, fails_at
from tests.pipelines.stored_rows import DAY_S, NOON, FakeTraceReader


@pytest.fixture
def reader() -> FakeTraceReader:
    """Nine traces of users a, b and c on three days."""
    reader = FakeTraceReader()
    for number in range(9):
        reader.add_trace(started_at=NOON + number % 3 * DAY_S, end_user="abc"[number // 3])
    return reader


def forget(lake: Lake, user: str) -> None:
    with lake.edit() as edit:
        for part in edit.manifest.traces.parts:
            kept = edit.read(TRACES, part).filter(pl.col("end_user").ne_missing(user))
            if kept.height < part.rows:
                edit.replace(TRACES, remove=[part], add=edit.write(TRACES, kept))
        edit.purge()


def users(lake: Lake) -> list[str]:
    return lake.traces(["end_user"]).collect()["end_user"].sort().to_list()


def test_rows_that_are_taken_out_of_a_part_are_nowhere_afterwards(tmp_path: Path, reader: FakeTraceReader) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader, page_rows=4)
    lake.compact()
    forget(lake, "b")
    assert users(lake) == ["a"] * 3 + ["c"] * 3
    for path in tmp_path.rglob("*.parquet"):
        assert "b" not in pl.read_parquet(path, hive_partitioning=False)["end_user"].to_list()
    assert lake.manifest().retired == ()
    assert lake.ingest(reader).rows == 0, "nor do they come back"


def test_an_erasure_that_is_killed_is_ended_by_the_next_try(tmp_path: Path, reader: FakeTraceReader) -> None:
    step = 0
    while True:
        root = tmp_path / str(step)
        Lake(root).ingest(reader)
        try:
            forget(Lake(root, before_step=fails_at(step, root=root)), "b")
            break
        except Killed:
            assert {"a", "c"} <= set(users(Lake(root)))
            forget(Lake(root), "b")
            assert users(Lake(root)) == ["a"] * 3 + ["c"] * 3
            step += 1
    assert step > 20


def test_a_day_is_dropped_without_being_read(tmp_path: Path, reader: FakeTraceReader) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader)
    with lake.edit() as edit:
        old = [part for part in edit.manifest.traces.parts if part.day < date(2025, 3, 2)]
        edit.replace(TRACES, remove=old, add=[])
    assert lake.manifest().traces.days() == (date(2025, 3, 2), date(2025, 3, 3))
    assert lake.traces(["seq"]).collect().height == 6
    assert lake.ingest(reader).rows == 0


def test_a_part_is_not_replaced_twice(tmp_path: Path, reader: FakeTraceReader) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader)
    with lake.edit() as edit:
        part = edit.manifest.traces.parts[0]
        edit.replace(TRACES, remove=[part], add=[])
        with pytest.raises(ValueError, match="Not all of"):
            edit.replace(TRACES, remove=[part], add=[])


def test_a_lake_whose_counted_files_are_missing_is_not_changed(tmp_path: Path, reader: FakeTraceReader) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader)
    missing = lake.manifest().traces.parts[1].path
    (tmp_path / missing).unlink()
    left_over = tmp_path / "traces/dt=2025-03-01/left over.parquet"
    left_over.touch()
    with pytest.raises(LakeCorruptError, match=missing):
        lake.ingest(reader)
    assert left_over.exists()


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, reader: FakeTraceReader) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader)
    lake.compact()
    manifest = lake.manifest()
    assert decode(encode(manifest), lake="x") == manifest
    assert decode(encode(Manifest()), lake="x") == Manifest()


@pytest.mark.parametrize("damage", ["empty", "cut off", "overwritten"])
def test_a_damaged_part_is_named_with_what_to_do(tmp_path: Path, reader: FakeTraceReader, damage: str) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader)
    path = tmp_path / lake.manifest().traces.parts[1].path
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut off": content[:-7], "overwritten": b"\0" * len(content)}[damage])
    with pytest.raises(LakeCorruptError, match=f"{path.name} is damaged .* ingest again"):
        lake.settled(lambda: users(lake))
    with pytest.raises(LakeCorruptError, match=f"{path.name} is damaged .* ingest again"):
        lake.compact()


def test_a_part_that_is_missing_is_named_to_whoever_reads(tmp_path: Path, reader: FakeTraceReader) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader)
    part = lake.manifest().traces.parts[1]
    (tmp_path / part.path).unlink()
    with pytest.raises(LakeCorruptError, match=part.path):
        lake.settled(lambda: users(lake))


def test_who_reads_while_parts_are_rewritten_and_removed_begins_again(tmp_path: Path, reader: FakeTraceReader) -> None:
    lake = Lake(tmp_path)
    lake.ingest(reader)
    tries: list[int] = []

    def read() -> list[str]:
        opened = lake.traces(["end_user"])
        tries.append(1)
        if len(tries) == 1:
            forget(Lake(tmp_path), "b")
        return opened.collect()["end_user"].sort().to_list()

    assert lake.settled(read) == ["a"] * 3 + ["c"] * 3
    assert len(tries) == 2


def test_a_clock_that_is_set_back_keeps_no_file_that_is_to_go(tmp_path: Path, reader: FakeTraceReader) -> None:
    times = iter(datetime(2026, 3, 2, tzinfo=UTC) - timedelta(hours=hours) for hours in range(100))
    lake = Lake(tmp_path, clock=lambda: next(times))
    lake.ingest(reader)
    with lake.edit() as edit:
        edit.replace(TRACES, remove=edit.manifest.traces.parts, add=[])
        edit.purge()
    assert not list(tmp_path.rglob("traces/*/*.parquet"))
    assert lake.manifest().retired == ()

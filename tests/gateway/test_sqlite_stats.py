"""The figures in a trace store's file count every request once, whatever happens to processes and disks."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.traces import StoreMode
from tests.fakes import eventually
from tests.trace_files import FaultyDisk, a_trace, counted, ids, opened


def test_two_stores_that_take_turns_count_each_other_in(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as first, opened(path) as second:
        for number in range(5):
            assert asyncio.run(first.committed(a_trace(f"a{number}")))
            assert asyncio.run(first.committed(a_trace(f"b{number}")))
            assert asyncio.run(second.committed(a_trace(f"c{number}")))
        assert counted(path) == 15


def test_a_commit_that_succeeded_but_reported_an_error_is_counted_once(tmp_path: Path) -> None:
    disk, path = FaultyDisk(), tmp_path / "traces.db"
    with opened(path, connect=disk.connect) as store:
        assert asyncio.run(store.committed(a_trace("01A")))
        disk.lying.set()
        assert not asyncio.run(store.committed(a_trace("01B")))
        eventually(lambda: store.health().ok and store.health().queued == 0)
    assert ids(path) == ["01A", "01B"]
    assert counted(path) == 2


def test_a_failed_write_is_not_counted_until_it_succeeds(tmp_path: Path) -> None:
    disk, path = FaultyDisk(), tmp_path / "traces.db"
    with opened(path, connect=disk.connect) as store:
        disk.broken.set()
        assert not asyncio.run(store.committed(a_trace("01A")))
        assert counted(path) == 0
        disk.broken.clear()
        eventually(lambda: store.health().ok and store.health().queued == 0)
    assert counted(path) == 1


def test_a_write_that_found_no_room_is_counted_once_when_there_is_some(tmp_path: Path) -> None:
    disk, path = FaultyDisk(), tmp_path / "traces.db"
    with opened(path, connect=disk.connect) as store:
        assert asyncio.run(store.committed(a_trace("01A")))
        disk.full.set()
        assert not asyncio.run(store.committed(a_trace("01B")))
        eventually(lambda: store.health().ok and store.health().queued == 0)
    assert ids(path) == ["01A", "01B"]
    assert counted(path) == 2


def test_what_cannot_be_stored_is_not_counted_and_its_neighbours_are(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as store:
        store.append(replace(a_trace("01A"), template_id="\ud800"))
        store.append(replace(a_trace("01B"), started_at=float("nan")))
        store.append(a_trace("01C"))
    assert ids(path) == ["01C"]
    assert counted(path) == 1


def test_figures_that_cannot_be_stored_hold_no_trace_up(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as store:
        store.append(replace(a_trace("01A"), template_id="\ud800", store=StoreMode.NONE))
        assert asyncio.run(store.committed(a_trace("01B")))
        assert asyncio.run(store.committed(a_trace("01C")))
    assert ids(path) == ["01B", "01C"]


def test_figures_are_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    for name in ("a", "b"):
        with opened(path) as store:
            for number in range(700):
                store.append(a_trace(f"{name}{number}"))
    with closing(SqliteStatsReader(path)) as reader:
        (row,) = reader.stats(since_s=None)
    assert (row.figures.requests, row.figures.latency.count, row.figures.usage_unknown) == (1_400, 1_400, 1_400)


def test_figures_that_are_damaged_are_named_with_their_remedy(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as store:
        store.append(a_trace("01A"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE stats SET figures = x'00'")
        connection.commit()
    with closing(SqliteStatsReader(path)) as reader, pytest.raises(StoreError, match="its table `stats`"):
        reader.stats(since_s=None)

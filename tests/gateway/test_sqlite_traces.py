"""What the SQLite trace store does when processes die, disks fill up and files are not what they should be."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.adapters.sqlite_trace_schema import MIGRATIONS
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore, sqlite_path
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.errors import ConfigurationError, SchemaTooNewError, StoreError, TraceNotFoundError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from tests.fakes import eventually
from tests.trace_files import FaultyDisk, a_trace, counted, ids, opened, some_feedback

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
from pathlib import Path
from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.traces import Outcome, Trace, Usage

path, name, n_rows, ending = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
store = SqliteTraceStore(path, limits=WriterLimits(queue_rows=1_000_000, write_timeout_s=20.0))
for number in range(n_rows):
    store.append(Trace(f"{name}{number}", time.time(), "m", Outcome.COMPLETE, False, 0.1, Usage.unknown()))
    if ending == "killed":
        print(number, time.monotonic(), flush=True)
        time.sleep(0.0002)
if ending == "closed":
    store.close()
    assert store.health().dropped == 0
"""


def start_writer(path: Path, name: str, *, n_rows: int, ending: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(path), name, str(n_rows), ending]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@contextmanager
def locked(path: Path) -> Generator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


# Several processes


def test_a_killed_gateway_loses_at_most_its_last_flush_interval(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with start_writer(path, "t", n_rows=1_000_000, ending="killed") as writer:
        assert writer.stdout is not None
        appended_at: list[float] = []
        for line in writer.stdout:
            appended_at.append(float(line.split()[1]))
            if appended_at[-1] - appended_at[0] > 4.0:
                break
        writer.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
    stored = ids(path)
    assert stored == [f"t{number}" for number in range(len(stored))]
    # The flush interval is 0.05 s; the rest is room for a machine that is busy with other things.
    assert len(stored) >= sum(at < killed_at - 2.5 for at in appended_at)
    with opened(path) as store:
        assert asyncio.run(store.committed(a_trace("after the restart")))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_processes_write_one_new_file_and_a_reader_sees_each_row_once(tmp_path: Path) -> None:
    path, n_rows = tmp_path / "traces.db", 3_000
    seen: list[str] = []
    after = 0
    with (
        closing(SqliteTraceReader(path)) as reader,
        start_writer(path, "a", n_rows=n_rows, ending="closed") as first,
        start_writer(path, "b", n_rows=n_rows, ending="closed") as second,
    ):
        running = True
        while running:
            running = first.poll() is None or second.poll() is None
            while (page := reader.traces(after=after, limit=100)).rows:
                seen.extend(str(row[1]) for row in page.rows)
                after = page.last_sequence
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(seen) == len(set(seen)) == 2 * n_rows
    assert counted(path) == 2 * n_rows
    for name in ("a", "b"):
        assert [trace for trace in seen if trace.startswith(name)] == [f"{name}{number}" for number in range(n_rows)]


def test_an_interpreter_that_ends_without_closing_the_store_writes_it_out_and_ends(tmp_path: Path) -> None:
    with start_writer(tmp_path / "traces.db", "t", n_rows=1_500, ending="forgotten") as writer:
        try:
            assert writer.wait(240) == 0
        finally:
            writer.kill()
    assert len(ids(tmp_path / "traces.db")) == 1_500


def test_feedback_waits_for_a_trace_that_another_process_has_not_committed_yet(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with (
        opened(path, limits=WriterLimits(flush_interval_s=0.1)) as served_it,
        opened(path, limits=WriterLimits(flush_interval_s=1.0)) as got_feedback,
    ):
        served_it.append(a_trace("01A"))
        asyncio.run(got_feedback.add_feedback(some_feedback("01A")))
    with closing(SqliteTraceReader(path)) as reader:
        assert len(reader.feedback(after=0, limit=10).rows) == 1


def test_feedback_that_waits_for_its_trace_holds_nobody_up(tmp_path: Path) -> None:
    async def scenario(store: SqliteTraceStore) -> None:
        waiting = asyncio.ensure_future(store.add_feedback(some_feedback("nobody")))
        assert await store.committed(a_trace("01A"))
        await store.add_feedback(some_feedback("01A"))
        assert not waiting.done()
        with pytest.raises(TraceNotFoundError):
            await waiting

    with opened(tmp_path / "traces.db", limits=WriterLimits(flush_interval_s=0.8)) as store:
        asyncio.run(scenario(store))


# Queue and disk


def test_a_trace_that_cannot_be_encoded_is_counted_as_lost_though_the_disk_failed_first(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path, limits=WriterLimits(write_timeout_s=0.02)) as store:
        with locked(path):
            assert not asyncio.run(store.committed(a_trace("t0", content="\ud800")))
        eventually(lambda: store.health().queued == 0)
        assert store.health().dropped == 1


def test_a_full_queue_counts_what_it_drops_and_stores_what_it_took(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    # The lock is let go first, then the store writes what it holds and closes.
    with opened(path, limits=WriterLimits(queue_rows=10, write_timeout_s=0.02)) as store, locked(path):
        for number in range(25):
            store.append(a_trace(f"t{number}"))
        health = store.health()
        assert (health.queued, health.dropped) == (10, 15)
        with pytest.raises(StoreError, match="full"):
            asyncio.run(store.add_feedback(some_feedback("t0")))
        assert not asyncio.run(store.committed(a_trace("t99")))
    assert ids(path) == [f"t{number}" for number in range(10)]


def test_long_texts_fill_the_queue_before_its_rows_do(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path, limits=WriterLimits(queue_bytes=1_000_000, write_timeout_s=0.02)) as store, locked(path):
        for number in range(20):
            store.append(a_trace(f"t{number}", content="x" * 100_000))
        health = store.health()
        assert 3 <= health.queued <= 10
        assert health.queued + health.dropped == 20


def test_a_locked_database_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path, limits=WriterLimits(write_timeout_s=0.02)) as store:
        with locked(path):
            store.append(a_trace("01A"))
            eventually(lambda: not store.health().ok)
            store.append(a_trace("01B"))
            assert "locked" in str(store.health().error)
        eventually(lambda: store.health().ok and store.health().queued == 0)
        assert ids(path) == ["01A", "01B"]
        assert store.health().dropped == 0


def test_a_full_disk_is_reported_and_nothing_is_lost_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    connections: list[sqlite3.Connection] = []

    def connect(where: Path, **options: Any) -> sqlite3.Connection:
        connections.append(sqlite3.connect(where, **options))
        return connections[-1]

    with opened(path, connect=connect) as store:
        connections[-1].execute("PRAGMA max_page_count = 40")
        for number in range(50):
            store.append(a_trace(f"t{number}", content="x" * 10_000))
        eventually(lambda: "full" in str(store.health().error))
        assert not store.health().ok
        connections[-1].execute("PRAGMA max_page_count = 1000000")
        eventually(lambda: store.health().ok and store.health().queued == 0)
        assert ids(path) == [f"t{number}" for number in range(50)]


def test_who_waits_for_a_failing_disk_is_told_and_the_trace_is_stored_when_it_works_again(tmp_path: Path) -> None:
    disk, path = FaultyDisk(), tmp_path / "traces.db"
    with opened(path, connect=disk.connect) as store:
        assert asyncio.run(store.committed(a_trace("01A")))
        disk.broken.set()
        assert not asyncio.run(store.committed(a_trace("01B")))
        with pytest.raises(StoreError, match="disk I/O error"):
            asyncio.run(store.add_feedback(some_feedback("01A")))
        assert store.health().error == "disk I/O error"
        disk.broken.clear()
        eventually(lambda: store.health().ok and store.health().queued == 0)
    assert ids(path) == ["01A", "01B"]
    with closing(SqliteTraceReader(path)) as reader:
        assert reader.feedback(after=0, limit=10).rows == []


def test_closing_on_a_failing_disk_gives_up_in_time_and_counts_the_loss(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path / "traces.db", connect=disk.connect, limits=WriterLimits(close_timeout_s=0.2)) as store:
        disk.broken.set()
        for number in range(700):
            store.append(a_trace(f"t{number}"))
        started = time.monotonic()
        store.close()
        assert time.monotonic() - started < 10
        health = store.health()
        assert (health.ok, health.queued, health.dropped) == (False, 0, 700)


def test_a_file_that_was_deleted_under_the_store_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as store:
        assert asyncio.run(store.committed(a_trace("01A")))
        for file in tmp_path.iterdir():
            file.unlink()
        assert asyncio.run(store.committed(a_trace("01B")))
        assert ids(path) == ["01B"]


def test_a_trace_that_cannot_be_written_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as store:
        store.append(a_trace("01A"))
        store.append(replace(a_trace("01B"), end_user="\ud800"))
        store.append(replace(a_trace("01C"), version=2**80))
        store.append(a_trace("01D", content="\ud800"))
        assert asyncio.run(store.committed(a_trace("01E")))
        health = store.health()
        assert (health.ok, health.queued, health.dropped) == (True, 0, 3)
    assert ids(path) == ["01A", "01E"]


def test_appending_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path, limits=WriterLimits(write_timeout_s=20.0)) as store, locked(path):
        started = time.monotonic()
        for number in range(1_000):
            store.append(a_trace(f"t{number}"))
        assert time.monotonic() - started < 5.0
        assert store.health().queued == 1_000


# Looking back


def test_a_trace_is_found_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with closing(SqliteTraceReader(path)) as reader:
        assert reader.trace("01A") is None
        with opened(path) as store:
            store.append(a_trace("01A", content="hi"))
            store.append(replace(a_trace("01B"), payload=None))
        found, bare = reader.trace("01A"), reader.trace("01B")
        assert reader.trace("01Z") is None
    assert found is not None
    assert bare is not None
    assert (found["trace_id"], found["attempts"], bare["response"]) == ("01A", "[]", None)
    assert found["request_messages"] == '[{"role":"user","content":"hi"}]'


def test_scores_say_whom_they_are_about_and_come_page_by_page(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"

    async def scenario(store: SqliteTraceStore) -> None:
        store.append(replace(a_trace("01A"), template_id="intent", combination_id="intent@small"))
        store.append(replace(a_trace("01B"), template_id="intent", combination_id="intent@big"))
        store.append(a_trace("01C"))
        for number, (trace_id, score) in enumerate([("01A", 0.25), ("01C", 0.1), ("01B", 1.0), ("01A", 0.0)]):
            await store.add_feedback(some_feedback(trace_id))
            await store.add_feedback(Feedback(f"s{number}", trace_id, FeedbackKind.SCORE, score, "human", 2.0))

    with opened(path) as store:
        asyncio.run(scenario(store))
    with closing(SqliteTraceReader(path)) as reader:
        first = reader.scores(after=0, limit=2)
        second = reader.scores(after=first.last_sequence, limit=2)
        assert reader.scores(after=second.last_sequence, limit=2).rows == []
    assert first.columns[1:] == ("template_id", "combination_id", "value")
    assert [row[1:] for row in (*first.rows, *second.rows)] == [
        ("intent", "intent@small", 0.25),
        ("intent", "intent@big", 1.0),
        ("intent", "intent@small", 0.0),
    ]


# Files


def test_a_store_of_an_older_program_is_migrated_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "INSERT INTO traces (trace_id, started_at, request_model, outcome, stream, latency_s, usage_source, "
            "attempts) VALUES ('old', 1.0, 'm', 'complete', 0, 0.1, 'unknown', '[]')"
        )
    with closing(SqliteTraceReader(path)) as reader:
        with pytest.raises(StoreError, match=r"has schema 1 .* start the gateway once"):
            reader.traces(after=0, limit=10)
        with opened(path) as store:
            store.append(a_trace("new"))
        old = reader.trace("old")
    assert old is not None
    assert (old["endpoint"], old["cached_input_tokens"], old["request_model"]) == ("chat.completions", None, "m")
    assert ids(path) == ["old", "new"]
    assert counted(path) == 1


def test_a_reader_follows_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with closing(SqliteStatsReader(path)) as reader:
        with opened(path) as store:
            store.append(a_trace("01A"))
        assert len(reader.stats(since_s=None)) == 1
        path.rename(tmp_path / "old.db")
        assert reader.stats(since_s=None) == []
        with opened(path) as store:
            store.append(a_trace("01B"))
            store.append(a_trace("01C"))
        assert [row.figures.requests for row in reader.stats(since_s=None)] == [2]
        (tmp_path / "old.db").replace(path)
        assert [row.figures.requests for row in reader.stats(since_s=None)] == [1]


def test_a_closed_store_leaves_one_file(tmp_path: Path) -> None:
    with opened(tmp_path / "deep" / "down" / "traces.db") as store:
        store.append(a_trace("01A"))
    assert [file.name for file in (tmp_path / "deep" / "down").iterdir()] == ["traces.db"]


def test_a_reader_between_two_pages_does_not_hold_the_log(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as store, closing(SqliteTraceReader(path)) as reader:
        for number in range(100):
            store.append(a_trace(f"t{number}"))
        assert asyncio.run(store.committed(a_trace("last")))
        assert len(reader.traces(after=0, limit=10).rows) == 10
        with closing(sqlite3.connect(path)) as other:
            busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
        assert (tmp_path / "traces.db-wal").stat().st_size == 0


def test_a_reader_opened_before_the_store_exists_reads_it_later(tmp_path: Path) -> None:
    path = tmp_path / "odd name?#%" / "traces.db"
    with closing(SqliteTraceReader(path)) as reader:
        assert reader.traces(after=0, limit=10).rows == []
        assert not path.parent.exists()
        path.parent.mkdir()
        path.touch()
        assert reader.feedback(after=0, limit=10).rows == []
        with opened(path) as store:
            assert asyncio.run(store.committed(a_trace("01A")))
        assert len(reader.traces(after=0, limit=10).rows) == 1


def test_a_newer_schema_is_refused_by_writers_and_readers(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 3}")
    message = f"schema {len(MIGRATIONS) + 3}.*knows up to {len(MIGRATIONS)}: upgrade route-switch"
    with pytest.raises(SchemaTooNewError, match=message):
        SqliteTraceStore(path)
    with closing(SqliteTraceReader(path)) as reader, pytest.raises(SchemaTooNewError, match=message):
        reader.traces(after=0, limit=10)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    path.write_bytes(b"these are my notes, not a database\n" * 200)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"traces\.db is damaged or no SQLite database.*restore a backup, or move it"):
        SqliteTraceStore(path)
    with (
        closing(SqliteTraceReader(path)) as reader,
        pytest.raises(StoreError, match="damaged or no SQLite database"),
    ):
        reader.traces(after=0, limit=10)
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "traces.db"):
        with pytest.raises(StoreError, match=str(path)):
            SqliteTraceStore(path)


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///data/traces.db", "data/traces.db"), ("sqlite:////var/lib/my traces.db", "/var/lib/my traces.db")],
)
def test_a_sqlite_url_names_a_file(url: str, path: str) -> None:
    assert sqlite_path(url) == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        *("", "data/traces.db", "sqlite://", "sqlite:///", "sqlite://host/traces.db", "sqlite:////", "sqlite:///dir/"),
        *("sqlite:///:memory:", "sqlite:///traces.db?mode=ro", "postgresql://host/db"),
    ],
)
def test_a_url_that_names_no_sqlite_file_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sqlite:///data/traces\.db"):
        sqlite_path(url)


def test_a_client_that_went_away_leaves_its_trace_behind(tmp_path: Path) -> None:
    async def hang_up(store: SqliteTraceStore) -> None:
        waiting = asyncio.ensure_future(store.committed(a_trace("01A")))
        await asyncio.sleep(0)
        waiting.cancel()

    path = tmp_path / "traces.db"
    with opened(path, limits=WriterLimits(write_timeout_s=20.0)) as store:
        with locked(path):
            asyncio.run(hang_up(store))  # its event loop is closed before the commit
        assert asyncio.run(store.committed(a_trace("01B")))
    assert ids(path) == ["01A", "01B"]

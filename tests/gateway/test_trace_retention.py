"""What expires in a trace store, when, and what it leaves behind."""

import asyncio
import itertools
import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore
from rs_gateway.adapters.sqlite_upkeep import SqliteUpkeep
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.stats import HOUR_S, MINUTE_S
from rs_gateway.domain.traces import Outcome, Trace, TracePayload, Usage
from tests.fakes import eventually

DAY_S = 86_400.0
START_S = 1_700_000_000.0


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


def a_trace(started_at: float, *, content: str = "hello") -> Trace:
    messages = ({"role": "user", "content": content},)
    payload = TracePayload(messages, {}, {}, messages, {"role": "assistant", "content": content})
    trace_id = str(ULID.from_timestamp(started_at))
    return Trace(trace_id, started_at, "m", Outcome.COMPLETE, False, 0.1, Usage.unknown(), payload=payload)


@contextmanager
def opened(path: Path, clock: Clock, **options: Any) -> Generator[SqliteTraceStore]:
    store = SqliteTraceStore(path, clock=clock, **options)
    try:
        yield store
    finally:
        store.close()


def column(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [value for (value,) in connection.execute(query)]


def fill(path: Path, clock: Clock, *, days: int) -> list[str]:
    """One trace with one remark a day, from `START_S` on; the ids of the traces."""
    traces = [a_trace(START_S + day * DAY_S) for day in range(days)]

    async def scenario(store: SqliteTraceStore) -> None:
        for trace in traces:
            store.append(trace)
            remark = Feedback(f"f-{trace.trace_id}", trace.trace_id, FeedbackKind.COMMENT, "x", "human", 0.0)
            await store.add_feedback(replace(remark, created_at=trace.started_at))

    with opened(path, clock) as store:
        asyncio.run(scenario(store))
    return [trace.trace_id for trace in traces]


def expired(path: Path, clock: Clock, retention: Retention, *, until: Callable[[], bool]) -> None:
    """Apply `retention` as a gateway does that starts at `clock`, until `until` holds."""
    with opened(path, clock, retention=retention):
        eventually(until)


def test_nothing_is_deleted_when_nothing_is_configured(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    names = fill(path, clock, days=5)
    clock.now_s = START_S + 10_000 * DAY_S
    # The figures of old minutes go last in a round, so the round is over when they are gone.
    expired(path, clock, Retention(), until=lambda: not column(path, "SELECT 1 FROM stats WHERE period_s = 60"))
    assert column(path, "SELECT trace_id FROM traces ORDER BY seq") == names
    assert len(column(path, "SELECT 1 FROM trace_payloads")) == len(column(path, "SELECT 1 FROM feedback")) == 5


def test_a_payload_expires_and_leaves_its_trace(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    names = fill(path, clock, days=10)
    clock.now_s = START_S + 9.5 * DAY_S
    kept = "SELECT trace_id FROM trace_payloads ORDER BY trace_id"
    expired(path, clock, Retention(payload_days=3), until=lambda: len(column(path, kept)) <= 3)
    assert column(path, kept) == names[7:]
    assert column(path, "SELECT trace_id FROM traces ORDER BY seq") == names
    with closing(SqliteTraceReader(path)) as reader:
        row = reader.trace(names[0])
    assert row is not None
    assert (row["request_model"], row["request_messages"]) == ("m", None)


def test_a_trace_expires_with_its_payload_and_stays_in_the_figures(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    names = fill(path, clock, days=10)
    clock.now_s = START_S + 9.5 * DAY_S
    kept = "SELECT trace_id FROM traces ORDER BY seq"
    expired(path, clock, Retention(trace_days=5), until=lambda: len(column(path, kept)) <= 5)
    assert column(path, kept) == names[5:]
    assert column(path, "SELECT trace_id FROM trace_payloads ORDER BY trace_id") == names[5:]
    assert len(column(path, "SELECT 1 FROM feedback")) == 10
    with closing(SqliteStatsReader(path)) as reader:
        assert [row.figures.requests for row in reader.stats(since_s=None)] == [10]


def test_feedback_expires_by_itself(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    names = fill(path, clock, days=10)
    clock.now_s = START_S + 9.5 * DAY_S
    kept = "SELECT trace_id FROM feedback ORDER BY seq"
    expired(path, clock, Retention(feedback_days=2), until=lambda: len(column(path, kept)) <= 2)
    assert column(path, kept) == names[8:]
    assert column(path, "SELECT trace_id FROM traces ORDER BY seq") == names


def test_the_newest_row_stays_so_that_readers_know_the_store_again(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    names = fill(path, clock, days=10)
    clock.now_s = START_S + 1_000 * DAY_S
    retention = Retention(trace_days=1, feedback_days=1)
    expired(path, clock, retention, until=lambda: not column(path, "SELECT 1 FROM stats WHERE period_s = 60"))
    assert column(path, "SELECT trace_id FROM traces") == column(path, "SELECT trace_id FROM feedback") == names[9:]
    assert column(path, "SELECT 1 FROM trace_payloads") == []


def test_retention_goes_on_while_the_gateway_runs(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    with opened(path, clock, retention=Retention(payload_days=1), upkeep_interval_s=0.01) as store:
        for second in range(200):
            store.append(a_trace(START_S + second))
        assert asyncio.run(store.committed(a_trace(START_S + 200)))
        assert len(column(path, "SELECT 1 FROM trace_payloads")) == 201
        clock.now_s = START_S + DAY_S + 100.5
        eventually(lambda: len(column(path, "SELECT 1 FROM trace_payloads")) == 100)
        assert store.health().ok


def test_what_has_expired_is_no_longer_in_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    with opened(path, clock) as store:
        store.append(a_trace(START_S, content="the launch code is 0000"))
    assert b"launch code" in path.read_bytes()
    clock.now_s = START_S + 30 * DAY_S
    payloads = "SELECT 1 FROM trace_payloads"
    expired(path, clock, Retention(payload_days=7), until=lambda: not column(path, payloads))
    assert b"launch code" not in path.read_bytes()


def test_figures_of_minutes_and_hours_go_after_a_day_and_those_of_all_time_stay(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    fill(path, clock, days=3)
    clock.now_s = START_S + 2 * DAY_S + 60
    kept = f"SELECT start_s FROM stats WHERE period_s IN ({MINUTE_S}, {HOUR_S})"
    with opened(path, clock):
        eventually(lambda: len(column(path, kept)) == 4)
    with closing(SqliteStatsReader(path)) as reader:
        since_s = int(clock.now_s - DAY_S) // MINUTE_S * MINUTE_S
        assert sum(row.figures.requests for row in reader.stats(since_s=since_s)) == 1
        assert sum(row.figures.requests for row in reader.stats(since_s=None)) == 3


def test_upkeep_gives_way_to_whoever_writes(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    fill(path, clock, days=2)
    upkeep = SqliteUpkeep(Retention(payload_days=1), clock=lambda: START_S + 9 * DAY_S, interval_s=3_600)
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as writer,
        closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as other,
    ):
        writer.execute("BEGIN IMMEDIATE")
        assert 0 < upkeep.step(other, busy_timeout_s=60) < 3_600
        assert other.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
        writer.execute("ROLLBACK")
        while upkeep.step(other, busy_timeout_s=60) != 3_600:
            pass
    assert column(path, "SELECT 1 FROM trace_payloads") == []


def test_a_long_round_is_cut_into_steps(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    with opened(path, clock, limits=WriterLimits(queue_rows=100_000)) as store:
        for number in range(5_000):
            store.append(a_trace(START_S + number))
    upkeep = SqliteUpkeep(Retention(trace_days=1), clock=lambda: START_S + 9 * DAY_S, interval_s=3_600)
    left = [5_000]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        while upkeep.step(connection, busy_timeout_s=1) == 0:
            left.append(*connection.execute("SELECT count(*) FROM trace_payloads").fetchone())
    assert max(before - after for before, after in itertools.pairwise(left)) <= 1_000
    assert left[-1] == 0


@pytest.mark.parametrize("fault", ["disk I/O error", "database or disk is full"])
def test_upkeep_that_fails_is_tried_again_and_stops_no_trace(tmp_path: Path, fault: str) -> None:
    path, clock, failed = tmp_path / "traces.db", Clock(), threading.Event()

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql.startswith("DELETE") and not failed.is_set():
                failed.set()
                raise sqlite3.OperationalError(fault)
            return super().execute(sql, *parameters)

    def connect(where: Path, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(where, factory=Connection, **options)

    with opened(path, clock, connect=connect) as store:
        eventually(failed.is_set)
        assert asyncio.run(store.committed(a_trace(START_S)))
        assert store.health().ok


def used_bytes(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


def test_a_store_that_is_too_large_loses_its_oldest_payloads_and_then_traces(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    with opened(path, clock) as store:
        for minute in range(400):
            store.append(a_trace(START_S + 60 * minute, content="x" * 3_000))
    names = column(path, "SELECT trace_id FROM traces ORDER BY seq")
    half = used_bytes(path) / 2
    expired(path, clock, Retention(store_bytes=half), until=lambda: used_bytes(path) <= half)
    payloads = column(path, "SELECT trace_id FROM trace_payloads ORDER BY trace_id")
    assert 0 < len(payloads) < 300
    assert payloads == names[-len(payloads) :]
    assert column(path, "SELECT trace_id FROM traces ORDER BY seq") == names

    expired(path, clock, Retention(store_bytes=1), until=lambda: len(column(path, "SELECT 1 FROM traces")) == 1)
    assert column(path, "SELECT trace_id FROM traces") == names[-1:]
    assert not column(path, "SELECT 1 FROM trace_payloads")
    with closing(SqliteStatsReader(path)) as reader:
        assert [row.figures.requests for row in reader.stats(since_s=None)] == [400]


def test_a_store_within_its_size_loses_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "traces.db", Clock()
    fill(path, clock, days=5)
    clock.now_s = START_S + 10_000 * DAY_S
    retention = Retention(store_bytes=10_000_000)
    expired(path, clock, retention, until=lambda: not column(path, "SELECT 1 FROM stats WHERE period_s = 60"))
    assert len(column(path, "SELECT 1 FROM trace_payloads")) == len(column(path, "SELECT 1 FROM traces")) == 5

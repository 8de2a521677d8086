"""What the Postgres trace store does when rows commit late, servers go away and several processes write."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ulid import ULID

from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_erasure import PostgresEraser
from rs_gateway.adapters.postgres_stats import PostgresStatsReader
from rs_gateway.adapters.postgres_trace_schema import OWN_NUMBER
from rs_gateway.adapters.postgres_traces import QUERIES, PostgresTraceReader, PostgresTraceStore
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.errors import StoreError, TraceNotFoundError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.ports import Erased
from rs_pipelines.lake import Lake
from tests.fakes import eventually
from tests.postgres import Cluster
from tests.trace_files import a_trace, some_feedback

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_traces import PostgresTraceStore
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.traces import Outcome, Trace, Usage

url, name, n_rows, ending = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
store = PostgresTraceStore(PostgresPlace(url), limits=WriterLimits(queue_rows=1_000_000, write_timeout_s=20.0))
for number in range(n_rows):
    store.append(Trace(f"{name}{number}", time.time(), "m", Outcome.COMPLETE, False, 0.1, Usage.unknown()))
    if ending == "killed":
        print(number, time.monotonic(), flush=True)
        time.sleep(0.0002)
if ending == "closed":
    store.close()
    assert store.health().dropped == 0
"""


def start_writer(url: str, name: str, *, n_rows: int, ending: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, url, name, str(n_rows), ending]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@contextmanager
def opened(url: str, **options: Any) -> Generator[PostgresTraceStore]:
    store = PostgresTraceStore(PostgresPlace(url), **options)
    try:
        yield store
    finally:
        store.close()


def reading(url: str) -> closing[PostgresTraceReader]:
    return closing(PostgresTraceReader(PostgresPlace(url)))


def ids(url: str) -> list[str]:
    with reading(url) as reader:
        page = reader.traces(after=0, limit=1_000_000)
    return [str(row[page.columns.index("trace_id")]) for row in page.rows]


def counted(url: str) -> int:
    """Requests in the figures of all time."""
    with closing(PostgresStatsReader(PostgresPlace(url))) as reader:
        return sum(row.figures.requests for row in reader.stats(since_s=None))


def write_by_hand(connection: psycopg.Connection, trace_id: str) -> None:
    """What a gateway's writer does, in a transaction that the caller commits when it likes."""
    connection.execute(
        "INSERT INTO route_switch.traces (seq, trace_id, started_at, request_model, outcome, stream, latency_s, "
        "usage_source, attempts, endpoint) VALUES "
        f"({OWN_NUMBER}, %s, 1.0, 'm', 'complete', 0, 0.1, 'unknown', '[]', 'chat.completions')".encode(),
        (trace_id,),
    )


# The order in which rows are read


def test_a_row_that_commits_late_is_taken_by_the_next_ingest_exactly_once(database: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")

    def taken() -> list[str]:
        with reading(database) as reader:
            lake.ingest(reader)
        return lake.traces(["trace_id"]).collect()["trace_id"].sort().to_list()

    with opened(database) as store:
        assert asyncio.run(store.committed(a_trace("01-first")))
        with psycopg.connect(database) as late:
            write_by_hand(late, "02-late")  # it has its number now
            assert asyncio.run(store.committed(a_trace("03-after")))
            # What came after the open transaction waits with it, and nothing below it is passed over.
            assert taken() == ["01-first"]
            late.commit()
            assert asyncio.run(store.committed(a_trace("04-last")))
        assert taken() == ["01-first", "02-late", "03-after", "04-last"]
        assert taken() == ["01-first", "02-late", "03-after", "04-last"]


def test_a_late_row_that_never_commits_holds_back_nothing_for_ever(database: str) -> None:
    with opened(database) as store:
        with psycopg.connect(database) as late:
            write_by_hand(late, "01-late")
            assert asyncio.run(store.committed(a_trace("02")))
            assert ids(database) == []
            late.rollback()
        assert ids(database) == ["02"]


def test_feedback_is_never_read_before_its_trace(database: str) -> None:
    with opened(database) as store, reading(database) as reader:
        assert asyncio.run(store.committed(a_trace("01A")))
        with psycopg.connect(database) as late:
            write_by_hand(late, "late")
            assert asyncio.run(store.committed(a_trace("01B")))
            asyncio.run(store.add_feedback(some_feedback("01B")))
            asyncio.run(store.add_feedback(some_feedback("01A")))
            assert (len(reader.feedback(after=0, limit=10).rows), ids(database)) == (0, ["01A"])
        assert len(reader.feedback(after=0, limit=10).rows) == 2
        assert ids(database) == ["01A", "late", "01B"]


def test_scores_that_commit_late_reach_the_router(database: str) -> None:
    with opened(database) as store, reading(database) as reader:
        answered = replace(a_trace("01A"), template_id="intent", combination_id="intent@small")
        assert asyncio.run(store.committed(answered))
        with psycopg.connect(database) as late:
            write_by_hand(late, "late")
            asyncio.run(store.add_feedback(Feedback("s1", "01A", FeedbackKind.SCORE, 0.25, "human", 2.0)))
            newest = reader.newest_score(keep=0)
            assert (newest, reader.scores(after=newest, limit=10).rows) == (0, [])
        (row,) = reader.scores(after=newest, limit=10).rows
        assert row[1:] == ("intent", "intent@small", 0.25)
        assert reader.newest_score(keep=0) == row[0]


def test_the_newest_position_never_falls_though_rows_are_deleted(database: str) -> None:
    with opened(database) as store, reading(database) as reader:
        assert reader.newest_positions().traces >= 0
        assert asyncio.run(store.committed(a_trace("01A")))
        before = reader.newest_positions().traces
        assert before >= reader.traces(after=0, limit=1).last_sequence
        with psycopg.connect(database) as connection:
            connection.execute("DELETE FROM route_switch.traces")
        assert reader.newest_positions().traces >= before


def test_a_database_that_was_copied_into_a_younger_cluster_goes_on_numbering_above_its_rows(
    postgres: Cluster, database: str
) -> None:
    with opened(database) as store:
        assert asyncio.run(store.committed(a_trace("01A")))
    with psycopg.connect(database) as connection:
        # As if the rows came from a cluster that had counted a million transactions more.
        for table in ("traces", "feedback"):
            connection.execute(f"UPDATE route_switch.{table} SET seq = seq + 1000000::bigint * 65536".encode())
    with reading(database) as reader:
        assert reader.traces(after=0, limit=10).rows == []  # its own clock is not there yet
        with opened(database) as store:
            assert asyncio.run(store.committed(a_trace("01B")))
            first = reader.traces(after=0, limit=1)
            second = reader.traces(after=first.last_sequence, limit=10)
            assert [row[1] for row in (*first.rows, *second.rows)] == ["01A", "01B"]
            assert asyncio.run(store.committed(a_trace("01C")))
    assert ids(database) == ["01A", "01B", "01C"]


@pytest.mark.parametrize("query", [QUERIES.traces, QUERIES.scores])
def test_a_page_costs_what_its_rows_cost_however_many_there_are(database: str, query: bytes) -> None:
    async def scores(store: PostgresTraceStore) -> None:
        for number in range(0, 3_000, 30):
            await store.add_feedback(Feedback(f"s{number}", f"t{number}", FeedbackKind.SCORE, 0.5, "human", 2.0))

    with opened(database) as store:
        for number in range(3_000):
            store.append(replace(a_trace(f"t{number}"), combination_id="c"))
        asyncio.run(scores(store))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ANALYZE")
        for mode in (b"force_custom_plan", b"force_generic_plan"):
            connection.execute(b"SET plan_cache_mode = " + mode)
            plan = connection.execute(b"EXPLAIN " + query, (0, 50_000), prepare=True).fetchall()
            scanned = [line for (line,) in plan if "Scan" in line]
            assert any("Index" in line for line in scanned)
            assert not any("Seq Scan on trace_payloads" in line for line in scanned)
            assert not any(" on traces" in line and "Index" not in line for line in scanned if query == QUERIES.scores)


# Several processes


def test_a_killed_gateway_loses_at_most_its_last_flush_interval(database: str) -> None:
    with start_writer(database, "t", n_rows=1_000_000, ending="killed") as writer:
        assert writer.stdout is not None
        appended_at: list[float] = []
        for line in writer.stdout:
            appended_at.append(float(line.split()[1]))
            if appended_at[-1] - appended_at[0] > 4.0:
                break
        writer.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
    # The server notices the end of a session by itself; what it was in the middle of is undone then.
    eventually(lambda: len(ids(database)) >= sum(at < killed_at - 2.5 for at in appended_at))
    stored = ids(database)
    assert stored == [f"t{number}" for number in range(len(stored))]
    assert counted(database) == len(stored)


def test_two_processes_write_one_new_store_and_a_reader_sees_each_row_once(database: str) -> None:
    n_rows = 3_000
    seen: list[str] = []
    after = 0
    with (
        reading(database) as reader,
        start_writer(database, "a", n_rows=n_rows, ending="closed") as first,
        start_writer(database, "b", n_rows=n_rows, ending="closed") as second,
    ):
        running = True
        while running:
            running = first.poll() is None or second.poll() is None
            while (page := reader.traces(after=after, limit=100)).rows:
                seen.extend(str(row[1]) for row in page.rows)
                after = page.last_sequence
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(seen) == len(set(seen)) == 2 * n_rows
    assert counted(database) == 2 * n_rows
    for name in ("a", "b"):
        assert [trace for trace in seen if trace.startswith(name)] == [f"{name}{number}" for number in range(n_rows)]


def test_feedback_waits_for_a_trace_that_another_process_has_not_committed_yet(database: str) -> None:
    with (
        opened(database, limits=WriterLimits(flush_interval_s=0.1)) as served_it,
        opened(database, limits=WriterLimits(flush_interval_s=1.0)) as got_feedback,
    ):
        served_it.append(a_trace("01A"))
        asyncio.run(got_feedback.add_feedback(some_feedback("01A")))
    with reading(database) as reader:
        assert len(reader.feedback(after=0, limit=10).rows) == 1


def test_the_same_trace_written_by_two_processes_is_stored_and_counted_once(database: str) -> None:
    with opened(database) as one, opened(database) as other:
        for store in (one, other):
            assert asyncio.run(store.committed(a_trace("01A")))
    assert (ids(database), counted(database)) == (["01A"], 1)


# A server that goes away


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_traces_wait_for_a_server_that_was_stopped_and_are_written_when_it_is_back(
    postgres: Cluster, database: str, mode: Any
) -> None:
    with opened(database) as store:
        assert asyncio.run(store.committed(a_trace("01A")))
        with postgres.stopped(mode):
            store.append(a_trace("01B"))
            eventually(lambda: not store.health().ok)
            assert "cannot" in str(store.health().error)
            for number in range(2, 20):
                store.append(a_trace(f"02-{number:02}"))
            with pytest.raises(StoreError, match="try again later"):
                asyncio.run(store.add_feedback(some_feedback("01A")))
            assert not asyncio.run(store.committed(a_trace("03")))
            health = store.health()
            assert (health.queued, health.dropped) == (20, 0)
        eventually(lambda: store.health().ok and store.health().queued == 0)
        asyncio.run(store.add_feedback(some_feedback("01A")))
    assert ids(database) == ["01A", "01B", *(f"02-{number:02}" for number in range(2, 20)), "03"]
    assert counted(database) == 21


def test_the_queue_is_bounded_while_the_server_is_gone_and_what_finds_no_room_is_counted(
    postgres: Cluster, database: str
) -> None:
    with opened(database, limits=WriterLimits(queue_rows=10)) as store:
        with postgres.stopped():
            started = time.monotonic()
            for number in range(25):
                store.append(a_trace(f"t{number:02}"))
            assert time.monotonic() - started < 5, "appending waits for nothing"
            assert (store.health().queued, store.health().dropped) == (10, 15)
        eventually(lambda: store.health().queued == 0)
    assert ids(database) == [f"t{number:02}" for number in range(10)]


def test_closing_while_the_server_is_gone_gives_up_in_time_and_counts_the_loss(
    postgres: Cluster, database: str
) -> None:
    with opened(database, limits=WriterLimits(close_timeout_s=0.2)) as store, postgres.stopped():
        for number in range(700):
            store.append(a_trace(f"t{number}"))
        started = time.monotonic()
        store.close()
        assert time.monotonic() - started < 10
        health = store.health()
        assert (health.ok, health.queued, health.dropped) == (False, 0, 700)


def test_a_session_that_the_server_ended_costs_no_row(postgres: Cluster, database: str) -> None:
    name = database.rpartition("/")[2]
    with opened(database) as store:
        for number in range(20):
            store.append(a_trace(f"t{number:02}"))
            postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        eventually(lambda: store.health().ok and store.health().queued == 0)
    assert ids(database) == [f"t{number:02}" for number in range(20)]
    assert counted(database) == 20


def test_a_write_that_waits_for_a_lock_is_reported_and_nothing_is_lost(database: str) -> None:
    with opened(database, limits=WriterLimits(write_timeout_s=0.05)) as store:
        with psycopg.connect(database) as other:
            other.execute("LOCK TABLE route_switch.traces")
            store.append(a_trace("01A"))
            eventually(lambda: "held by another session" in str(store.health().error))
        eventually(lambda: store.health().ok and store.health().queued == 0)
    assert ids(database) == ["01A"]


# Rows


def test_a_trace_that_cannot_be_written_does_not_take_its_neighbours_along(database: str) -> None:
    with opened(database) as store:
        store.append(a_trace("01A"))
        store.append(replace(a_trace("01B"), end_user="\ud800"))
        store.append(replace(a_trace("01C"), version=2**80))
        store.append(a_trace("01D", content="\ud800"))
        store.append(replace(a_trace("01E"), started_at=float("inf")))
        assert asyncio.run(store.committed(a_trace("01F")))
        asyncio.run(store.add_feedback(some_feedback("01F")))
        with pytest.raises(TraceNotFoundError):
            asyncio.run(store.add_feedback(some_feedback("01C")))
        health = store.health()
        assert (health.ok, health.queued) == (True, 0)
    stored = ids(database)
    assert health.dropped == 6 - len(stored)
    assert {"01A", "01F"} <= set(stored) <= {"01A", "01E", "01F"}
    assert counted(database) == 2


def test_a_text_with_a_nul_in_it_is_stored_without_it(database: str) -> None:
    with opened(database) as store:
        store.append(replace(a_trace("01A", content="a\0b \\u0000"), end_user="x\0y", key_id="\\u0000"))
    with reading(database) as reader:
        found = reader.trace("01A")
        assert reader.trace("0\0") is None
    assert found is not None
    assert (found["end_user"], found["key_id"]) == ("x\ufffdy", "\\u0000")
    assert found["response"] == r'{"role":"assistant","content":"a\u0000b \\u0000"}'


def test_a_batch_that_is_larger_than_one_statement_is_still_one_commit(database: str) -> None:
    with opened(database, limits=WriterLimits(flush_interval_s=60.0)) as store:
        for number in range(20):
            store.append(a_trace(f"t{number:02}", content="x" * 400_000))
    assert ids(database) == [f"t{number:02}" for number in range(20)]
    with reading(database) as reader:
        numbers = [int(str(row[0])) for row in reader.traces(after=0, limit=100).rows]
    assert numbers == list(range(numbers[0], numbers[0] + 20))


# Forgetting


def test_a_user_is_erased_while_gateways_write(database: str) -> None:
    eraser = PostgresEraser(PostgresPlace(database))
    assert (eraser.of_user("ann"), eraser.erase(["t1"])) == ([], Erased(0, 0)), "there is no store yet"
    with opened(database) as store:
        for number in range(450):
            user = "ann" if number % 2 else "bob"
            store.append(replace(a_trace(f"t{number:03}", content=f"by {user}"), end_user=user))
        for number in (1, 2, 3):
            asyncio.run(store.add_feedback(some_feedback(f"t{number:03}")))
        found = eraser.of_user("ann")
        assert [known.trace_id for known in found][:2] == ["t001", "t003"]
        assert found[0].request_messages == '[{"role":"user","content":"by ann"}]'
        trace_ids = [known.trace_id for known in found]
        assert (len(trace_ids), eraser.n_feedback(trace_ids)) == (225, 2)
        assert eraser.of_ids(["t002", "t999", "t\0"])[0].trace_id == "t002"
        assert eraser.erase(trace_ids) == Erased(225, 2)
        assert eraser.erase(trace_ids) == Erased(0, 0)
        assert asyncio.run(store.committed(a_trace("u")))
    assert ids(database) == [*(f"t{number:03}" for number in range(0, 450, 2)), "u"]
    with psycopg.connect(database) as connection:
        for table in ("traces", "trace_payloads", "feedback"):
            said = connection.execute(
                f"SELECT count(*) FROM route_switch.{table} t WHERE t::text LIKE '%ann%'".encode()
            )
            assert said.fetchone() == (0,)


# Retention

DAY_S = 86_400.0
NOW_S = 1_760_000_000.0


def aged(days: float, number: int = 0) -> Any:
    at_s = NOW_S - days * DAY_S
    return replace(a_trace(str(ULID.from_timestamp(at_s + number / 1000))), started_at=at_s)


def test_each_part_expires_by_its_own_age_and_the_newest_row_stays(database: str) -> None:
    ages = [aged(40), aged(20), aged(5), aged(1)]
    with opened(database) as store:
        for trace in ages:
            store.append(trace)
        for trace in ages:
            given = replace(some_feedback(trace.trace_id), created_at=trace.started_at)
            asyncio.run(store.add_feedback(given))
    kept = Retention(payload_days=10, trace_days=30, feedback_days=0.5)
    with opened(database, retention=kept, clock=lambda: NOW_S), reading(database) as reader:

        def state() -> tuple[int, list[bool], int]:
            page = reader.traces(after=0, limit=10)
            payloads = [row[page.columns.index("response")] is not None for row in page.rows]
            return len(page.rows), payloads, len(reader.feedback(after=0, limit=10).rows)

        eventually(lambda: state() == (3, [False, True, True], 1))
    assert counted(database) == 4


def test_more_than_one_step_of_expired_rows_goes_too(database: str) -> None:
    with opened(database, limits=WriterLimits(queue_rows=10_000)) as store:
        for number in range(1_234):
            store.append(aged(50, number))
        store.append(aged(0))
    with opened(database, retention=Retention(trace_days=30), clock=lambda: NOW_S):
        eventually(lambda: len(ids(database)) == 1)

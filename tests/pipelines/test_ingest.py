"""Ingest: every committed row once, whatever happens to it, and in whichever order a store numbers its rows."""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.ports import ArrowStream, NewestPositions, StoredColumns, StoredRows
from rs_gateway.domain.traces import Outcome, StoreMode, Trace, TracePayload, Usage, UsageSource
from rs_pipelines.ingest import IngestReport
from rs_pipelines.lake import Lake
from rs_pipelines.lake_manifest import LakeCorruptError
from tests.pipelines.lake_faults import Fault, Killed, fails_at
from tests.pipelines.stored_rows import DAY_S, NOON, FakeTraceReader
from tests.trace_files import a_trace, opened

T = TypeVar("T")


def seqs(lake: Lake) -> list[int]:
    return lake.traces(["seq"]).collect()["seq"].sort().to_list()


def feedback_seqs(lake: Lake) -> list[int]:
    return lake.feedback(["seq"]).collect()["seq"].sort().to_list()


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in (".parquet", ".tmp")}


Round = tuple[list[int], int, int, Fault, bool]
rounds_of_faults = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), max_size=6),  # new traces, each with its day
        st.integers(0, 2),  # new feedback
        st.integers(0, 70),  # the step at which it ends, if it gets there
        st.sampled_from(["killed", "disk full"]),
        st.booleans(),  # whether it compacts instead
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40)
@given(rounds=rounds_of_faults, page_rows=st.integers(1, 4))
def test_whatever_ends_an_ingest_or_a_compaction_no_row_is_lost_or_doubled(
    rounds: Sequence[Round], page_rows: int
) -> None:
    reader = FakeTraceReader()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lake"
        for days, n_feedback, step, fault, compacts in rounds:
            for day in days:
                reader.add_trace(started_at=NOON + day * DAY_S)
            for _ in range(n_feedback if reader.trace_rows else 0):
                reader.add_feedback("T000001", "outcome", True)
            opened_before = Lake(root).traces(["seq"])
            seen_before = opened_before.collect()["seq"].sort().to_list()
            lake = Lake(root, before_step=fails_at(step, root=root, fault=fault))
            with suppress(Killed, OSError):
                if compacts:
                    lake.compact()
                else:
                    lake.ingest(reader, page_rows=page_rows)
            seen = seqs(Lake(root))
            assert seen == list(range(1, len(seen) + 1)), "a reader sees a prefix of the store, each row once"
            assert len(seen) >= len(seen_before)
            assert opened_before.collect()["seq"].sort().to_list() == seen_before, "nor is an open lake disturbed"
        lake = Lake(root)
        lake.ingest(reader, page_rows=page_rows)
        assert seqs(lake) == [row["seq"] for row in reader.trace_rows]
        assert feedback_seqs(lake) == [row["seq"] for row in reader.feedback_rows]
        assert files(root) == lake.manifest().known(), "what was begun and not ended is gone"


def test_every_single_step_of_an_ingest_that_merges_may_be_its_last(tmp_path: Path) -> None:
    before, reader = tmp_path / "before", FakeTraceReader()
    for _ in range(7):
        reader.add_feedback(reader.add_trace(), "score", 0.5)
    Lake(before).ingest(reader, page_rows=1)
    reader.add_feedback(reader.add_trace(), "score", 0.5)
    step, ended = 0, False
    while not ended:
        root = tmp_path / str(step)
        shutil.copytree(before, root)
        try:
            Lake(root, before_step=fails_at(step, root=root)).ingest(reader)
            ended = True
        except Killed:
            step += 1
            Lake(root).ingest(reader)
        lake = Lake(root)
        assert seqs(lake) == feedback_seqs(lake) == list(range(1, 9))
        assert len(lake.manifest().counted()) == 2
        assert files(root) == lake.manifest().known()
    assert step > 40


def test_a_process_that_sigkill_ends_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    store = tmp_path / "traces.db"
    script = f"""
from pathlib import Path
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_pipelines.lake import Lake
def before_step(name):
    print(name, flush=True)
lake = Lake(Path({str(tmp_path / "lake")!r}), before_step=before_step)
while True:
    lake.ingest(SqliteTraceReader(Path({str(store)!r})), page_rows=7)
    lake.compact()
"""
    stored = 0
    for lines in (5, 33, 61):
        with opened(store) as written:
            for number in range(stored, stored + 40):
                written.append(replace(a_trace(f"T{number:06d}"), started_at=NOON + number * DAY_S / 10))
        stored += 40
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert process.stdout.readline()
            process.kill()  # wherever it is by now
            process.wait()
            assert process.returncode == -signal.SIGKILL
        seen = seqs(Lake(tmp_path / "lake"))
        assert seen == list(range(1, len(seen) + 1))
    lake = Lake(tmp_path / "lake", lock_timeout_s=1)
    with closing(SqliteTraceReader(store)) as reader:
        lake.ingest(reader)
    assert seqs(lake) == list(range(1, stored + 1))
    assert lake.traces(["trace_id"]).collect()["trace_id"].n_unique() == stored


class LateCommits:
    """A store whose rows get their number before they commit, and a position when they do, as Postgres can give."""

    def __init__(self) -> None:
        self._rows = FakeTraceReader()
        self.committed: list[tuple[int, Mapping[str, object]]] = []

    def commit(self, *sequences: int) -> None:
        """One transaction; all its rows have one position."""
        position = 100 + len(self.committed)
        while len(self._rows.trace_rows) < max(sequences):
            self._rows.add_trace()
        self.committed.extend((position, self._rows.trace_rows[sequence - 1]) for sequence in sequences)

    def traces(self, *, after: int, limit: int) -> StoredRows:
        found = [(position, row) for position, row in self.committed if position > after]
        if len(found) > limit:  # a transaction is never torn
            found = [(position, row) for position, row in found if position <= found[limit - 1][0]]
        columns = tuple(self._rows.traces(after=0, limit=1).columns)
        return StoredRows(
            columns, [tuple(row[c] for c in columns) for _, row in found], found[-1][0] if found else after
        )

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        return self._rows.feedback(after=after, limit=limit)

    def newest_positions(self) -> NewestPositions:
        return NewestPositions(max((position for position, _ in self.committed), default=0), 0)

    def trace(self, trace_id: str) -> Mapping[str, object] | None:
        return self._rows.trace(trace_id)

    def close(self) -> None:
        pass


@settings(max_examples=15)
@given(order=st.permutations(range(1, 9)), ingests=st.sets(st.integers(0, 7)), page_rows=st.integers(1, 5))
def test_rows_that_commit_late_are_not_skipped(order: Sequence[int], ingests: set[int], page_rows: int) -> None:
    reader = LateCommits()
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        for number, sequence in enumerate(order):
            reader.commit(sequence, sequence + 8)
            if number in ingests:
                lake.ingest(reader, page_rows=page_rows)
        lake.ingest(reader, page_rows=page_rows)
        assert seqs(lake) == list(range(1, 17))


def test_a_reader_that_gives_a_row_twice_is_refused(tmp_path: Path) -> None:
    reader, lake = LateCommits(), Lake(tmp_path)
    reader.commit(1, 1)
    with pytest.raises(LakeCorruptError, match="some of them twice"):
        lake.ingest(reader)
    assert seqs(lake) == []


class RowsOnly:
    """A SQLite store without its columns."""

    def __init__(self, reader: SqliteTraceReader) -> None:
        self.traces, self.feedback, self.trace = reader.traces, reader.feedback, reader.trace
        self.newest_positions, self.close = reader.newest_positions, reader.close


class ColumnsOnly:
    """A SQLite store that is never read by rows, but to see whether it is the same one."""

    def __init__(self, reader: SqliteTraceReader) -> None:
        self._reader, self.trace = reader, reader.trace
        self.newest_positions, self.close = reader.newest_positions, reader.close

    def columns(
        self, table: Any, *, after: int, limit: int, load: Callable[[ArrowStream], T]
    ) -> StoredColumns[T] | None:
        found = self._reader.columns(table, after=after, limit=limit, load=load)
        assert found is not None, "the driver is installed and nobody here has the file open"
        return found

    def traces(self, *, after: int, limit: int) -> StoredRows:
        assert limit == 1
        return self._reader.traces(after=after, limit=limit)

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        assert limit == 1
        return self._reader.feedback(after=after, limit=limit)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def stored_traces(draw: st.DrawFn) -> Trace:
    payload = TracePayload(
        request_messages=({"role": "user", "content": draw(texts)},),
        variables={"message": draw(texts)},
        parameters={"temperature": draw(st.integers(0, 1) | st.floats(0, 1))},
        rendered_messages=(),
        response={"role": "assistant", "content": draw(texts)} if draw(st.booleans()) else None,
    )
    return Trace(
        "",
        NOON + draw(st.floats(0, 3 * DAY_S)),
        draw(texts),
        draw(st.sampled_from(list(Outcome))),
        draw(st.booleans()),
        draw(st.floats(0, 9)),
        Usage(draw(st.none() | st.integers(0, 9)), 2, UsageSource.PROVIDER, cached_input_tokens=None),
        template_id=draw(st.none() | texts),
        cost_usd=draw(st.none() | st.floats(0, 1)),
        end_user=draw(st.none() | texts),
        parsed=draw(st.none() | st.booleans()),
        payload=payload,
        store=draw(st.sampled_from([StoreMode.FULL, StoreMode.METRICS])),
    )


@settings(max_examples=10)
@given(traces=st.lists(stored_traces(), min_size=1, max_size=12), page_rows=st.integers(1, 12))
def test_columns_and_rows_of_a_store_make_the_same_lake(traces: Sequence[Trace], page_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.db"
        with opened(path) as store:
            for number, trace in enumerate(traces):
                store.append(replace(trace, trace_id=f"T{number}"))
            said = Feedback("F", "T0", FeedbackKind.COMMENT, traces[0].request_model or "nothing", "human", NOON)
            asyncio.run(store.add_feedback(said))
        by_columns, by_rows = Lake(Path(folder) / "columns"), Lake(Path(folder) / "rows")
        with closing(SqliteTraceReader(path)) as reader:
            by_columns.ingest(ColumnsOnly(reader), page_rows=page_rows)
            by_rows.ingest(RowsOnly(reader), page_rows=page_rows)
        for one, other in (
            (by_columns.traces(), by_rows.traces()),
            (by_columns.feedback(), by_rows.feedback()),
        ):
            expected = other.sort("seq").collect()
            assert expected.height
            assert one.sort("seq").collect().equals(expected)


def test_a_store_that_this_process_writes_to_is_read_by_rows(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path) as store, closing(SqliteTraceReader(path)) as reader:
        assert asyncio.run(store.committed(a_trace("T1")))
        assert reader.columns("traces", after=0, limit=10, load=pl.DataFrame) is None
        assert Lake(tmp_path / "lake").ingest(reader).rows == 1
    assert reader.columns("traces", after=0, limit=10, load=pl.DataFrame) is not None


def test_a_store_with_holes_where_rows_were_deleted_is_read_to_its_end(tmp_path: Path) -> None:
    path, lake = tmp_path / "traces.db", Lake(tmp_path / "lake")
    with opened(path) as store:
        for number in range(30):
            store.append(a_trace(f"T{number}"))
    with closing(SqliteTraceReader(path)) as reader:
        lake.ingest(reader, page_rows=4)
    with opened(path) as store:
        for number in range(30, 60):
            store.append(a_trace(f"T{number}"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM traces WHERE seq BETWEEN 10 AND 50 OR seq = 60")
    with closing(SqliteTraceReader(path)) as reader:
        assert lake.ingest(reader, page_rows=4).rows == 9
        assert lake.ingest(reader, page_rows=4).rows == 0
    assert seqs(lake) == [*range(1, 31), *range(51, 60)]


@pytest.mark.parametrize(
    ("started_at", "day"),
    [
        (3e11, "9999-12-30"),
        (9e12, "9999-12-30"),
        (float("inf"), "9999-12-30"),
        (-1e11, "0001-01-02"),
        (float("-inf"), "0001-01-02"),
    ],
)
@pytest.mark.parametrize("read", ["columns", "rows"])
def test_a_trace_of_no_date_comes_in_at_the_nearest_one(tmp_path: Path, started_at: float, day: str, read: str) -> None:
    with opened(tmp_path / "traces.db") as store:
        for trace_id, at in (("01A", NOON), ("01B", started_at), ("01C", NOON)):
            store.append(replace(a_trace(trace_id), started_at=at))
    lake = Lake(tmp_path / "lake")
    with closing(SqliteTraceReader(tmp_path / "traces.db")) as reader:
        lake.ingest(ColumnsOnly(reader) if read == "columns" else RowsOnly(reader))
    rows = lake.traces(["trace_id", "dt", "started_at"]).collect().sort("trace_id")
    assert rows["trace_id"].to_list() == ["01A", "01B", "01C"]
    assert [str(found) for found in rows["dt"]][1] == day
    lake.compact()
    with closing(lake.duckdb_connection()) as connection:
        connection.execute("SET TimeZone = 'Pacific/Kiritimati'")
        assert len(connection.sql("SELECT started_at FROM traces").fetchall()) == 3


def test_an_ingest_says_how_far_it_has_to_go_and_how_far_it_is(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(5):
        reader.add_trace()
    reader.add_feedback("T000001", "label", "x")
    pages: list[IngestReport] = []
    lake.ingest(reader, page_rows=2, on_page=pages.append)
    assert [(page.rows + page.feedback_rows, page.expected) for page in pages] == [(1, 6), (3, 6), (5, 6), (6, 6)]
    reader.add_trace()
    assert lake.ingest(reader).expected == 1


def test_an_ingest_ends_where_the_store_was_when_it_began(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(3):
        reader.add_trace()

    def write_on(_: IngestReport) -> None:
        reader.add_trace()

    report = lake.ingest(reader, page_rows=1, on_page=write_on)
    assert report.rows == 3
    assert len(reader.trace_rows) == 6


def test_large_rows_come_in_smaller_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rs_pipelines.ingest.PAGE_BYTES", 100_000)
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(50):
        reader.add_trace(text="x" * 10_000)
    lake.ingest(reader, page_rows=5)
    for _ in range(50):
        reader.add_trace(text="x" * 30_000)
    pages: list[int] = []
    lake.ingest(reader, page_rows=50, on_page=lambda page: pages.append(page.rows))
    assert pages[0] == 9, "as many as the last ones made"
    assert {after - before for before, after in pairwise(pages)} == {3, 2}
    assert seqs(lake) == list(range(1, 101))


def test_a_store_whose_gateway_was_killed_is_read_as_columns_too(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    script = f"""
import asyncio, os
from pathlib import Path
from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from tests.trace_files import a_trace
store = SqliteTraceStore(Path({str(path)!r}))
for number in range(20):
    store.append(a_trace(f"T{{number}}"))
asyncio.run(store.committed(a_trace("T20")))
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert path.with_name("traces.db-wal").stat().st_size
    with closing(SqliteTraceReader(path)) as reader:
        assert Lake(tmp_path / "lake").ingest(ColumnsOnly(reader)).rows == 21

"""What the pipelines keep no longer: days of the lake and cached answers."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rs_pipelines.answers import AnswerCache, ModelAnswer
from rs_pipelines.lake_manifest import Manifest, Part, TableState
from rs_pipelines.retention import Expired, expire, parts_due
from rs_pipelines.workbench import Workbench
from tests.pipelines.stored_rows import DAY_S, NOON, FakeTraceReader
from tests.running import write_configuration

TODAY = date(2025, 3, 20)


def bench_with(folder: Path, retention: Mapping[str, Any]) -> Workbench:
    return Workbench.at(write_configuration(folder, {"privacy": {"retention": dict(retention)}}))


def days_in(bench: Workbench) -> list[date]:
    return sorted(set(bench.lake.traces(["dt"]).collect()["dt"]))


def ten_days(bench: Workbench) -> None:
    reader = FakeTraceReader()
    for day in range(10):
        trace_id = reader.add_trace(started_at=NOON + day * DAY_S, text="x" * 1_000)
        reader.add_feedback(trace_id, "label", "x", created_at=NOON + day * DAY_S)
    bench.lake.ingest(reader)


def a_part(days: int, size: int, number: int) -> Part:
    return Part(f"{days}-{number}", TODAY - timedelta(days=days), 1, 1, 1, size, size)


parts = st.builds(a_part, st.integers(0, 30), st.integers(1, 100), st.integers(0, 10**6))


@given(
    st.lists(parts, max_size=20),
    st.lists(parts, max_size=10),
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 900),
)
def test_the_oldest_days_go_until_age_and_size_are_kept_and_today_always_stays(
    traces: list[Part], feedback: list[Part], max_days: int | None, max_bytes: int | None
) -> None:
    manifest = Manifest(traces=TableState(parts=tuple(traces)), feedback=TableState(parts=tuple(feedback)))
    due = parts_due(manifest, today=TODAY, max_days=max_days, max_bytes=max_bytes)
    kept = [part for part in (*traces, *feedback) if part not in due]
    assert all(part.day < TODAY for part in due)
    assert not due or max_days is not None or max_bytes is not None
    if max_days is not None:
        assert all((TODAY - part.day).days <= max_days for part in kept)
    if max_bytes is not None:
        assert sum(part.bytes for part in kept) <= max_bytes or {part.day for part in kept} == {TODAY}
    if due and kept:
        assert max(part.day for part in due) < min(part.day for part in kept)


def test_days_that_are_over_leave_the_lake_and_no_byte_of_them_stays(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, {"lake_days": 3})
    ten_days(bench)
    first = datetime.fromtimestamp(NOON, UTC)
    assert expire(bench, now=first + timedelta(days=9)) == Expired(lake_days=6, lake_rows=12)
    assert days_in(bench) == [first.date() + timedelta(days=day) for day in range(6, 10)]
    assert bench.lake.feedback().collect().height == 4
    assert len(list((bench.data / "lake").rglob("*.parquet"))) == 8
    assert expire(bench, now=first + timedelta(days=9)) == Expired()


def test_a_lake_that_is_too_large_loses_its_oldest_days(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, {"lake_gb": 1e-12})
    ten_days(bench)
    first = datetime.fromtimestamp(NOON, UTC)
    assert expire(bench, now=first + timedelta(days=9)).lake_days == 9
    assert days_in(bench) == [first.date() + timedelta(days=9)]


def test_without_retention_nothing_is_touched(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, {})
    ten_days(bench)
    before = bench.lake.manifest()
    assert expire(bench, now=datetime(2050, 1, 1, tzinfo=UTC)) == Expired()
    assert bench.lake.manifest() == before


def test_cached_answers_expire_by_age_and_by_size_the_oldest_first(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, {"cache_days": 30, "cache_gb": 0.0005})
    path = bench.data / "cache" / "answers.db"
    now = datetime(2026, 1, 31, tzinfo=UTC)
    with closing(AnswerCache(path)) as cache:
        for number in range(1_000):
            cache.put(f"{number:04d}", ModelAnswer("x" * 1_000, "stop", 1, 1), account="study")
    with closing(sqlite3.connect(path)) as connection:
        # Number n was paid for n hours before now.
        connection.execute("UPDATE answers SET stored_at = ? - 3600 * CAST(key AS INTEGER)", (now.timestamp(),))
        connection.commit()
    removed = expire(bench, now=now).answers
    with closing(sqlite3.connect(path)) as connection:
        kept = [int(key) for (key,) in connection.execute("SELECT key FROM answers ORDER BY key")]
        calls = connection.execute("SELECT count(*) FROM spending").fetchone()
    assert removed == 1_000 - len(kept)
    assert kept == list(range(len(kept))), "the newest stay"
    assert 0 < len(kept) <= 500
    assert path.stat().st_size < 1_000_000
    assert calls == (0,)

"""The lake: every committed row once, whatever happens to an ingest; readable by anyone, at any moment."""

import asyncio
import json
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore
from rs_gateway.domain.errors import SchemaTooNewError, StoreError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.traces import Outcome, Trace, TracePayload, Usage
from rs_pipelines.ingest import IngestReport
from rs_pipelines.lake import NEWEST_FEEDBACK_SCHEMA, Lake
from rs_pipelines.lake_files import LakeBusyError
from rs_pipelines.lake_manifest import SCHEMA_VERSION, LakeCorruptError
from rs_pipelines.lake_schema import FEEDBACK_SCHEMA, TRACE_SCHEMA
from tests.pipelines.stored_rows import NOON, FakeTraceReader


def ids(lake: Lake) -> list[str]:
    return lake.traces(["trace_id"]).collect()["trace_id"].sort().to_list()


def parquet_files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in (".parquet", ".tmp")}


def counted_files(lake: Lake) -> set[str]:
    manifest = lake.manifest()
    return set(manifest.counted())


def test_a_second_ingest_brings_only_what_is_new(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(5):
        reader.add_trace()
    reader.add_feedback("T000001", "label", "x")
    pages: list[IngestReport] = []
    first = lake.ingest(reader, page_rows=2, on_page=pages.append)
    assert (first.rows, first.feedback_rows, first.files, first.last_sequence) == (5, 1, 4, 5)
    assert [page.rows for page in pages] == [0, 2, 4, 5]
    reader.add_trace()
    second = lake.ingest(reader)
    assert (second.rows, second.feedback_rows, second.files, second.last_sequence) == (1, 0, 1, 6)
    third = lake.ingest(reader)
    assert (third.rows, third.files, third.last_sequence) == (0, 0, 6)


def test_traces_lie_in_their_utc_day_sorted_by_template(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    last_second = datetime(2025, 3, 1, 23, 59, 59, tzinfo=UTC).timestamp()
    for template, offset in (("b", 0.0), ("a", 0.5), (None, 0.75), ("a", 1.0)):
        reader.add_trace(template_id=template, started_at=last_second + offset)
    lake.ingest(reader)
    assert {path.split("/")[1] for path in counted_files(lake)} == {"dt=2025-03-01", "dt=2025-03-02"}
    rows = lake.traces(["template_id", "dt", "started_at"]).collect().rows()
    assert [row[:2] for row in rows] == [
        (None, date(2025, 3, 1)),
        ("a", date(2025, 3, 1)),
        ("b", date(2025, 3, 1)),
        ("a", date(2025, 3, 2)),
    ]
    assert rows[1][2] == datetime(2025, 3, 1, 23, 59, 59, 500_000, tzinfo=UTC)


def test_an_empty_lake_has_all_columns(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "not there yet")
    assert lake.traces().collect_schema() == TRACE_SCHEMA
    assert lake.feedback().collect_schema() == FEEDBACK_SCHEMA
    connection = lake.duckdb_connection()
    for view, schema in (("traces", TRACE_SCHEMA), ("feedback", FEEDBACK_SCHEMA)):
        assert [row[0] for row in connection.execute(f"DESCRIBE {view}").fetchall()] == list(schema)
        assert connection.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]


def test_columns_have_the_same_types_in_an_empty_and_in_a_full_lake(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    empty = lake.duckdb_connection().execute("SELECT column_name, column_type FROM (DESCRIBE traces)").fetchall()
    reader.add_trace(cost_usd=None, version=None, stream=1)  # columns of nulls would be guessed wrong
    reader.add_trace(cost_usd=0.5, version=3, stream=0)
    lake.ingest(reader, page_rows=1)
    assert lake.traces().collect().schema == TRACE_SCHEMA
    connection = lake.duckdb_connection()
    assert connection.execute("SELECT column_name, column_type FROM (DESCRIBE traces)").fetchall() == empty
    query = "SELECT cost_usd, version, stream, dt FROM traces ORDER BY seq"
    assert connection.execute(query).fetchall() == [
        (None, None, True, date(2025, 3, 1)),
        (0.5, 3, False, date(2025, 3, 1)),
    ]


def test_a_lake_works_in_a_folder_with_an_awkward_name(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path / "it's [a] dt=7 *? folder")
    reader.add_trace()
    lake.ingest(reader)
    assert ids(lake) == ["T000001"]
    assert lake.duckdb_connection().execute("SELECT trace_id FROM traces").fetchall() == [("T000001",)]


def test_a_second_ingest_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".ingest.lock"), pytest.raises(LakeBusyError, match="Another ingest"):
        Lake(tmp_path, lock_timeout_s=0.01).ingest(FakeTraceReader())


def test_readers_are_never_in_the_way_of_an_ingest(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    reader.add_trace()
    lake.ingest(reader)
    connection, frame = lake.duckdb_connection(), lake.traces()
    reader.add_trace()
    lake.ingest(reader)
    assert connection.execute("SELECT count(*) FROM traces").fetchall() == [(1,)]
    assert frame.collect().height == 1
    assert ids(lake) == ["T000001", "T000002"]


def test_a_file_in_the_place_of_the_lake_is_named(tmp_path: Path) -> None:
    (tmp_path / "lake").touch()
    with pytest.raises(StoreError, match=r"/lake is no folder: move it away"):
        Lake(tmp_path / "lake").manifest()


def test_a_lost_manifest_is_refused_rather_than_taken_for_an_empty_lake(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    reader.add_trace()
    lake.ingest(reader)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(LakeCorruptError, match="no manifest"):
        lake.ingest(reader)
    assert len(parquet_files(tmp_path)) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1, "traces": {"cursor": "x"}}'])
def test_a_damaged_manifest_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(LakeCorruptError, match=r"manifest\.json cannot be read"):
        Lake(tmp_path).traces()


def test_a_lake_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 99, "tables": "moved"}))
    with pytest.raises(SchemaTooNewError, match="99"):
        Lake(tmp_path).ingest(FakeTraceReader())


def test_another_trace_store_in_the_old_ones_place_is_refused(tmp_path: Path) -> None:
    old, new, lake = FakeTraceReader(), FakeTraceReader(), Lake(tmp_path)
    for n in range(3):
        old.add_trace()
        new.add_trace(trace_id=f"N{n}")
    lake.ingest(old)
    with pytest.raises(LakeCorruptError, match="N2"):
        lake.ingest(new)


def test_a_trace_store_that_lost_its_last_rows_and_numbers_anew_is_refused(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(3):
        reader.add_trace()
    lake.ingest(reader)
    reader.trace_rows.pop()
    reader.add_trace(trace_id="after the power cut")
    with pytest.raises(LakeCorruptError, match="after the power cut"):
        lake.ingest(reader)


@pytest.mark.parametrize("left", [2, 0])
def test_a_trace_store_restored_from_an_older_backup_is_refused(tmp_path: Path, left: int) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(3):
        reader.add_trace()
    lake.ingest(reader)
    del reader.trace_rows[left:]
    with pytest.raises(
        LakeCorruptError, match=rf"come to row {left} of traces .* to row 3: .*move the lake folder away"
    ):
        lake.ingest(reader)
    assert len(ids(lake)) == 3


def test_a_store_whose_retention_took_the_row_at_the_cursor_is_read_on(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(3):
        reader.add_trace()
    lake.ingest(reader)
    reader.add_trace(trace_id="new")
    del reader.trace_rows[:3]
    assert lake.ingest(reader).rows == 1
    assert len(ids(lake)) == 4


def test_a_trace_store_restored_without_its_last_feedback_is_refused(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    reader.add_feedback(reader.add_trace(), "label", "x")
    lake.ingest(reader)
    reader.feedback_rows.clear()
    with pytest.raises(LakeCorruptError, match="come to row 0 of feedback"):
        lake.ingest(reader)


def test_a_trace_store_that_is_not_there_is_empty_at_first_and_refused_later(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path / "lake")
    absent = SqliteTraceReader(tmp_path / "traces.db")
    assert lake.ingest(absent).rows == 0
    reader.add_trace()
    lake.ingest(reader)
    with pytest.raises(LakeCorruptError, match="replaced, or restored"):
        lake.ingest(absent)


def test_rows_that_expired_in_the_trace_store_stay_in_the_lake(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    for _ in range(4):
        reader.add_trace()
    lake.ingest(reader)
    reader.add_trace()
    del reader.trace_rows[:2]
    assert lake.ingest(reader).rows == 1
    assert len(ids(lake)) == 5


def test_a_value_of_the_wrong_type_is_refused_with_its_column(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    reader.add_trace()
    reader.add_trace(input_tokens="many")
    with pytest.raises(LakeCorruptError, match="'input_tokens'"):
        lake.ingest(reader)
    assert ids(lake) == []


def test_what_the_gateway_stored_arrives_in_the_lake(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    payload = TracePayload(
        request_messages=({"role": "user", "content": "grüße 👋"},),
        variables={"message": "hi"},
        parameters={"temperature": 0},
        rendered_messages=({"role": "system", "content": "s"},),
        response={"role": "assistant", "content": "ok"},
    )
    trace = Trace("01J", NOON, "m", Outcome.COMPLETE, stream=True, latency_s=1, usage=Usage.unknown(), payload=payload)

    async def serve() -> None:
        store = SqliteTraceStore(path)
        try:
            assert await store.committed(trace)
            await store.add_feedback(Feedback("F1", "01J", FeedbackKind.LABEL, "right", "human", NOON + 1))
        finally:
            store.close()

    asyncio.run(serve())
    reader, lake = SqliteTraceReader(path), Lake(tmp_path / "lake")
    try:
        assert lake.ingest(reader).rows == 1
    finally:
        reader.close()
    [row] = lake.traces().collect().iter_rows(named=True)
    assert (row["trace_id"], row["stream"], row["usage_source"]) == ("01J", True, "unknown")
    assert json.loads(row["request_messages"]) == list(payload.request_messages)
    assert json.loads(row["response"]) == payload.response
    [said] = lake.feedback().collect().iter_rows(named=True)
    assert (said["trace_id"], said["kind"], json.loads(said["value"])) == ("01J", "label", "right")


def test_a_column_can_be_read_alone(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    reader.add_trace()
    lake.ingest(reader)
    assert lake.traces(["model", "outcome"]).collect().rows() == [("small", "complete")]
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        lake.traces(["no_such_column"]).collect()


def test_feedback_that_comes_later_changes_what_is_said_of_a_trace_and_no_part_of_the_traces(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    first, second = reader.add_trace(), reader.add_trace()
    reader.add_trace()
    reader.add_feedback(first, "score", 0.25)
    reader.add_feedback(first, "label", "wr\u00f6ng\n")
    reader.add_feedback(second, "outcome", True)
    lake.ingest(reader)
    parts = lake.manifest().traces.parts
    reader.add_feedback(first, "label", "right")
    reader.add_feedback(first, "score", 1, source="judge")
    reader.add_feedback(second, "outcome", False)
    reader.add_feedback(second, "comment", "I see", created_at=NOON + 99)
    reader.add_feedback(first, "score", 0.5, created_at=NOON - 1)
    lake.ingest(reader)
    said = lake.newest_feedback().sort("trace_id").collect()
    assert said.schema == NEWEST_FEEDBACK_SCHEMA
    assert said.drop("said_at").rows() == [
        (first, "right", 1.0, None, None),
        (second, None, None, False, "I see"),
    ]
    assert lake.manifest().traces.parts == parts
    connection = lake.duckdb_connection()
    assert connection.execute("SELECT * FROM newest_feedback ORDER BY trace_id").fetchall() == said.rows()
    joined = "SELECT count(*), count(label) FROM traces LEFT JOIN newest_feedback USING (trace_id)"
    assert connection.execute(joined).fetchall() == [(3, 1)]


def test_nothing_said_is_an_empty_table(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.newest_feedback().collect().schema == NEWEST_FEEDBACK_SCHEMA
    assert lake.duckdb_connection().execute("SELECT * FROM newest_feedback").fetchall() == []


def test_a_lake_of_schema_1_is_read_filled_and_compacted(tmp_path: Path) -> None:
    reader, lake = FakeTraceReader(), Lake(tmp_path)
    later = ("endpoint", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens", "parsed")
    for _ in range(3):
        reader.add_feedback(reader.add_trace(), "score", 0.5)
    lake.ingest(reader)
    old: dict[str, object] = {"schema_version": 1}
    for name, state in (("traces", lake.manifest().traces), ("feedback", lake.manifest().feedback)):
        (part,) = state.parts
        path = tmp_path / part.path
        renamed = path.with_name("000000000001-000000000003.parquet")
        pl.read_parquet(path, hive_partitioning=False).drop(later, strict=False).write_parquet(renamed)
        path.unlink()
        files = [{"path": f"{name}/{renamed.parent.name}/{renamed.name}", "rows": 3, "first_sequence": 1}]
        old[name] = {"cursor": 3, "files": [file | {"last_sequence": 3} for file in files]}
    (tmp_path / "manifest.json").write_text(json.dumps(old))

    assert ids(lake) == ["T000001", "T000002", "T000003"]
    reader.add_trace(endpoint="messages")
    assert lake.ingest(reader).rows == 1
    for _ in range(2):
        endpoints = "SELECT endpoint FROM traces ORDER BY seq"
        assert lake.duckdb_connection().execute(endpoints).fetchall() == [(None,), (None,), (None,), ("messages",)]
        assert lake.traces(["endpoint"]).collect()["endpoint"].drop_nulls().to_list() == ["messages"]
        lake.compact()
    assert json.loads((tmp_path / "manifest.json").read_text())["schema_version"] == SCHEMA_VERSION
    assert lake.ingest(reader).rows == 0

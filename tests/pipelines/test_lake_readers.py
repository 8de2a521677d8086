"""Whoever has the lake open reads on after an erasure or a compaction, and sees a row neither twice nor by half."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pytest

from rs_gateway.settings import Settings
from rs_pipelines import steps
from rs_pipelines.analysis.data_directory import need_traces
from rs_pipelines.analysis.lineage import traces_behind
from rs_pipelines.analysis.traffic import figures, scored_traces
from rs_pipelines.lake import Lake
from rs_pipelines.lake_manifest import LakeCorruptError
from rs_pipelines.lake_schema import TABLES, TRACES
from rs_pipelines.workbench import Workbench
from tests.pipelines.stored_rows import DAY_S, NOON, FakeTraceReader

ROOT = Path(__file__).parents[2]
LEFT_OPEN = """
import sys
from pathlib import Path
from rs_pipelines.lake import Lake

connection = Lake(Path(sys.argv[1])).duckdb_connection()
print(connection.sql("SELECT count(*) AS n FROM traces").fetchall())
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six traces with a score each, on three days, of users a and b by turns."""
    return filled(Lake(tmp_path / "lake"))


def filled(lake: Lake) -> Lake:
    reader = FakeTraceReader()
    for number in range(6):
        trace_id = reader.add_trace(started_at=NOON + number % 3 * DAY_S, end_user="ab"[number % 2])
        reader.add_feedback(trace_id, "score", number / 10)
    lake.ingest(reader)
    return lake


def erase(lake: Lake, *users: str) -> None:
    """As `forget` does: parts are rewritten, and nothing of the old ones stays."""
    gone = pl.col("end_user").is_in(users)
    with lake.edit() as edit:
        for part in edit.manifest.traces.parts:
            edit.replace(TRACES, remove=[part], add=edit.write(TRACES, edit.read(TRACES, part).filter(~gone)))
        edit.purge()


COUNT = "SELECT count(*), count(DISTINCT trace_id) FROM traces"


def test_a_duckdb_connection_reads_on_after_an_erasure(lake: Lake) -> None:
    connection = lake.duckdb_connection()
    connection.execute("CREATE VIEW mine AS SELECT end_user FROM traces")
    relation = connection.sql("SELECT * FROM traces")
    derived = relation.filter("end_user = 'a'")
    assert connection.execute(COUNT).fetchall() == [(6, 6)]
    erase(lake, "b")
    assert connection.execute(COUNT).fetchall() == [(3, 3)]
    assert len(relation.fetchall()) == len(derived.fetchall()) == 3
    assert connection.sql("SELECT DISTINCT end_user FROM mine").fetchall() == [("a",)]
    assert "3" in str(connection.sql("SELECT count(*) FROM traces"))
    assert connection.cursor().execute(COUNT).fetchall() == [(3, 3)]
    joined = "SELECT count(score) FROM traces LEFT JOIN newest_feedback USING (trace_id)"
    assert connection.execute(joined).fetchall() == [(3,)]


def test_a_duckdb_connection_reads_on_where_nothing_is_left_of_a_table(lake: Lake) -> None:
    connection = lake.duckdb_connection()
    columns = connection.execute("DESCRIBE traces").fetchall()
    erase(lake, "a", "b")
    assert connection.execute(COUNT).fetchall() == [(0, 0)]
    assert connection.execute("DESCRIBE traces").fetchall() == columns
    assert connection.execute("SELECT count(*) FROM feedback").fetchall() == [(6,)]


def test_a_duckdb_query_names_a_part_that_is_missing(lake: Lake, tmp_path: Path) -> None:
    connection = lake.duckdb_connection()
    part = lake.manifest().traces.parts[1].path
    (tmp_path / "lake" / part).unlink()
    with pytest.raises(duckdb.Error, match=f"{part} first: restore them from a backup"):
        connection.execute(COUNT)
    with pytest.raises(LakeCorruptError, match=part):
        lake.settled(lambda: connection.execute(COUNT).fetchall())


def test_a_damaged_part_is_named_to_whoever_reads_with_duckdb(lake: Lake, tmp_path: Path) -> None:
    connection = lake.duckdb_connection()
    path = tmp_path / "lake" / lake.manifest().traces.parts[1].path
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(LakeCorruptError, match=f"{path.name} is damaged .* ingest again"):
        lake.settled(lambda: connection.execute("SELECT max(latency_s) FROM traces").fetchall())


def test_a_mistake_in_a_query_stays_duckdbs_own_error(lake: Lake) -> None:
    connection = lake.duckdb_connection()
    with pytest.raises(duckdb.Error, match="no_such_column"):
        lake.settled(lambda: connection.execute("SELECT no_such_column FROM traces").fetchall())


def test_a_query_whose_files_are_removed_while_it_runs_begins_again(lake: Lake) -> None:
    connection, tries = lake.duckdb_connection(), list[int]()

    def read() -> list[tuple[int, int]]:
        running = connection.execute("SELECT seq, latency_s FROM traces ORDER BY seq")
        tries.append(1)
        if len(tries) == 1:
            erase(lake, "b")
            # What a query says that had not come to this file yet.
            raise duckdb.IOException('IO Error: Cannot open file "x.parquet": No such file or directory')
        return running.fetchall()

    assert [seq for seq, _ in lake.settled(read)] == [1, 3, 5]
    assert len(tries) == 2


def test_a_process_that_leaves_its_connection_open_ends_quietly(lake: Lake, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, str(tmp_path / "lake")], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[(6,)]", "")


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_notebooks_traces_can_be_used_after_an_erasure(lake: Lake, engine: str) -> None:
    traces = scored_traces(lake)
    busy = traces.filter(pl.col("score") > 0.15).select("trace_id", "score")
    assert traces.collect(engine=engine).height == 6  # pyright: ignore[reportArgumentType]
    assert busy.collect(engine=engine)["score"].sort().to_list() == [0.2, 0.3, 0.4, 0.5]  # pyright: ignore[reportArgumentType]
    erase(lake, "b")
    assert busy.collect(engine=engine)["score"].sort().to_list() == [0.2, 0.4]  # pyright: ignore[reportArgumentType]
    assert figures(traces, by=["model"])["requests"].to_list() == [3]
    assert traces.head(2).collect(engine=engine).height == 2  # pyright: ignore[reportArgumentType]


def test_a_notebooks_traces_are_of_the_moment_at_which_it_opened_the_lake(tmp_path: Path) -> None:
    lake, reader = Lake(tmp_path), FakeTraceReader()
    reader.add_trace()
    lake.ingest(reader)
    traces = scored_traces(lake)
    reader.add_trace()
    lake.ingest(reader)
    assert figures(traces, by=["model"])["requests"].to_list() == [1]
    assert figures(scored_traces(lake), by=["model"])["requests"].to_list() == [2]


def test_a_notebook_is_told_which_part_is_damaged(lake: Lake, tmp_path: Path) -> None:
    traces = scored_traces(lake)
    path = tmp_path / "lake" / lake.manifest().traces.parts[1].path
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(LakeCorruptError, match=f"{path.name} is damaged .* ingest again"):
        figures(traces, by=["model"])


def erased_in_between(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next scan of the traces finds its files removed when it is collected."""
    scan: Callable[..., pl.LazyFrame] = lake.traces

    def scan_and_erase(*arguments: object) -> pl.LazyFrame:
        frame = scan(*arguments)
        monkeypatch.undo()
        erase(lake, "b")
        return frame

    monkeypatch.setattr(lake, "traces", scan_and_erase)


def test_the_traces_behind_a_version_are_found_during_an_erasure(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = lake.traces(["trace_id"]).collect()["trace_id"]
    examples = pl.DataFrame({"trace_id": ids}).with_columns(use=pl.lit("train"), expected=pl.lit("x"))
    erased_in_between(lake, monkeypatch)
    assert traces_behind(lake, examples).height == 3


def test_the_figures_are_made_during_an_erasure(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    erased_in_between(lake, monkeypatch)
    assert figures(scored_traces(lake), by=["model"])["requests"].to_list() == [3]


def test_rows_are_counted_without_a_file_being_opened(tmp_path: Path) -> None:
    bench = Workbench(Settings(data_dir=tmp_path))
    filled(bench.lake)
    for table in TABLES:
        for part in bench.lake.manifest().table(table.name).parts:
            (tmp_path / "lake" / part.path).unlink()
    assert steps.lake_rows(bench) == (6, 6)
    assert need_traces(bench) is bench.lake

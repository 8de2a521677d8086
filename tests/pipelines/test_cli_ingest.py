"""`route-switch ingest`."""

import json
from pathlib import Path

import polars as pl
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from rs_gateway.domain.errors import RouteSwitchError
from rs_pipelines.cli_ingest import ingest
from rs_pipelines.progress import RunProgress
from rs_pipelines.step_events import Ingesting
from tests.trace_files import a_trace, opened

app = typer.Typer()
app.command()(ingest)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "route-switch.yaml").write_text("data_dir: data\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def serve(folder: Path, *trace_ids: str) -> None:
    with opened(folder / "data/traces.db") as store:
        for trace_id in trace_ids:
            store.append(a_trace(trace_id))


def ok(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "250"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_ingest_says_what_it_brought(folder: Path) -> None:
    serve(folder, "A", "B")
    assert "2 new traces, 0 new feedback rows in 1 file," in ok().stderr
    assert "0 new traces" in ok().stderr


def test_the_tables_that_analysts_read_are_there_after_every_ingest(folder: Path) -> None:
    tables = [folder / "data/daily_figures.parquet", folder / "data/live_scores.parquet"]
    serve(folder, "A", "B")
    ok()
    assert pl.read_parquet(tables[0])["requests"].sum() == 2
    assert pl.read_parquet(tables[1]).height == 0
    for table in tables:
        table.unlink()
    ok()
    assert all(table.exists() for table in tables)
    serve(folder, "C")
    ok()
    assert pl.read_parquet(tables[0])["requests"].sum() == 3


def test_scripts_get_json_alone_on_stdout(folder: Path) -> None:
    serve(folder, "A")
    found = json.loads(ok("--json").stdout)
    assert {"rows": 1, "feedback_rows": 0, "files": 1}.items() <= found.items()
    assert found["seconds"] >= 0
    serve(folder, "B")
    found = json.loads(ok("--json", "--compact").stdout)
    assert {"rows": 1, "files": 1, "files_merged": 2, "files_after": 1}.items() <= found.items()


def test_compact_says_how_many_files_became_how_many(folder: Path) -> None:
    for name in "ABC":
        serve(folder, name)
        ok()
    assert "3 small files merged into 1; the lake has 1 file" in ok("--compact").stderr
    assert "0 small files merged into 0; the lake has 1 file" in ok("--compact").stderr


def test_help_has_an_example() -> None:
    assert "route-switch ingest --compact --json" in ok("--help").stdout


def test_a_lake_that_was_not_filled_from_this_store_is_refused_with_the_remedy(folder: Path) -> None:
    serve(folder, "A", "B")
    ok()
    (folder / "data/traces.db").unlink()
    serve(folder, "C")
    result = CliRunner().invoke(app, [])
    assert isinstance(result.exception, RouteSwitchError)
    assert "move the lake folder away" in str(result.exception)


def test_a_long_ingest_says_how_far_it_is_where_no_bar_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(Console(width=100)) as progress:
        for done in range(0, 1_000_000, 25_000):
            progress(Ingesting(done, 1_000_000))
        progress(Ingesting(100, 100))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "ingest: 100,000 of about 1,000,000 rows"
    assert len(lines) == 9

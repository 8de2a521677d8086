"""Packages on their way: between stores of two kinds, watched, and broken off."""

import io
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from rs_gateway import progress_bar
from rs_gateway.domain.stats import StatsRow
from rs_gateway.wiring import open_stats_reader, open_template_figures
from rs_pipelines.packages.content import opened_package
from rs_pipelines.packages.export import export_package
from rs_pipelines.packages.importing import FiguresExistError, ImportOptions, import_package
from rs_pipelines.workbench import Workbench
from tests.commands import from_json, invoke, ok
from tests.pipelines.packaged import EVERYTHING, NOW, bench_in, export, full_bench

WITH_FIGURES = ImportOptions(restore_analytics=True)


def figures(bench: Workbench) -> list[StatsRow]:
    with closing(open_template_figures(bench.settings)) as store:
        return store.read("parcels")


def requests(bench: Workbench) -> int:
    with closing(open_stats_reader(bench.settings)) as reader:
        return sum(row.figures.requests for row in reader.stats(since_s=None, template_id="parcels"))


def test_live_figures_move_between_sqlite_and_postgres_in_both_directions(tmp_path: Path, database: str) -> None:
    bench, postgres = full_bench(tmp_path / "a"), bench_in(tmp_path / "b", stores={"traces": database})
    export(bench, tmp_path / "p")
    done = import_package(postgres, tmp_path / "p", WITH_FIGURES)
    assert done.figures == len(figures(bench)) > 0
    assert figures(postgres) == figures(bench)
    assert requests(postgres) == requests(bench) == 10
    export(postgres, tmp_path / "q")
    sqlite = bench_in(tmp_path / "c")
    import_package(sqlite, tmp_path / "q", WITH_FIGURES)
    assert figures(sqlite) == figures(bench)
    shutil.rmtree(postgres.data / "prompts")
    with pytest.raises(FiguresExistError, match="--restore-analytics"):
        import_package(postgres, tmp_path / "p", WITH_FIGURES)
    import_package(postgres, tmp_path / "p", ImportOptions(overwrite=True, restore_analytics=True))
    assert requests(postgres) == 10


def test_an_import_that_fails_leaves_the_figures_in_postgres_as_they_were(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, postgres = full_bench(tmp_path / "a"), bench_in(tmp_path / "b", stores={"traces": database})
    export(bench, tmp_path / "p")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(postgres.registry), "add_drafts", fail)
    with pytest.raises(Exception, match="No space left"):
        import_package(postgres, tmp_path / "p", WITH_FIGURES)
    assert figures(postgres) == []


def seen(run: Callable[[Callable[[str, int, int | None], None]], object]) -> list[str]:
    """The steps that work in a package tells of, each once."""
    steps: dict[str, None] = {}

    def watch(step: str, done: int, total: int | None) -> None:
        assert done >= 0
        assert total is None or done <= total
        steps[step] = None

    run(watch)
    return list(steps)


def stopping_at(step: str) -> Callable[[str, int, int | None], None]:
    """Ctrl-C in that step; while it packs, when nearly all is written."""

    def watch(name: str, done: int, total: int | None) -> None:
        if name == step and (name != "packing" or done == total):
            raise KeyboardInterrupt

    return watch


def files(folder: Path) -> set[Path]:
    return {p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock")}


@pytest.mark.parametrize("name", ["p", "p.tar.zst"])
def test_an_export_that_is_stopped_at_any_step_leaves_nothing(tmp_path: Path, name: str) -> None:
    bench = full_bench(tmp_path / "here")
    place = tmp_path / "out"
    place.mkdir()
    steps = seen(lambda w: export_package(bench, "parcels", tmp_path / name, EVERYTHING, now=NOW, watch=w))
    assert {"labelled rows", "traces", "git history", "checksums"} <= {*steps}
    assert ("packing" in steps) is name.endswith(".zst")
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            export_package(bench, "parcels", place / name, EVERYTHING, now=NOW, watch=stopping_at(step))
        assert list(place.iterdir()) == [], step


@pytest.mark.parametrize("name", ["p", "p.tar.zst"])
def test_an_import_that_is_stopped_at_any_step_leaves_everything_as_it_was(tmp_path: Path, name: str) -> None:
    export(full_bench(tmp_path / "here"), tmp_path / name)
    other = bench_in(tmp_path / "other")
    steps = seen(lambda w: import_package(other, tmp_path / name, WITH_FIGURES, watch=w))
    assert {"checking", "keeping the package", "labelled rows", "versions"} <= {*steps}
    assert ({"copying", "unpacking"} & {*steps}) == {"unpacking" if name.endswith(".zst") else "copying"}
    bench = bench_in(tmp_path / "there")
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            import_package(bench, tmp_path / name, WITH_FIGURES, watch=stopping_at(step))
        assert figures(bench) == [], step
        assert not bench.datasets.rows("parcels"), step
        assert not any("packages" in p.parts or "prompts" in p.parts for p in files(bench.data)), step
    assert import_package(bench, tmp_path / name, WITH_FIGURES).figures == 3


def test_a_stopped_command_says_so_and_ends_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(full_bench(tmp_path / "here"), tmp_path / "p")
    monkeypatch.setattr("rs_pipelines.packages.content._check_logs", _interrupted)
    stopped = invoke("package", "verify", str(tmp_path / "p"))
    assert stopped.exit_code == 130
    assert "Nothing is left half done" in stopped.stderr


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_bar_is_drawn_at_a_terminal_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(full_bench(tmp_path / "here"), tmp_path / "p.tar.zst")

    def drawn(*, terminal: bool) -> str:
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        monkeypatch.setattr(progress_bar, "words", console)
        with progress_bar.progress_steps() as watch, opened_package(tmp_path / "p.tar.zst", watch=watch):
            watch("the last step", 1, 2)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert "the last step" in drawn(terminal=True)
    assert drawn(terminal=False) == ""


def test_what_is_exported_wiped_and_imported_is_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions with their hashes, labelled rows and live figures; live is what a person makes live again."""
    bench = full_bench(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    asked = (
        ("template", "show", "parcels"),
        ("dataset", "show", "parcels", "--rows", "100"),
        ("stats", "parcels", "--window", "all"),
    )

    def state() -> list[object]:
        shown, rows, stats = (from_json(*command) for command in asked)
        return [shown["template"], shown["versions"], rows, stats["windows"]["all"]["overall"]]

    before = state()
    ok("package", "export", "parcels", "../p.tar.zst", "--include-analytics")
    shutil.rmtree(bench.data)
    done = from_json("package", "import", "../p.tar.zst", "--restore-analytics")
    assert done["versions"] == {"1": 1, "2": 2, "3": 3}
    assert state() == before
    assert from_json("template", "show", "parcels")["serving"] == {}
    ok("template", "publish", "parcels", "2", "--reason", "as it was")


def test_the_place_of_a_package_may_be_named_as_in_the_original_and_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_bench(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    template = ("package", "export", "--template-id", "parcels", "--config", "route-switch.yaml")
    made = from_json(*template, "--output-dir", "../p", "--include-analytics", "--logs-limit", "5")
    assert (made["path"], made["counts"]["traces"], made["counts"]["figures"]) == ("../p", 5, 3)
    for wrong in ((*template, "../q", "--output-dir", "../q"), template):
        refused = invoke(*wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "--output-dir" in refused.stderr
    assert not (tmp_path / "q").exists()

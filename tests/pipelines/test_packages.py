"""Packages: what leaves one gateway comes to another one unchanged, as drafts, or not at all."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.errors import ConfigurationError, RegistryError, StoreError, TemplateExistsError
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.publication import Action, Change
from rs_gateway.wiring import open_template_figures
from rs_pipelines.analysis.lineage import follow_back
from rs_pipelines.dataset_file import DatasetFile, read_dataset
from rs_pipelines.durable_files import folder_beside
from rs_pipelines.inputs import split_of
from rs_pipelines.labelled_rows import LabelledRow
from rs_pipelines.packages.content import opened_package
from rs_pipelines.packages.export import ExportOptions, export_package
from rs_pipelines.packages.format import PackageError
from rs_pipelines.packages.importing import FiguresExistError, Imported, ImportOptions, import_package
from rs_pipelines.workbench import Workbench
from tests.commands import ok
from tests.pipelines.packaged import BETTER, NOW, bench_in, export, full_bench, original_package
from tests.pipelines.parcels import ORIGIN, TARGET
from tests.pipelines.tiny_upstream import TEMPLATE
from tests.trace_files import counted

ROOT = Path(__file__).parents[2]
PLACES = ("package", "package.tar.zst")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return full_bench(tmp_path / "here")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Workbench:
    return bench_in(tmp_path / "there")


def bring(bench: Workbench, path: Path, *, overwrite: bool = False, analytics: bool = False) -> Imported:
    return import_package(bench, path, ImportOptions(overwrite, analytics))


def figures(bench: Workbench) -> list[object]:
    with closing(open_template_figures(bench.settings)) as store:
        return list(store.read("parcels"))


@pytest.mark.parametrize("name", PLACES)
def test_versions_rows_and_figures_come_back_as_they_were(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path, name: str
) -> None:
    export(bench, tmp_path / name)
    done = bring(elsewhere, tmp_path / name, analytics=True)
    before, after = bench.registry.get("parcels"), elsewhere.registry.get("parcels")
    assert after.versions == before.versions
    assert after.template == before.template
    assert elsewhere.datasets.rows("parcels") == bench.datasets.rows("parcels")
    assert figures(elsewhere) == figures(bench)
    assert figures(elsewhere) != []
    assert (done.numbers, done.added, done.dataset.added, done.known) == ({1: 1, 2: 2, 3: 3}, (1, 2, 3), 12, False)


def test_nothing_that_comes_in_is_live_until_a_person_makes_it_so(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    export(bench, tmp_path / "p")
    bring(elsewhere, tmp_path / "p")
    registered = elsewhere.registry.get("parcels")
    assert (registered.serving, registered.history, registered.weights) == ({}, (), {})
    live = elsewhere.registry.make_live("parcels", Change(Action.PUBLISH, 2, None, "ann", "now", "mine"))
    assert live.serving == {"*": 2}


def test_the_proof_behind_a_version_is_found_after_the_import_and_goes_along_with_the_next_export(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    export(bench, tmp_path / "p")
    bring(elsewhere, tmp_path / "p")
    found = follow_back(elsewhere, "parcels", 2).comparison
    assert found == follow_back(bench, "parcels", 2).comparison
    assert found is not None
    assert list(elsewhere.studies.targets()) == []  # nobody takes it for a study of this gateway
    assert export(elsewhere, tmp_path / "q").counts.comparisons == 1


def test_a_comparison_of_an_earlier_program_leaves_as_it_is(bench: Workbench, tmp_path: Path) -> None:
    path = bench.studies.directory(TARGET, "s1") / "comparison.json"
    content = json.loads(path.read_bytes())
    del content["by_provenance"]
    path.write_text(json.dumps(content))
    export(bench, tmp_path / "p")
    assert (tmp_path / "p" / "studies" / TARGET.key / "s1" / path.name).read_bytes() == path.read_bytes()


def test_a_package_says_what_it_holds_and_is_a_registry_that_can_be_read(bench: Workbench, tmp_path: Path) -> None:
    facts = export(bench, tmp_path / "p")
    assert facts.counts.model_dump() == {
        "versions": 3,
        "changes": 2,
        "studies": 0,
        "comparisons": 1,
        "dataset_rows": 12,
        "traces": 10,
        "feedback": 1,
        "figures": 3,
    }
    assert PromptFiles(tmp_path / "p/prompts").get("parcels") == bench.registry.get("parcels")
    manifest = yaml.safe_load((tmp_path / "p/manifest.yaml").read_text())
    assert (manifest["id"], manifest["variables"], manifest["default_model"]) == ("parcels", ["message"], "tiny")
    assert pl.read_parquet(tmp_path / "p/dataset/parcels.parquet").height == 12


def test_only_this_template_is_in_it(bench: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "p")
    lines = (tmp_path / "p/logs/recent.jsonl").read_text().splitlines()
    assert {json.loads(line)["template_id"] for line in lines} == {"parcels"}
    rows = (tmp_path / "p/analytics/parcels.jsonl").read_text()
    assert '"other"' not in rows
    assert "key_id" not in "".join(lines)


def test_logs_end_with_the_newest_trace_and_hold_no_more_than_asked_for(bench: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "p", ExportOptions(logs_limit=3))
    lines = [json.loads(line) for line in (tmp_path / "p/logs/recent.jsonl").read_text().splitlines()]
    assert [int(line["trace_id"]) for line in lines] == [14, 16, 18]
    assert lines[-1]["feedback"][0]["kind"] == "comment"
    assert not (tmp_path / "p/analytics").exists()
    assert export(bench, tmp_path / "q", ExportOptions(logs_limit=0)).counts.traces == 0


def test_what_is_redacted_is_in_no_file_of_the_package(tmp_path: Path) -> None:
    bench = full_bench(tmp_path / "here", privacy={"redact": ["emails"]})
    row = LabelledRow({"message": "from bob@example.com"}, (), "bob@example.com", None, "bob@example.com")
    bench.datasets.add("parcels", DatasetFile("x", (row,), ()))
    asked_for = replace(ORIGIN, note="asked for by bob@example.com")
    version = bench.registry.add_version("parcels", PromptText("Do.", "{message}"), model=None, origin=asked_for)
    reason = "bob@example.com wanted it"
    bench.registry.make_live("parcels", Change(Action.PUBLISH, version.number, None, "ann", "now", reason, previous=1))
    facts = export(bench, tmp_path / "p", ExportOptions(git=True))
    assert facts.redaction.rules == ["emails"]
    assert "[email] wanted it" in (tmp_path / "p/prompts/parcels/live.yaml").read_text()
    for path in (tmp_path / "p").rglob("*"):
        assert path.is_dir() or b"bob@example.com" not in path.read_bytes(), path


def test_a_row_stays_on_its_side_of_the_split_when_its_input_is_redacted(tmp_path: Path) -> None:
    bench = full_bench(tmp_path / "here", privacy={"redact": ["emails"]})
    rows = tuple(LabelledRow({"message": f"{n} from b{n}@example.com"}, (), "x") for n in range(20))
    bench.datasets.add("parcels", DatasetFile("x", rows, ()))
    export(bench, tmp_path / "p")
    with opened_package(tmp_path / "p") as content:
        sides = {p.row.variables["message"]: p.row.split for p in content.rows}
    assert all(sides[f"{n} from [email]"] is split_of(row.key) for n, row in enumerate(rows))


def test_versions_with_text_that_would_be_redacted_are_named_and_left_as_they_are(tmp_path: Path) -> None:
    bench = full_bench(tmp_path / "here", privacy={"redact": ["emails"]})
    text = PromptText("Write to help@example.com.", "{message}")
    bench.registry.add_version("parcels", text, model=None, origin=bench.registry.get("parcels").versions[1].origin)
    assert export(bench, tmp_path / "p").redaction.versions_with_matches == [4]
    with opened_package(tmp_path / "p") as content:
        assert content.versions[3].text == text
        assert "Versions 4 hold text" in content.notes[0]


def test_the_same_stores_give_the_same_archive(bench: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "a.tar.zst")
    export(bench, tmp_path / "b.tar.zst")
    assert (tmp_path / "a.tar.zst").read_bytes() == (tmp_path / "b.tar.zst").read_bytes()


@pytest.mark.parametrize("name", PLACES)
def test_an_export_overwrites_nothing_and_leaves_nothing_beside_it(bench: Workbench, tmp_path: Path, name: str) -> None:
    export(bench, tmp_path / name)
    with pytest.raises(ConfigurationError, match="is there already"):
        export(bench, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", name]


KILLED_EXPORT = """
import os, signal, sys
from pathlib import Path
from rs_pipelines.packages import export as exporting
from rs_pipelines.workbench import Workbench
from tests.pipelines.packaged import export

exporting.seal = lambda content: os.kill(os.getpid(), signal.SIGKILL)
export(Workbench.at(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_what_a_killed_export_leaves_goes_with_the_next_one(bench: Workbench, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_EXPORT, str(bench.settings.config_path), str(tmp_path / "p")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "p").exists()
    assert len(list(tmp_path.iterdir())) > 1, "something is left"
    export(bench, tmp_path / "p")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "p"]


def test_what_an_export_leaves_that_was_killed_at_its_very_end_goes_with_one_that_is_refused(
    bench: Workbench, tmp_path: Path
) -> None:
    export(bench, tmp_path / "p")
    (tmp_path / ".p.partial").mkdir()
    with pytest.raises(ConfigurationError, match="is there already"):
        export(bench, tmp_path / "p")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "p"]


def test_an_export_to_where_another_one_is_at_work_is_refused(bench: Workbench, tmp_path: Path) -> None:
    with folder_beside(tmp_path / "p"), pytest.raises(StoreError, match="is being written already"):
        export(bench, tmp_path / "p")
    export(bench, tmp_path / "p")


def test_an_export_into_the_folder_where_one_stands_is_refused(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="name a folder or a file"):
        export(bench, Path())
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_failed_export_leaves_nothing(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="needs the program `git`"):
        export(bench, tmp_path / "p")
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_the_history_is_one_that_git_clones(bench: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "p")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("clone", "--quiet", "p/history.bundle", "g")
    log = git("-C", "g", "log", "--reverse", "--format=%an %ad %s", "--date=short").splitlines()
    assert log == [
        "tests 2026-01-01 Version 1, for every model",
        "gate 2026-05-01 Version 2, for tiny",
        "tests 2026-01-01 Version 3, for every model",
    ]
    assert git("-C", "g", "tag").split() == ["v1", "v2", "v3"]
    assert f"+instruction: {BETTER.instruction}" in git("-C", "g", "show", "v2")


# A template that is known already


def test_a_known_template_is_left_alone_without_overwrite(bench: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "p")
    before = contents(bench)
    with pytest.raises(TemplateExistsError, match="--overwrite"):
        bring(bench, tmp_path / "p")
    assert contents(bench) == before


def test_overwrite_adds_what_is_missing_as_drafts_and_keeps_what_is_live(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    export(bench, tmp_path / "p")
    registry = elsewhere.registry
    registry.register(
        TEMPLATE, PromptText("Mine.", "{message}"), origin=bench.registry.get("parcels").versions[1].origin
    )
    done = bring(elsewhere, tmp_path / "p", overwrite=True)
    after = registry.get("parcels")
    assert (after.serving, done.numbers, done.added) == ({"*": 1}, {1: 2, 2: 3, 3: 4}, (2, 3, 4))
    assert after.versions[3].text == BETTER
    again = bring(elsewhere, tmp_path / "p", overwrite=True)
    assert (again.added, again.numbers, again.dataset.duplicates) == ((), done.numbers, 12)
    assert registry.get("parcels") == after


def test_labels_replace_others_only_with_overwrite(bench: Workbench, elsewhere: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "p")
    row = bench.datasets.rows("parcels")[0]
    mine = LabelledRow(row.variables, (), "something else", row.split)
    elsewhere.datasets.add("parcels", DatasetFile("x", (mine,), ()))
    with pytest.raises(RegistryError, match="1 inputs of the package have another label here"):
        bring(elsewhere, tmp_path / "p")
    assert elsewhere.datasets.rows("parcels")[0].expected == "something else"
    assert bring(elsewhere, tmp_path / "p", overwrite=True).dataset.corrected == 1
    assert {r.key: r.expected for r in elsewhere.datasets.rows("parcels")}[row.key] == row.expected


def test_figures_replace_others_only_with_overwrite(bench: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "p")
    other = full_bench(tmp_path / "other")
    with pytest.raises(TemplateExistsError):
        bring(other, tmp_path / "p", analytics=True)
    figures_elsewhere = bench_in(tmp_path / "third")
    export(bench, tmp_path / "q", ExportOptions(include_analytics=True))
    bring(figures_elsewhere, tmp_path / "q", analytics=True)
    shutil.rmtree(figures_elsewhere.data / "prompts/parcels")
    with pytest.raises(FiguresExistError, match="--restore-analytics"):
        bring(figures_elsewhere, tmp_path / "q", analytics=True)
    bring(figures_elsewhere, tmp_path / "q", analytics=True, overwrite=True)
    assert figures(figures_elsewhere) == figures(bench)
    assert counted(bench.data / "traces.db") == 20
    assert counted(figures_elsewhere.data / "traces.db") == 10


def test_a_package_without_figures_restores_none(bench: Workbench, elsewhere: Workbench, tmp_path: Path) -> None:
    export(bench, tmp_path / "p", ExportOptions())
    with pytest.raises(PackageError, match="--include-analytics"):
        bring(elsewhere, tmp_path / "p", analytics=True)
    assert not (elsewhere.data / "prompts").exists()


def test_python_evaluators_and_being_the_default_stay_outside(tmp_path: Path, elsewhere: Workbench) -> None:
    here = bench_in(tmp_path / "here")
    evaluator = {"name": "Weighted", "parts": [{"evaluator": {"name": "Python", "python": "os:system"}}]}
    template = replace(TEMPLATE, evaluator=evaluator, default=True)
    PromptFiles(here.data / "prompts").register(
        template,
        PromptText("x", "{message}"),
        origin=full_bench(tmp_path / "o").registry.get("parcels").versions[1].origin,
    )
    export(here, tmp_path / "p")
    done = bring(elsewhere, tmp_path / "p")
    entered = elsewhere.registry.get("parcels").template
    assert (entered.evaluator, entered.default) == ({}, False)
    assert "names Python code" in " ".join(done.notes)


# Version 1.0


def test_a_package_of_the_original_system_comes_in_as_one_draft(elsewhere: Workbench, tmp_path: Path) -> None:
    done = bring(elsewhere, original_package(tmp_path / "v1"))
    registered = elsewhere.registry.get("support")
    assert (registered.serving, list(registered.versions)) == ({}, [1])
    text = registered.versions[1].text
    assert text.instruction == 'Help {customer_name}. Answer as {{"answer": "..."}} and mind {{other}}.'
    assert registered.template.variables == ("customer_name",)
    said = " ".join(done.notes)
    assert "no checksums" in said
    assert "1 recorded answers are no labels" in said
    assert "gpt-4 of openai" in said
    assert "every template" in said
    assert (done.dataset.added, done.unlabelled) == (0, 1)
    assert elsewhere.datasets.rows("support") == ()


def test_the_command_says_how_many_rows_it_left_out_because_nobody_vouches_for_them(
    elsewhere: Workbench, tmp_path: Path
) -> None:
    package = original_package(tmp_path / "v1")
    said = ok("package", "import", str(package), "--config", str(elsewhere.settings.config_path)).stderr
    assert "0 labelled rows (0 corrected, 0 already known, 1 left out: no person" in said


def test_its_unchecked_answers_can_be_imported_once_a_person_has_looked(elsewhere: Workbench, tmp_path: Path) -> None:
    done = bring(elsewhere, original_package(tmp_path / "v1"))
    template = elsewhere.registry.get("support").template
    found = read_dataset(done.records / "unchecked.jsonl", template)
    assert [row.expected for row in found.rows] == ["Gladly, Jordan."]
    assert not found.problems


def test_a_version_of_an_unknown_time_has_its_place_in_the_git_history_too(
    elsewhere: Workbench, tmp_path: Path
) -> None:
    bring(elsewhere, original_package(tmp_path / "v1", manifest={"created_at": "some day in spring"}))
    export_package(elsewhere, "support", tmp_path / "p", ExportOptions(git=True), now=NOW)
    subprocess.run(["git", "clone", "--quiet", "p/history.bundle", "g"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "g/prompt.yaml").exists()


def test_a_recorded_answer_whose_variables_are_nested_without_end_is_left_out(
    elsewhere: Workbench, tmp_path: Path
) -> None:
    path = original_package(tmp_path / "v1")
    with closing(sqlite3.connect(path / "dataset/support.db")) as connection, connection:
        nested = f'{{"customer_name": {"[" * 20_000}{"]" * 20_000}}}'
        connection.execute("UPDATE examples SET variables = ?", (nested,))
    done = bring(elsewhere, path)
    assert done.unlabelled == 0
    assert any("recorded answers are empty, or lack a variable" in note for note in done.notes)


def test_its_git_folder_and_its_analytics_are_not_kept(elsewhere: Workbench, tmp_path: Path) -> None:
    done = bring(elsewhere, original_package(tmp_path / "v1"))
    assert not list(done.records.glob(".git*"))
    assert not list(done.records.rglob("*.duckdb"))


@pytest.mark.parametrize("name", ["../secret.db", "/etc/passwd", "dataset/../../x", "a\\b", "dataset/missing.db"])
def test_paths_of_a_version_1_package_stay_inside_it(elsewhere: Workbench, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.db").write_text("secret")
    path = original_package(tmp_path / "v1", package={"dataset_file": name})
    with pytest.raises(PackageError):
        bring(elsewhere, path)
    assert not (elsewhere.data / "prompts").exists()


@pytest.mark.parametrize(
    "variables",
    [["customer_name"], [{"name": "customer_name"}], {"customer_name": "string"}, "customer_name", None],
)
def test_variables_are_read_in_every_likely_spelling(elsewhere: Workbench, tmp_path: Path, variables: object) -> None:
    manifest = {"variables": variables, "prompt": "Help {customer_name}."}
    bring(elsewhere, original_package(tmp_path / "v1", manifest=manifest))
    assert elsewhere.registry.get("support").template.variables == ("customer_name",)


def contents(bench: Workbench) -> dict[str, bytes]:
    """Every file of the data directory but locks and SQLite's own."""
    return {
        str(path.relative_to(bench.data)): path.read_bytes()
        for path in sorted(bench.data.rglob("*"))
        if path.is_file() and not path.name.endswith((".lock", "-wal", "-shm"))
    }

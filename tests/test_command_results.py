"""What every command prints with `--json` is what is declared: scripts can rely on it."""

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest

from tests.command_project import KEY_NAME, TRACE, copy_of, project
from tests.command_results import RESULTS, check_result
from tests.commands import COMMANDS, RUNS_UNTIL_STOPPED, from_json, ok
from tests.pipelines.packaged import bench_in

HAPPY_PATHS: dict[str, str] = {
    "init": "init --config new.yaml",
    "check": "check",
    "check --live": "check --live",
    "explain": f"explain {TRACE}",
    "explain --payload": f"explain {TRACE} --payload",
    "stats": "stats parcels",
    "ingest": "ingest",
    "ingest --compact": "ingest --compact",
    "optimize --preflight": "optimize parcels --preflight",
    "find-best-model": "find-best-model parcels --no-optimize",
    "backup": "backup ../backup",
    "restore": "restore ../backup --overwrite",
    "forget": f"forget --trace {TRACE} --yes",
    "template publish": "template publish parcels 1 --reason why --model tiny",
    "template rollback": "template rollback parcels --reason why --model tiny",
    "template edit": "template edit parcels --file ../version.yaml",
    "template register": "template register ../template.yaml",
    "template list": "template list",
    "template show": "template show parcels",
    "template history": "template history parcels",
    "template diff": "template diff parcels 1 2",
    "keys create": "keys create web",
    "keys list": "keys list",
    "keys show": "keys show KEY",
    "keys update": "keys update KEY --concurrency 3",
    "keys revoke": "keys revoke KEY",
    "gateway combinations": "gateway combinations",
    "traces tail": "traces tail",
    "traces show": f"traces show {TRACE}",
    "traces export": "traces export",
    "traces export --output": "traces export --output ../traces.jsonl",
    "feedback add": f"feedback add {TRACE} --label AB-1234",
    "feedback import": "feedback import ../feedback.jsonl",
    "dataset import": "dataset import parcels ../rows.jsonl",
    "dataset teach": "dataset teach parcels --teacher parcels-large",
    "dataset export": "dataset export parcels",
    "dataset export --output": "dataset export parcels --output ../rows-again.jsonl",
    "dataset show": "dataset show parcels",
    "study list": "study list parcels",
    "study show": "study show STUDY",
    "package export": "package export parcels ../again.tar.zst",
    "package verify": "package verify ../parcels.tar.zst",
    "package import": "package import ../parcels.tar.zst --overwrite",
}
"""KEY stands for a key's id, STUDY for a study's."""
ELSEWHERE = {"optimize": "below", "model fetch": "below", "demo": "tests/e2e/test_demo_process.py"}
FIRST: dict[str, str] = {
    "restore": "backup ../backup",
    "keys list": f"keys create {KEY_NAME}",
}
"""What has to have happened before."""
AFTER_A_SEARCH = {"study list", "study show"}
ONE_OBJECT_A_LINE = {"traces tail", "traces export", "dataset export"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    with project(tmp_path_factory.mktemp("original")) as folder:
        yield folder


@dataclass(frozen=True, slots=True)
class Searched:
    folder: Path
    printed: Any


@pytest.fixture(scope="module")
def searched(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """The project after a search, which takes seconds, and what that printed."""
    folder = copy_of(original, tmp_path_factory.mktemp("searched"))
    config = str(folder / "route-switch.yaml")
    return Searched(folder, from_json("optimize", "parcels", "--show-rows", "1", "--config", config))


def test_the_result_of_every_command_is_declared_and_looked_at() -> None:
    assert {
        " ".join(w for w in name.split() if w[0] != "-") for name in RESULTS
    } == COMMANDS.keys() - RUNS_UNTIL_STOPPED
    assert HAPPY_PATHS.keys() | ELSEWHERE.keys() == RESULTS.keys()


@pytest.mark.parametrize("name", HAPPY_PATHS)
def test_the_json_of_a_command_has_the_declared_keys_and_types(
    name: str, original: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in AFTER_A_SEARCH:
        original = request.getfixturevalue("searched").folder
    monkeypatch.chdir(copy_of(original, tmp_path))
    if name in FIRST:
        ok(*FIRST[name].split())
    words = HAPPY_PATHS[name].split()
    if "KEY" in words:
        words[words.index("KEY")] = from_json("keys", "create", KEY_NAME)["key_id"]
    if "STUDY" in words:
        words[words.index("STUDY")] = from_json("study", "list")[0]["study_id"]
    printed = ok(*words, "--json").stdout
    found = [json.loads(line) for line in printed.splitlines()] if name in ONE_OBJECT_A_LINE else [json.loads(printed)]
    assert found != [] and found != [[]], "an empty result shows nothing"
    for value in found:
        check_result(name, value)


def test_the_json_of_a_search_has_the_declared_keys_and_types(searched: Searched) -> None:
    check_result("optimize", searched.printed)
    assert searched.printed["rows_won"], "an empty result shows nothing"


def test_the_list_of_studies_counts_the_calls_that_the_search_and_its_comparison_took(searched: Searched) -> None:
    (line,) = from_json("study", "list", "--config", str(searched.folder / "route-switch.yaml"))
    assert line["comparison_calls"] > 0
    assert line["calls"] + line["comparison_calls"] == searched.printed["model_calls"]


def test_the_json_of_a_fetched_model_names_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(directory: Path, **_: Any) -> Path:
        return directory / "model.gguf"

    monkeypatch.setattr("rs_gateway.local_model.fetch", fetched)
    check_result("model fetch", from_json("model", "fetch"))


def test_a_package_comes_to_another_gateway_with_the_same_keys(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = from_json("package", "import", str(original.parent / "parcels.tar.zst"), "--restore-analytics")
    check_result("package import", found)
    assert not found["known"] and found["figures"] > 0


@pytest.mark.parametrize(
    "wrong",
    [{"template_id": "a"}, {"template_id": "a", "version": "1"}, {"template_id": "a", "version": 1, "number": 1}],
    ids=["missing", "other type", "new"],
)
def test_another_key_or_type_is_found(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        check_result("template register", wrong)

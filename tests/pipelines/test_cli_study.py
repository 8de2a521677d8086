"""`route-switch study`: what was searched, found, proven and published, out of what lies on the disk."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.domain.publication import Action, Change
from rs_pipelines.analysis.study_tables import pick_study
from rs_pipelines.answers import AnswerCache
from rs_pipelines.comparison import Comparison, sealed
from rs_pipelines.gate import ComparedRow, GatePolicy, judge
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.mipro.search import run_study
from rs_pipelines.sample import Split
from rs_pipelines.sample_store import SampleStore
from rs_pipelines.spending import Allowance, Booking
from rs_pipelines.studies import StudyFiles
from tests.commands import failure, from_json, invoke, ok
from tests.pipelines.parcels import EVALUATOR, LIVE, ORIGIN, cache_at, models, parcels, request, tiny_model
from tests.running import write_configuration


class Studied(NamedTuple):
    files: StudyFiles
    registry: PromptFiles
    study: StudyRecord


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    folder = tmp_path_factory.mktemp("search")
    asked = models(ScriptedChat(tiny_model), cache_at(folder))

    async def search() -> StudyRecord:
        return await run_study(request(), asked, evaluator=EVALUATOR, files=StudyFiles(folder / "studies"))

    return anyio.run(search)


@pytest.fixture
def studied(searched: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studied]:
    write_configuration(tmp_path, {"data_dir": "data"})
    monkeypatch.chdir(tmp_path)
    registry = PromptFiles(tmp_path / "data/prompts")
    registry.register(PromptTemplate("parcels", "Parcels", ("message",), {}), LIVE, origin=ORIGIN)
    files = StudyFiles(tmp_path / "data/studies")
    files.save_study(searched)
    yield Studied(files, registry, searched)


def compare(studied: Studied) -> Comparison:
    study = studied.study
    assert study.best_text is not None
    rows = tuple(
        ComparedRow(example.example_id, "x", 0.0 if n < 20 else 1.0, 1.0, "no", "yes", 10, 20)
        for n, example in enumerate(parcels().rows(Split.TEST)[:60])
    )
    policy = GatePolicy()
    found = Comparison(
        comparison_id="",
        target=study.target,
        study_id=study.study_id,
        sample_id=study.sample_id,
        live_version=1,
        live_hash=LIVE.content_hash,
        candidate_hash=study.best_text.content_hash,
        policy=policy,
        seed=0,
        verdict=judge(rows, live=LIVE, candidate=study.best_text, policy=policy, seed=0),
        by_label=(),
        rows=rows,
    )
    found = sealed(found)
    studied.files.save_comparison(found)
    return found


def publish(studied: Studied, comparison: Comparison) -> None:
    assert studied.study.best_text is not None
    studied.registry.add_version("parcels", studied.study.best_text, model="tiny", origin=ORIGIN)
    change = Change(Action.PUBLISH, 2, "tiny", "gate", "now", "gain", 1, comparison_id=comparison.comparison_id)
    studied.registry.make_live("parcels", change)


def test_a_study_goes_from_searched_to_compared_to_published(studied: Studied) -> None:
    (line,) = from_json("study", "list")
    assert (line["study_id"], line["state"], line["gain"]) == (studied.study.study_id, "searched", None)
    comparison = compare(studied)
    (line,) = from_json("study", "list", "parcels")
    assert (line["state"], line["gain"]) == ("compared", pytest.approx(1 / 3))
    publish(studied, comparison)
    (line,) = from_json("study", "list")
    assert (line["state"], line["published_version"]) == ("published", 2)
    assert set(line) == {
        *("study_id", "template_id", "model", "started_at", "state", "seed", "evaluations", "calls", "usd"),
        *("comparison_calls", "comparison_usd", "live_value", "best_value", "gain", "interval", "published_version"),
    }
    table = ok("study", "list").stdout
    assert studied.study.study_id in table
    assert "version 2" in table
    assert "+0.333 [" in table


def booked(folder: Path, study_id: str, *, calls: int) -> None:
    with closing(AnswerCache(folder / "data/cache/answers.db")) as cache:
        for _ in range(calls):
            cache.charge(study_id, Allowance(), Booking(usd=0.01))


def test_calls_are_those_of_the_search_and_those_of_the_comparison(studied: Studied, tmp_path: Path) -> None:
    searched = studied.study.calls
    booked(tmp_path, studied.study.study_id, calls=searched + 7)
    compare(studied)
    (line,) = from_json("study", "list")
    assert (line["calls"], line["comparison_calls"]) == (searched, 7)
    assert studied.study.usd == 0, "its model has no price"
    assert (line["usd"], line["comparison_usd"]) == (None, pytest.approx(0.01 * (searched + 7)))
    table = ok("study", "list").stdout
    assert "calls: search + comparison" in table
    assert f"{searched} + 7 " in table


def test_what_a_search_has_booked_since_it_was_saved_is_no_comparison(studied: Studied, tmp_path: Path) -> None:
    studied.files.save_study(replace(studied.study, finished=False))
    booked(tmp_path, studied.study.study_id, calls=studied.study.calls + 7)
    (line,) = from_json("study", "list")
    assert (line["state"], line["calls"], line["comparison_calls"]) == ("searching", studied.study.calls, 0)


def test_without_the_answer_cache_the_calls_of_a_comparison_are_unknown(studied: Studied, tmp_path: Path) -> None:
    compare(studied)
    (line,) = from_json("study", "list")
    assert (line["comparison_calls"], line["comparison_usd"]) == (None, None)
    assert f"{studied.study.calls} + unknown" in ok("study", "list").stdout
    assert not (tmp_path / "data/cache").exists()
    (tmp_path / "data/cache").mkdir()
    (tmp_path / "data/cache/answers.db").write_text("no database" * 1_000)
    damaged = invoke("study", "list", "--json")
    assert damaged.exit_code == 1
    assert "answers.db" in damaged.stderr
    assert json.loads(damaged.stdout) == [line]


def test_an_unfinished_study_is_still_searching(studied: Studied) -> None:
    studied.files.save_study(replace(studied.study, finished=False))
    assert from_json("study", "list")[0]["state"] == "searching"


def test_no_study_is_said_in_words(studied: Studied) -> None:
    result = ok("study", "list", "other")
    assert result.stdout == ""
    assert "There is no study yet" in result.stderr
    assert from_json("study", "list", "other") == []


def test_show_has_candidates_prompt_and_proof(studied: Studied) -> None:
    short = studied.study.study_id[:6]
    result = ok("study", "show", short)
    assert "Study: leading candidates" in result.stdout
    assert "Chosen prompt:" in result.stdout
    assert "was not compared" in result.stderr
    publish(studied, compare(studied))
    shown = ok("study", "show", short, "--rows", "2").stdout
    assert "published as version 2" in shown
    assert "Rows won (2 of 20)" in shown
    found = from_json("study", "show", short)
    assert found["study"]["study_id"] == studied.study.study_id
    assert found["comparison"]["verdict"]["n"] == 60
    assert found["published_version"] == 2


def test_rows_are_shown_with_their_inputs_as_long_as_their_sample_is_there(studied: Studied, tmp_path: Path) -> None:
    comparison = compare(studied)
    row, *others = comparison.rows_with("won")
    asked = next(e.input_text for e in parcels().examples if e.example_id == row.example_id)
    without = ok("study", "show", studied.study.study_id, "--rows", "1")
    assert f"Inputs are not shown. There is no sample {studied.study.sample_id}" in " ".join(without.stderr.split())
    assert asked not in without.stdout

    samples = SampleStore(tmp_path / "data/samples")
    path = samples.save(parcels())
    assert asked in ok("study", "show", studied.study.study_id, "--rows", "1").stdout
    samples.forget(path, [others[0].example_id])
    forgotten = ok("study", "show", studied.study.study_id, "--rows", "1")
    assert "were forgotten" in " ".join(forgotten.stderr.split())
    assert "Rows won (1 of 20)" in forgotten.stdout


def test_a_study_that_came_with_a_package_is_shown_as_one_of_elsewhere(studied: Studied, tmp_path: Path) -> None:
    comparison = compare(studied)
    assert studied.study.best_text is not None
    origin = replace(ORIGIN, study_id=studied.study.study_id, comparison_id=comparison.comparison_id)
    studied.registry.add_version("parcels", studied.study.best_text, model="tiny", origin=origin)
    package = tmp_path / "data/packages/parcels/0a"
    package.mkdir(parents=True)
    shutil.move(tmp_path / "data/studies", package / "studies")

    listed = ok("study", "list", "parcels")
    assert listed.stdout == ""
    assert f"With packages came {studied.study.study_id}: `route-switch study show` shows" in listed.stderr
    assert "packages" not in ok("study", "list", "other").stderr
    shown = ok("study", "show", studied.study.study_id[:6]).stdout
    assert "It came with a package: searched and proven there, not here." in shown
    assert "published as version 2" in shown
    shutil.copytree(package / "studies", tmp_path / "data/studies")
    assert "package" not in ok("study", "show", studied.study.study_id).stdout, "what was searched here is from here"
    assert "packages" not in ok("study", "list").stderr


def test_a_study_that_is_not_there_or_not_the_only_one_is_said(studied: Studied) -> None:
    assert "There is no study 'zz'" in failure("study", "show", "zz")
    begin = studied.study.study_id[:4]
    studied.files.save_study(replace(studied.study, study_id=f"{begin}other"))
    message = failure("study", "show", begin)
    assert f"2 studies begin with {begin!r}" in message
    assert f"{begin}other" in message


def test_a_study_that_cannot_be_read_is_named_and_the_others_are_listed(studied: Studied) -> None:
    broken = studied.files.directory(studied.study.target, "broken")
    broken.mkdir()
    (broken / "study.json").write_text("{")
    result = invoke("study", "list", "--json")
    assert result.exit_code == 1, "as something is wrong"
    assert [line["study_id"] for line in json.loads(result.stdout)] == [studied.study.study_id]
    words = " ".join(result.stderr.split())
    assert f"error: Study broken of {studied.study.target.key} cannot be read (" in words
    assert f"delete its folder. It is {broken.resolve()}." in words
    assert studied.study.study_id in invoke("study", "list").stdout
    assert f"Study {studied.study.study_id}" in ok("study", "show", studied.study.study_id[:6]).stdout
    assert pick_study(studied.files).study_id == studied.study.study_id
    assert "that can be read" in failure("study", "show", "broken")


def test_a_comparison_that_cannot_be_read_is_named_beside_its_study(studied: Studied) -> None:
    path = studied.files.directory(studied.study.target, studied.study.study_id) / "comparison.json"
    path.write_text("{")
    result = invoke("study", "list", "--json")
    assert result.exit_code == 1
    assert [line["state"] for line in json.loads(result.stdout)] == ["searched"]
    assert f"The comparison of study {studied.study.study_id} cannot be read" in " ".join(result.stderr.split())


def test_of_several_targets_one_without_a_readable_study_is_left_out(studied: Studied) -> None:
    other = studied.files.directory(replace(studied.study.target, model="other"), "s1")
    other.mkdir(parents=True)
    (other / "study.json").write_bytes(b"\xff")
    assert studied.files.targets() == [studied.study.target]
    assert len(studied.files.faults()) == 1

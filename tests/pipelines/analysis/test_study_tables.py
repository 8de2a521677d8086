import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell

from rs_pipelines.analysis import study_tables as tables
from rs_pipelines.comparison import Comparison
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.studies import StudyFiles
from rs_pipelines.workbench import Workbench
from tests.pipelines.recorded_weeks import REQUESTS

KEY = "ticket-request@mini"


@pytest.fixture
def study(weeks: Workbench) -> StudyRecord:
    return tables.pick_study(weeks.studies)


@pytest.fixture
def comparison(weeks: Workbench, study: StudyRecord) -> Comparison:
    return tables.need_comparison(weeks.studies, study)


def test_a_study_is_found_by_nothing_its_target_or_its_id(weeks: Workbench, study: StudyRecord) -> None:
    assert study.target.key == KEY
    assert tables.pick_study(weeks.studies, key=KEY).study_id == study.study_id
    assert tables.pick_study(weeks.studies, study_id=study.study_id) == study


def test_a_study_that_is_not_there_is_answered_with_those_that_are(weeks: Workbench) -> None:
    with pytest.raises(tables.NoStudyError, match="no study of other@mini; targets with one: ticket-request@mini"):
        tables.pick_study(weeks.studies, key="other@mini")


def test_without_any_study_the_command_that_makes_one_is_named(
    weeks: Workbench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(tables.NoStudyError, match="route-switch optimize"):
        tables.pick_study(type(weeks.studies)(tmp_path_factory.mktemp("none")))


def test_a_study_that_was_not_compared_says_how_to_go_on(
    weeks: Workbench, study: StudyRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(tables.NoStudyError, match="route-switch optimize ticket-request --model mini") as refusal:
        tables.need_comparison(weeks.studies, replace(study, study_id="other"))
    shell = InteractiveShell()
    shell.showtraceback((type(refusal.value), refusal.value, refusal.value.__traceback__))
    assert "".join(capsys.readouterr()).strip() == str(refusal.value), "a notebook shows no traceback"


def test_a_study_that_was_compared_goes_before_a_later_one_that_was_not(
    weeks: Workbench, study: StudyRecord, tmp_path: Path
) -> None:
    copied = StudyFiles(shutil.copytree(weeks.data / "studies", tmp_path / "studies"))
    copied.save_study(replace(study, study_id="f" * 16, started_at="2999-01-01T00:00:00+00:00"))
    assert tables.pick_study(copied).study_id == study.study_id
    assert tables.pick_study(copied, study_id="f" * 16).started_at.startswith("2999")


def test_the_history_starts_with_the_live_version_on_all_rows(study: StudyRecord) -> None:
    history = tables.study_history(study)
    first = history.row(0, named=True)
    assert (first["number"], first["all_rows"], first["value"]) == (0, True, study.live_value)
    assert history["number"].is_sorted()
    assert history["chosen"].any()


def test_void_trials_are_no_part_of_the_history(study: StudyRecord) -> None:
    void = replace(study, trials=(replace(study.trials[0], value=None), *study.trials[1:]))
    assert tables.study_history(void).height == len(study.trials) - 1


def test_the_grid_has_every_pair_and_the_value_of_those_that_were_tried(study: StudyRecord) -> None:
    grid = tables.instruction_demo_grid(study)
    assert grid.height == len(study.instructions) * len(study.demo_sets)
    tried = grid.filter(pl.col("value").is_not_null())
    pairs = {(entry.candidate.instruction, entry.candidate.demo_set) for entry in study.rows}
    assert tried.height == len(pairs) < grid.height
    [chosen] = grid.filter(pl.col("chosen")).to_dicts()
    assert chosen["value"] == pytest.approx(study.best_value)
    [live] = grid.filter(pl.col("live")).to_dicts()
    assert (live["value"], live["rows"]) == (pytest.approx(study.live_value), len(study.row_order))


def test_names_of_instructions_are_the_same_in_grid_and_list(study: StudyRecord) -> None:
    listed = tables.instructions(study)
    assert set(tables.instruction_demo_grid(study)["instruction"]) == set(listed["instruction"])
    assert listed["made_from"][0] is None
    assert set(listed["made_from"].drop_nulls()) <= set(listed["instruction"])


def test_the_chosen_demos_are_those_of_the_best_text(study: StudyRecord) -> None:
    assert study.best_text is not None
    assert tables.chosen_demos(study)["user"].to_list() == [demo.user for demo in study.best_text.demos]


def test_a_study_that_has_only_begun_gives_empty_tables(study: StudyRecord) -> None:
    begun = replace(study, instructions=(), demo_sets=(), trials=(), rows=(), finished=False, ending=None)
    for table in (tables.study_history, tables.instruction_demo_grid, tables.instructions, tables.chosen_demos):
        assert table(begun).is_empty()
    assert "under way" in tables.study_summary(begun)["value"][0]


def test_compared_rows_agree_with_the_verdict(comparison: Comparison) -> None:
    rows = tables.compared_rows(comparison)
    counts = dict(rows["outcome"].value_counts().iter_rows())
    assert (counts["won"], counts.get("lost", 0)) == (comparison.verdict.won, comparison.verdict.lost)
    assert (rows["candidate_score"] - rows["live_score"]).mean() == pytest.approx(comparison.verdict.difference)


def test_changes_by_label_come_with_the_best_first(comparison: Comparison) -> None:
    changes = tables.label_changes(comparison)
    assert set(changes["label"]) == set(REQUESTS)
    assert changes["change"].is_sorted(descending=True)
    assert changes["rows"].sum() == comparison.verdict.n

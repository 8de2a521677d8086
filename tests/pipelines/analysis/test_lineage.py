import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rs_gateway.domain.errors import TemplateNotFoundError
from rs_gateway.domain.prompts import Demo
from rs_pipelines.analysis import lineage
from rs_pipelines.analysis.data_directory import open_data
from rs_pipelines.workbench import Workbench
from tests.pipelines.recorded_weeks import N_LABELS, PUBLISHED_AT


@pytest.fixture
def behind(weeks: Workbench) -> lineage.Lineage:
    return lineage.follow_back(weeks, "ticket-request", 2)


def test_a_proven_version_is_followed_back_to_the_requests_that_it_was_learnt_from(
    weeks: Workbench, behind: lineage.Lineage
) -> None:
    assert behind.gaps == ()
    assert lineage.chain(behind)["step"].to_list() == [
        "version",
        "publish",
        "comparison",
        "study",
        "trials",
        "examples",
        "traces",
    ]
    examples = lineage.examples_behind(behind)
    assert examples.height == N_LABELS
    traces = lineage.traces_behind(weeks.lake, examples)
    assert set(traces["trace_id"]) == set(examples["trace_id"].drop_nulls())
    assert traces["started_at"].max() < PUBLISHED_AT  # pyright: ignore[reportOperatorIssue]  # instants
    assert traces["asked"].null_count() == traces["answered"].null_count() == 0


def test_the_demos_of_the_prompt_are_told_from_other_train_rows(behind: lineage.Lineage) -> None:
    uses = lineage.examples_behind(behind)
    demos = uses.filter(pl.col("use") == "demo")["example_id"].to_list()
    assert sorted(demos) == sorted(str(demo.example_id) for demo in behind.version.text.demos)
    assert uses.filter(pl.col("outcome").is_not_null())["use"].unique().to_list() == ["test"]


def test_demos_that_this_sample_does_not_hold_are_rows_all_the_same(behind: lineage.Lineage) -> None:
    older, written = Demo("a message", "repair", "e-of-another-sample"), Demo("another", "refund")
    text = replace(behind.version.text, demos=(*behind.version.text.demos, older, written))
    found = lineage.examples_behind(replace(behind, version=replace(behind.version, text=text)))
    assert found.height == N_LABELS + 2
    demos = found.filter(pl.col("use") == "demo").select("provenance", "expected").rows()
    assert ("earlier sample", "repair") in demos
    assert ("by hand", "refund") in demos


def test_a_version_that_a_person_wrote_ends_there(weeks: Workbench) -> None:
    found = lineage.follow_back(weeks, "ticket-request", 1)
    assert (found.study, found.comparison, found.sample, found.gaps) == (None, None, None, ())
    assert lineage.chain(found).row(-1)[2].startswith("none: ada wrote it")
    assert lineage.examples_behind(found).is_empty()


def test_the_version_that_a_proof_made_live_is_looked_at_first(weeks: Workbench) -> None:
    assert lineage.pick_version(weeks.registry) == ("ticket-request", 2)
    assert lineage.pick_version(weeks.registry, template_id="greeting") == ("greeting", 1)
    assert lineage.pick_version(weeks.registry, template_id="ticket-request", number=1) == ("ticket-request", 1)


def test_what_cannot_be_picked_says_what_can(weeks: Workbench, tmp_path: Path) -> None:
    with pytest.raises(TemplateNotFoundError, match="name one of 1, 2"):
        lineage.pick_version(weeks.registry, template_id="ticket-request", number=9)
    with pytest.raises(TemplateNotFoundError, match="of which template"):
        lineage.pick_version(weeks.registry, number=2)
    with pytest.raises(TemplateNotFoundError, match="route-switch template register"):
        lineage.pick_version(open_data(tmp_path).registry)


def test_records_that_are_lost_or_changed_are_gaps_and_no_failure(weeks: Workbench, tmp_path: Path) -> None:
    shutil.copytree(weeks.data, tmp_path / "data")
    copied = open_data(tmp_path / "data")
    found = lineage.follow_back(copied, "ticket-request", 2)
    assert found.comparison is not None
    copied.studies.save_comparison(replace(found.comparison, live_version=7))
    shutil.rmtree(tmp_path / "data" / "samples")
    [changed, lost] = lineage.follow_back(copied, "ticket-request", 2).gaps
    assert "was changed since" in changed
    assert "There is no sample" in lost
    shutil.rmtree(tmp_path / "data" / "studies")
    without = lineage.follow_back(copied, "ticket-request", 2)
    assert [gap.split(" is not in ")[0].split()[0] for gap in without.gaps] == ["Study", "The"]
    assert lineage.chain(without)["step"].to_list() == ["version", "publish", "gap", "gap"]


def test_what_was_made_live_is_listed_with_who_did_it(weeks: Workbench) -> None:
    times = lineage.times_made_live(weeks.registry.get("ticket-request"))
    assert times.select("version", "action", "by", "proven").rows() == [
        (1, "register", "ada", False),
        (2, "publish", "gate", True),
    ]
    assert times["at"][1] == PUBLISHED_AT

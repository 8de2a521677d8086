"""What a person reads in the Dagster UI after a run: pictures, tables, checks, and the way back to study and traces."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rs_gateway.domain.prompts import Demo
from rs_gateway.domain.publication import Action, Change
from rs_pipelines import results, steps
from rs_pipelines.defs.checks import comparison_checks, sample_checks
from rs_pipelines.defs.instance import opened_instance
from rs_pipelines.defs.runs import OptimizeRun, SampleRefusedError, optimize_in_process
from rs_pipelines.effort import Effort
from rs_pipelines.sample import Split
from rs_pipelines.workbench import Workbench
from tests.pipelines.parcels import LIVE, ORIGIN
from tests.pipelines.test_forgetting import fill
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Shown:
    """A run over labelled traffic, and what the UI shows of it."""

    bench: Workbench
    run: OptimizeRun
    instance: dg.DagsterInstance

    def of(self, asset: str) -> Mapping[str, Any]:
        """Metadata of what the asset was made with last."""
        [record] = self.instance.fetch_materializations(dg.AssetKey(asset), limit=1).records
        assert record.asset_materialization is not None
        return {name: entry.value for name, entry in record.asset_materialization.metadata.items()}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shown]:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path_factory.mktemp("shown"), upstream, mipro_v2={"num_trials": 4, "max_calls": 2_000})
        fill(bench)
        run = optimize_in_process(bench, bench.target("parcels"), Effort())
    with opened_instance(bench) as instance:
        yield Shown(bench, run, instance)


def test_every_table_says_how_many_rows_it_has(shown: Shown) -> None:
    study = results.study_of(shown.bench, shown.bench.target("parcels"))
    rows = {name: shown.of(name)["dagster/row_count"] for name in ("traces", "feedback", "calibration_sample", "study")}
    assert rows == {"traces": 180, "feedback": 180, "calibration_sample": 180, "study": len(study.trials)}
    assert shown.of("comparison")["dagster/row_count"] == shown.of("calibration_sample")["test"]


def test_a_study_shows_its_course_its_leaders_and_every_trial(shown: Shown) -> None:
    study, found = results.study_of(shown.bench, shown.bench.target("parcels")), shown.of("study")
    assert found["history"].startswith("![study history](data:image/svg+xml,")
    assert "| candidate |" in found["leaders"]
    assert [record.data["trial"] for record in found["trial_table"].records] == [t.number for t in study.trials]
    assert study.best_text is not None and study.best_text.instruction in found["chosen"]
    assert found["best_value"] > found["live_value"]


def test_a_comparison_shows_before_and_after_with_the_interval_and_the_rows_won_and_lost(shown: Shown) -> None:
    compared, found = results.comparison_of(shown.bench, shown.bench.target("parcels")), shown.of("comparison")
    assert found["before_after"].startswith("![before and after](data:image/svg+xml,")
    assert found["interval_low"] < found["mean_candidate"] - found["mean_live"] < found["interval_high"]
    won, lost = compared.rows_with("won"), compared.rows_with("lost")
    assert won[0].expected in found["rows_won"]
    assert found["rows_lost"] == "none" if not lost else lost[0].expected in found["rows_lost"]


def test_a_publication_leads_back_to_its_study_and_to_the_traces_of_its_rows_those_of_its_demos_first(
    shown: Shown,
) -> None:
    bench, target, found = shown.bench, shown.bench.target("parcels"), shown.of("publication")
    live = bench.live(target)
    assert (found["version"], found["study_id"]) == (live.number, live.origin.study_id)
    assert found["study"] == "/assets/study?view=partitions&partition=parcels%40tiny"
    assert found["study_run"] == shown.run.run_id
    assert (Path(found["study_files"]) / "study.json").exists()
    rows = [record.data for record in found["trace_ids"].records]
    traced = {
        e.example_id: e.trace_id
        for e in bench.samples.load(target, shown.of("calibration_sample")["sample_id"]).examples
    }
    assert all(traced[str(row["example_id"])] == row["trace_id"] for row in rows)
    demos = [row["example_id"] for row in rows if row["used_as"] == "demo"]
    assert demos == [row["example_id"] for row in rows][: len(demos)]
    assert set(demos) == {demo.example_id for demo in live.text.demos} != set()
    in_lake = set(bench.lake.traces(["trace_id"]).collect()["trace_id"])
    assert {row["trace_id"] for row in rows} <= in_lake


def test_all_six_checks_are_made_in_a_run_and_say_what_they_found(shown: Shown) -> None:
    keys = [spec.key for checks in (sample_checks, comparison_checks) for spec in checks.check_specs]
    said: dict[str, str] = {}
    for key in keys:
        [record] = shown.instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
        assert record.evaluation is not None and record.evaluation.passed, key
        said[key.name] = str(record.evaluation.description)
    assert said["no_example_in_two_splits"] == "180 inputs, each on one side"
    assert "train" in said["enough_rows"] and "no closed list" in said["label_balance"]
    assert "expected answers score 1.000" in said["evaluator_sanity"]
    assert "of 2,000" in said["cost_within_budget"]
    assert said["beats_live"]


def test_a_sample_that_leaks_stops_the_run_before_any_call_with_the_row_and_the_remedy(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        steps.ingest(bench)
        [leaked, *_] = steps.draw(bench, target).rows(Split.TEST)
        text = replace(LIVE, demos=(Demo("Where is it?", "AX-1234", leaked.example_id),))
        version = bench.registry.add_version("parcels", text, model=None, origin=ORIGIN)
        bench.registry.make_live(
            "parcels", Change(Action.PUBLISH, version.number, None, "ann", "now", "a slip", previous=1)
        )
        with pytest.raises(SampleRefusedError) as refused:
            optimize_in_process(bench, target, Effort())
    assert upstream.requests == []
    assert f"Demos of the live version are test rows ({leaked.example_id})" in str(refused.value)
    assert "publish a version without them" in str(refused.value)

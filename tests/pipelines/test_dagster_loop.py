"""The whole loop as Dagster runs it, on a scripted model behind a real server."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetCheckEvaluation
from dagster._core.execution.plan.objects import UserFailureData

from rs_gateway.domain.errors import ConfigurationError, RouteSwitchError
from rs_gateway.domain.evaluation import Answer
from rs_pipelines import results, steps
from rs_pipelines.definitions import build_defs
from rs_pipelines.defs.checks import comparison_checks
from rs_pipelines.defs.instance import dagster_home
from rs_pipelines.defs.optimization import StudyConfig, study
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import Stores
from rs_pipelines.defs.run_study import RunStudy, study_of_run
from rs_pipelines.defs.runs import add_partitions, optimize_in_process
from rs_pipelines.effort import Effort
from rs_pipelines.mipro.events import StudyFinished
from rs_pipelines.preflight import PreflightError
from rs_pipelines.sample_draw import LabelShortageError
from rs_pipelines.step_events import Event
from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.pipelines.packaged import bench_in
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.upstream import Exchange, Upstream


def started_steps(instance: dg.DagsterInstance, run_id: str) -> set[str | None]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_START).records
    return {record.event_log_entry.step_key for record in records}


def evaluations(instance: dg.DagsterInstance) -> dict[str | None, AssetCheckEvaluation]:
    """Partition -> the latest evaluation of `beats_live` that is stored for it."""
    key = dg.AssetCheckKey(dg.AssetKey("comparison"), "beats_live")
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=20)
    return {r.partition: r.evaluation for r in reversed(history) if r.evaluation is not None}


def test_the_whole_loop_publishes_a_proven_gain_and_the_run_is_in_dagsters_history(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        run_id = optimize_in_process(bench, target, Effort()).run_id
        comparison = results.comparison_of(bench, target)
    assert comparison.verdict.publish, comparison.verdict.reasons
    live = bench.live(target)
    assert live.number == 2
    assert live.origin.comparison_id == comparison.comparison_id
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.SUCCESS
        records = instance.fetch_materializations(dg.AssetKey("publication"), limit=1).records
        assert [r.run_id for r in records] == [run_id]
        assert "publication" in started_steps(instance, run_id)


def test_the_check_blocks_and_is_partitioned_as_the_targets_are() -> None:
    [spec] = [spec for spec in comparison_checks.check_specs if spec.name == "beats_live"]
    assert spec.blocking
    assert spec.partitions_def is targets


def test_without_a_proven_gain_the_check_fails_and_publication_never_starts(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream, evaluation={"min_gain": 0.9})
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        run = optimize_in_process(bench, target, Effort())
        assert not results.comparison_of(bench, target).verdict.publish
    assert bench.live(target).number == 1
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        evaluation = evaluations(instance)[target.key]
        assert (evaluation.passed, evaluation.blocking) == (False, True)
        assert "study" in started_steps(instance, run.run_id)
        assert "publication" not in started_steps(instance, run.run_id)


def test_one_targets_proof_lets_no_other_target_through(tmp_path: Path) -> None:
    async def teachable_or_deaf(exchange: Exchange) -> None:
        behave = wire.answers("I do not know.") if exchange.body["model"] == "deaf" else tiny
        await behave(exchange)

    models = ("tiny", "deaf")
    combinations = [{"id": m, "template_id": "parcels", "model": m, "provider": "scripted"} for m in models]
    with Upstream([teachable_or_deaf]).running() as upstream:
        bench = workbench(tmp_path, upstream, gateway={"combinations": combinations})
        import_parcels(tmp_path, bench)
        teachable, deaf = (bench.target("parcels", model) for model in models)
        runs = [optimize_in_process(bench, target, Effort()).run_id for target in (teachable, deaf)]
    assert (bench.live(teachable).number, bench.live(deaf).number) == (2, 1)
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        passed = {partition: evaluation.passed for partition, evaluation in evaluations(instance).items()}
        assert passed == {teachable.key: True, deaf.key: False}
        assert ["publication" in started_steps(instance, run_id) for run_id in runs] == [True, False]


def test_the_steps_of_a_run_work_on_its_own_study_whichever_study_ended_last(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        steps.ingest(bench)
        steps.draw(bench, target)
        other = steps.search(bench, target, Effort(seed=1))

        def another_ends(event: Event) -> None:
            if isinstance(event, StudyFinished):
                bench.studies.set_latest(other)

        run = optimize_in_process(bench, target, Effort(), watch=another_ends)
    assert run.study_id != other.study_id
    assert results.study_of(bench, target).study_id == other.study_id
    assert bench.studies.load_comparison(target, other.study_id) is None
    assert bench.live(target).origin.study_id == run.study_id
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        assert evaluations(instance)[target.key].metadata["study_id"].value == run.study_id
        [published] = instance.fetch_materializations(dg.AssetKey("publication"), limit=1).records
        assert published.asset_materialization is not None
        assert published.asset_materialization.metadata["study_id"].value == run.study_id


def test_dagster_stores_that_a_killed_process_left_half_made_are_made_anew(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
    half_made = tmp_path / "data/dagster/history/runs"
    half_made.mkdir(parents=True)
    connection = sqlite3.connect(half_made.parent / "runs.db")
    connection.execute("CREATE TABLE runs (id INTEGER)")
    connection.close()
    connection = sqlite3.connect(half_made / "index.db")
    connection.execute("CREATE TABLE event_logs (id INTEGER)")
    connection.close()
    add_partitions(bench)
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        assert instance.get_dynamic_partitions("targets") == ["parcels@tiny"]


def test_several_processes_may_be_the_first_at_once(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
    code = f"""
import sqlite3
import subprocess
import sys
from pathlib import Path
from rs_pipelines.defs.runs import add_partitions
from rs_pipelines.workbench import Workbench
add_partitions(Workbench.at(Path({str(bench.settings.config_path)!r})))
"""
    first = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    results = [(process.communicate(timeout=400)[1], process.returncode) for process in first]
    assert [code for _, code in results] == [0, 0, 0], results


def test_no_labels_is_refused_with_the_remedy_before_any_call_is_paid(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        with pytest.raises(LabelShortageError, match="route-switch dataset import parcels"):
            optimize_in_process(bench, bench.target("parcels"), Effort())
    assert upstream.requests == []
    step, said = failure_of_the_last_run(bench)
    assert step == "calibration_sample"
    assert "route-switch dataset import parcels" in str(said.description)
    assert said.metadata["error_code"].value == "no_labels"
    assert "launch the run again" in str(said.metadata["what_to_do"].value)


def failure_of_the_last_run(bench: Workbench) -> tuple[str | None, UserFailureData]:
    """The step that failed, and what it says in the UI."""
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        [run] = instance.get_runs(limit=1)
        [failure] = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
        assert run.status is dg.DagsterRunStatus.FAILURE
    event = failure.event_log_entry.get_dagster_event()
    said = event.step_failure_data.user_failure_data
    assert said is not None
    return event.step_key, said


def test_a_provider_that_refuses_in_mid_study_fails_the_run_with_its_words_and_where_to_look(tmp_path: Path) -> None:
    with Upstream([*[tiny] * 20, wire.fails(401)]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        with pytest.raises(RouteSwitchError):
            optimize_in_process(bench, bench.target("parcels"), Effort())
    step, said = failure_of_the_last_run(bench)
    assert step == "study"
    assert "provider_refused" in str(said.description)
    assert said.metadata["error_code"].value == "study_failed"
    assert "route-switch check --live" in str(said.metadata["what_to_do"].value)


def test_a_disk_that_is_full_in_mid_study_fails_the_run_with_the_place_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "in the system's language", "data/studies/journal.log")

    monkeypatch.setattr(steps, "search", full)
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        with pytest.raises(OSError, match=r"journal\.log"):
            optimize_in_process(bench, bench.target("parcels"), Effort())
    step, said = failure_of_the_last_run(bench)
    assert step == "study"
    assert said.description == f"{os.strerror(errno.ENOSPC)}: data/studies/journal.log."
    assert said.metadata["error_code"].value == "disk"
    assert str(said.metadata["what_to_do"].value).startswith("Free room there, then **Re-execute")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_trials": -3}, "num_trials is -3: it is at least 1"),
        ({"max_cost_usd": float("nan")}, "max_cost_usd is nan: it is over 0"),
        ({"seed": -1}, "seed is -1: it is 0 to 4294967295"),
    ],
)
def test_a_number_in_the_launchpad_that_cannot_be_is_named_with_its_range(
    tmp_path: Path, config: dict[str, object], words: str
) -> None:
    context = dg.build_asset_context(partition_key="parcels@tiny")
    with pytest.raises(dg.Failure, match=words) as failure:
        study(context, config=StudyConfig.model_validate(config), stores=Stores(lambda: bench_in(tmp_path)))
    assert "launchpad" in str(failure.value.metadata["what_to_do"].value)


def test_an_evaluator_of_one_run_that_cannot_tell_right_from_wrong_is_a_red_check(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        with pytest.raises(PreflightError):
            optimize_in_process(bench, bench.target("parcels"), Effort(evaluator={"name": "Regex", "pattern": "never"}))
    key = dg.AssetCheckKey(dg.AssetKey("calibration_sample"), "evaluator_sanity")
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        [record] = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    assert record.evaluation is not None
    assert not record.evaluation.passed


def test_a_run_executed_again_from_a_failure_works_on_the_study_that_its_parent_searched(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        searched = optimize_in_process(bench, bench.target("parcels"), Effort())
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        runs = [dg.DagsterRun(job_name="optimize", parent_run_id=searched.run_id, root_run_id=searched.run_id)]
        runs.append(dg.DagsterRun(job_name="optimize", parent_run_id=runs[0].run_id, root_run_id=searched.run_id))
        runs.append(dg.DagsterRun(job_name="optimize"))
        for run in runs:
            instance.add_run(run)
        found = [study_of_run(instance, run.run_id) for run in runs]
    theirs = RunStudy(searched.study_id, searched.run_id)
    assert found == [theirs, theirs, None]


def test_an_evaluator_for_one_run_scores_its_search_and_its_comparison_alike(tmp_path: Path) -> None:
    own = {"name": "KeywordMatch", "threshold": 0.5}
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        run = optimize_in_process(bench, target, Effort(evaluator=own, num_trials=2))
        study = results.study_of(bench, target, run.study_id)
        assert study.evaluator_spec == own
        assert study.evaluator.startswith("keyword_match")
        with pytest.raises(ConfigurationError, match="There is no evaluator 'Exakt'"):
            optimize_in_process(bench, target, Effort(evaluator={"name": "Exakt"}))
        compared = results.comparison_of(bench, target, run.study_id)
        expected = bench.evaluator_of(own)
    for row in compared.rows:
        if row.live_output is not None:
            assert [s.value for s in expected.score([Answer(row.live_output, row.expected)])] == [row.live_value]


def test_materializing_publication_alone_cannot_bypass_the_gate(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream, evaluation={"min_gain": 0.9})
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        optimize_in_process(bench, target, Effort())
        key = dg.AssetKey("publication")
        with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
            job = build_defs({"stores": Stores(lambda: bench)}).resolve_implicit_global_asset_job_def()
            result = job.execute_in_process(
                instance=instance, partition_key=target.key, asset_selection=[key], raise_on_error=False
            )
        assert not result.success
    assert bench.live(target).number == 1

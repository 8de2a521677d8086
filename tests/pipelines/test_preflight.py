"""The pre-flight: what it says, what it refuses and with which remedy, and what it spends."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from rs_gateway.domain.evaluation import Answer, Score
from rs_pipelines import cli, results, steps
from rs_pipelines.cost_estimate import CostEstimate
from rs_pipelines.effort import Effort
from rs_pipelines.evaluator_sanity import EvaluatorSanity, check_evaluator
from rs_pipelines.evaluators.exact_match import ExactMatch
from rs_pipelines.examples import Gathered
from rs_pipelines.foresight import Needed
from rs_pipelines.gate import GatePolicy
from rs_pipelines.live_probe import LiveProbe, probe_of
from rs_pipelines.preflight import BudgetCheck, Preflight, PreflightError, assess
from rs_pipelines.progress import print_preflight
from rs_pipelines.provable import provable
from rs_pipelines.report import preflight_lines, preflight_markdown
from rs_pipelines.sample import CalibrationSample, Split, sample_of
from rs_pipelines.scoring import RowScore
from rs_pipelines.spending import Allowance
from rs_pipelines.step_events import Event, Probing
from tests import upstream as wire
from tests.pipelines.parcels import parcels
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.upstream import Upstream

SANE = EvaluatorSanity(40, 1.0, 0.0, binary=True)
COST = GatePolicy(objective="cost", max_loss=0.05)


def probe(*values: float) -> LiveProbe:
    return LiveProbe(len(values), values, None, 40, 5, 0.5)


HALF = probe(*[0.0, 1.0] * 5)


def assessed(
    sample: CalibrationSample | None = None,
    *,
    policy: GatePolicy | None = None,
    evaluator: EvaluatorSanity | None = SANE,
    live: LiveProbe | None = HALF,
) -> Preflight:
    sample = sample or parcels()
    gathered = Gathered(sample.examples, duplicates=3)
    return assess(gathered, sample, policy=policy or GatePolicy(), evaluator=evaluator, live=live)


class Upside:
    """Gives wrong answers more than right ones."""

    name = "upside@1"

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        return [Score(0.2 if a.output == a.expected else 0.7, False, "", self.name) for a in answers]


def test_it_says_what_rows_there_are_and_what_they_can_prove() -> None:
    found = assessed()
    assert (found.usable, found.duplicates, found.by_provenance) == (180, 3, {"human": 180})
    assert found.by_split == {"train": 40, "val": 60, "test": 80}
    assert found.objections == found.warnings == ()
    assert found.provable == provable(80, policy=GatePolicy(), evaluator=SANE, live=HALF)


def test_a_noisy_live_prompt_is_warned_of() -> None:
    noisy = assessed(live=replace(HALF, noise=0.45))
    assert "differs from itself by 0.450" in noisy.warnings[0]


def test_too_few_test_rows_are_refused_with_the_remedy() -> None:
    [objection] = assessed(parcels(test=12)).objections
    assert "The test split has 12 rows; `evaluation.min_test_rows` wants 30" in objection
    assert "POST /v1/feedback" in objection


def test_a_live_prompt_with_nothing_left_to_win_is_refused_but_a_few_lucky_rows_are_no_proof_of_that() -> None:
    few = probe(*[1.0] * 3)
    assert assessed(parcels(test=30), live=few).objections == ()
    [objection] = assessed(parcels(test=30), live=probe(*[1.0] * 20)).objections
    assert "leaves at most 4 of 30 test rows to win" in objection
    assert "evaluation.objective: cost" in objection


def test_a_required_gain_that_is_out_of_reach_is_refused() -> None:
    [objection] = assessed(policy=GatePolicy(min_gain=0.9)).objections
    assert "a gain above 0.9" in objection


def test_for_cost_it_says_which_loss_can_be_ruled_out_and_refuses_where_none_can() -> None:
    found = assessed(policy=COST)
    assert (found.provable.kind, found.objections) == ("loss", ())
    [objection] = assessed(policy=replace(COST, max_loss=0.02)).objections
    assert "80 test rows cannot rule out a loss of 0.02" in objection
    assert "183 are needed" in objection


def test_an_evaluator_that_prefers_wrong_answers_is_refused() -> None:
    sanity = check_evaluator(Upside(), parcels().examples)
    assert (sanity.mean_right, sanity.mean_wrong, sanity.binary) == (pytest.approx(0.2), pytest.approx(0.7), False)
    [objection] = assessed(evaluator=sanity).objections
    assert "cannot tell right from wrong" in objection


def test_an_evaluator_that_separates_passes() -> None:
    assert check_evaluator(ExactMatch(), parcels().examples) == SANE


def test_rows_that_all_expect_the_same_are_no_test_of_the_evaluator() -> None:
    same = tuple(replace(e, expected="yes") for e in parcels().examples)
    found = assessed(sample_of("parcels", "tiny", same), evaluator=check_evaluator(ExactMatch(), same))
    assert found.evaluator is not None
    assert (found.evaluator.mean_wrong, found.objections) == (None, ())
    assert "All rows expect the same answer" in found.warnings[0]


def test_a_model_that_cannot_be_reached_is_refused_before_the_search() -> None:
    silent = probe_of([RowScore("e1", None, None, None, "provider_timeout: slow", None, None)], [], seconds_per_call=1)
    [objection] = assessed(live=silent).objections
    assert "provider_timeout: slow" in objection


def test_a_budget_too_small_for_a_verdict_is_refused_with_what_it_takes() -> None:
    least, cost = Needed(400, 12_300, 0.4), CostEstimate(900, 50_000, 8_842, 2.0, 60.0)

    def found(allowance: Allowance) -> Preflight:
        sample = parcels()
        gathered, check = Gathered(sample.examples, duplicates=0), BudgetCheck(allowance, least, 1_000)
        return assess(gathered, sample, policy=GatePolicy(), evaluator=SANE, live=HALF, cost=cost, budget=check)

    [tokens] = found(Allowance(tokens=3_000)).objections
    assert "`mipro_v2.max_tokens` is 3,000" in tokens
    assert "about 12,300 tokens" in tokens and "at most about 58,842" in tokens
    [usd] = found(Allowance(usd=0.1)).objections
    assert "`mipro_v2.max_cost_usd` is 0.1" in usd and "about 0.4 USD" in usd
    enough = found(Allowance(tokens=29_421, usd=3))
    assert enough.objections == ()
    assert enough.warnings == ("`mipro_v2.max_tokens` covers 50% of what the plan may take: the search may end early.",)
    [calls] = found(Allowance(calls=750)).warnings
    assert calls == "`mipro_v2.max_calls` covers 75% of what the plan may take: the search may end early."


def test_terminal_and_dagster_show_the_same_lines() -> None:
    found = assessed(parcels(test=12), live=replace(HALF, noise=0.4))
    console = Console(record=True, width=400)
    print_preflight(console, found)
    shown, markdown = console.export_text(), preflight_markdown(found)
    for words in ("12 test", "smallest provable gain", "differs from itself by 0.400", "The test split has 12 rows"):
        assert words in shown
        assert words in markdown


def test_noise_that_was_not_measured_is_not_said_to_be_nothing() -> None:
    def words(live: LiveProbe) -> str:
        return dict(preflight_lines(assessed(live=live)))["live prompt"]

    scored, silent = RowScore("e1", 1.0, True, "x", None, 1, 1), RowScore("e1", None, None, None, "slow", None, None)
    once, twice, half = (probe_of([scored], again, seconds_per_call=1) for again in ([], [scored], [silent]))
    assert "not measured how much it differs from itself (temperature 0, so each row was asked once)" in words(once)
    assert "differs from itself by 0.000 (1 rows asked twice)" in words(twice)
    assert "not measured how much it differs from itself (no row was answered twice)" in words(half)


def test_who_vouches_for_the_test_rows_is_told_where_it_is_not_people_alone() -> None:
    sample = parcels()
    taught = tuple(replace(e, provenance="teacher:big") if n >= 140 else e for n, e in enumerate(sample.examples))
    found = assessed(sample_of(sample.template_id, sample.model, taught))
    assert dict(preflight_lines(found))["test rows by"] == "40 human, 40 teacher:big"
    assert "test rows by" not in dict(preflight_lines(assessed()))


def test_it_says_how_many_validation_rows_are_used_and_that_a_judge_is_not_checked() -> None:
    sample = parcels()

    def lines(val_rows: int) -> dict[str, str]:
        gathered = Gathered(sample.examples, duplicates=0)
        return dict(preflight_lines(assess(gathered, sample, policy=GatePolicy(), val_rows=val_rows, judged=True)))

    assert lines(50)["split"] == "40 train, 60 val (50 of them used), 80 test"
    assert lines(100)["split"] == "40 train, 60 val, 80 test"
    assert lines(100)["evaluator"] == "not measured: a judge costs calls"


def test_the_probe_calls_are_the_searches_own_and_are_made_once(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        sample = steps.draw(bench, target)
        events: list[Event] = []
        found = steps.preflight(bench, target, Effort(num_trials=1), watch=events.append)
        assert events == [Probing(10), found]
        assert len(upstream.requests) == 10
        assert found.live is not None
        assert (len(found.live.values), found.live.noise, found.live.asked_twice) == (10, None, 0)
        assert steps.preflight(bench, target, Effort(num_trials=1)).live == replace(found.live, seconds_per_call=None)
        study = steps.search(bench, target, Effort(num_trials=1))
        assert len(upstream.requests) == study.calls
    assert len(sample.rows(Split.TEST)) == 80


def test_at_a_temperature_above_zero_some_rows_are_asked_twice(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        warm = {"id": "warm", "template_id": "parcels", "model": "tiny", "provider": "scripted"}
        combinations = [{**warm, "parameters": {"temperature": 0.7}}]
        bench = workbench(tmp_path, upstream, gateway={"combinations": combinations})
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        steps.draw(bench, target)
        found = steps.preflight(bench, target)
    assert len(upstream.requests) == 15
    assert found.live is not None
    assert (found.live.asked_twice, found.live.noise) == (5, 0.0)


def test_a_search_that_could_prove_nothing_is_refused_after_the_probe_calls(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench, test=20)
        target = bench.target("parcels")
        steps.draw(bench, target)
        with pytest.raises(PreflightError, match="The test split has 20 rows"):
            steps.search(bench, target)
    assert len(upstream.requests) == 10


def test_a_limit_that_covers_no_call_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bounded = {"id": "p", "template_id": "parcels", "model": "tiny", "provider": "scripted"}
        combinations = [{**bounded, "parameters": {"max_tokens": 50}}]
        limit = {"mipro_v2": {"max_tokens": 100}}
        bench = workbench(tmp_path, upstream, gateway={"combinations": combinations}, **limit)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        steps.draw(bench, target)
        with pytest.raises(PreflightError) as refused:
            steps.search(bench, target)
    assert upstream.requests == []
    (objection,) = refused.value.objections
    assert re.search(r"`mipro_v2.max_tokens` is 100, but .* take about [\d,]+ tokens", objection)


def test_too_few_calls_are_refused_in_the_table_and_in_json_without_asking_anybody(tmp_path: Path) -> None:
    app, runner = typer.Typer(), CliRunner()
    cli.register(app)
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        command = ["optimize", "parcels", "--max-calls", "10", "--config", str(bench.settings.config_path)]
        plain = runner.invoke(app, [*command, "--preflight"])
        printed = runner.invoke(app, [*command, "--preflight", "--json"])
        with pytest.raises(PreflightError, match=r"mipro_v2\.max_calls is 10, but"):
            runner.invoke(app, command, catch_exceptions=False)
        assert upstream.requests == []
    assert (plain.exit_code, printed.exit_code) == (1, 1)
    assert "smallest provable gain" in plain.stdout and "refused" in plain.stdout
    [objection] = json.loads(printed.stdout)["objections"]
    assert "mipro_v2.max_calls is 10, but this sample needs at least" in objection


def test_the_command_line_prints_it_alone_and_exits_with_1_where_it_refuses(tmp_path: Path) -> None:
    app, runner = typer.Typer(), CliRunner()
    cli.register(app)
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        command = ["optimize", "parcels", "--preflight", "--config", str(bench.settings.config_path)]
        plain = runner.invoke(app, command)
        assert plain.exit_code == 0, plain.output
        assert "smallest provable gain" in plain.stdout
        assert "asking the live prompt at most 10 times" in plain.stderr
        found = json.loads(runner.invoke(app, [*command, "--json"]).stdout)
        assert (found["by_split"]["test"], found["objections"]) == (80, [])
        assert len(upstream.requests) == 10
        assert bench.studies.latest(bench.target("parcels")) is None
        (tmp_path / "small").mkdir()
        small = workbench(tmp_path / "small", upstream, evaluation={"min_test_rows": 100})
        import_parcels(tmp_path / "small", small)
        refused = runner.invoke(app, [*command[:-1], str(small.settings.config_path)])
        assert refused.exit_code == 1
        assert "`evaluation.min_test_rows` wants 100" in refused.stdout.replace("\n", " ")


def test_where_the_budget_ended_a_search_without_a_find_the_reasons_say_so(tmp_path: Path) -> None:
    with Upstream([wire.answers("always the same")]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        steps.draw(bench, target)
        steps.search(bench, target, Effort(max_calls=290))
        comparison = steps.compare(bench, target)
    assert len(upstream.requests) <= 290
    assert results.reasons(bench, comparison)[-1] == (
        "The budget ended the search: raise `mipro_v2.max_calls` (290) to look at more."
    )

"""The optimiser's benchmark: what a replay counts, what DSPy's policy does on it, and how policies are judged."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.dspy_policy import DspyPolicy
from benchmarks.judging import Run, judge, overall, verdict
from benchmarks.live_runs import LiveRun, add_run, load_runs
from benchmarks.optimizer_report import as_json
from benchmarks.replay_policies import HalvingPolicy, RacingPolicy, RandomPolicy, TpePolicy
from benchmarks.replays import CallsSpentError, Policy, Replay
from benchmarks.score_tables import Resplit, load_table, resplit, save_table
from benchmarks.synthetic_tables import synthetic_table
from benchmarks.task_rows import load_rows
from rs_pipelines.mipro.records import LIVE, Candidate
from rs_pipelines.sample import Split

POLICIES: tuple[Policy, ...] = (RacingPolicy(step=10), TpePolicy(), HalvingPolicy(), RandomPolicy())


def _replay(seed: int = 0, *, max_calls: int | None = None) -> Replay:
    table = synthetic_table(seed, n_rows=80)
    return Replay(table, resplit(table.n_rows, n_val=50, seed=seed), max_calls=max_calls)


@given(st.integers(2, 300), st.integers(0, 10_000))
def test_a_resplit_puts_every_row_on_exactly_one_side(n_rows: int, seed: int) -> None:
    split = resplit(n_rows, n_val=n_rows // 2, seed=seed)
    assert sorted((*split.val, *split.test)) == list(range(n_rows))
    assert len(split.val) == n_rows // 2


def test_a_score_costs_a_call_once() -> None:
    replay = _replay()
    first = replay.score(LIVE, range(10))
    assert replay.score(LIVE, range(10)) == first
    assert (replay.calls, replay.evaluations) == (10, 20)


def test_a_replay_gives_no_score_beyond_its_budget() -> None:
    replay = _replay(max_calls=10)
    with pytest.raises(CallsSpentError):
        replay.score(LIVE, range(11))
    assert replay.calls == 10


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@settings(max_examples=5)
@given(seed=st.integers(0, 1_000), max_calls=st.integers(50, 400))
def test_no_policy_spends_more_than_its_budget_and_the_same_seed_chooses_the_same(
    policy: Policy, seed: int, max_calls: int
) -> None:
    replay, again = _replay(seed, max_calls=max_calls), _replay(seed, max_calls=max_calls)
    assert policy(replay, seed) == policy(again, seed)
    assert replay.calls <= max_calls
    assert len(replay.seen[LIVE]) == 50, "the default is a fully evaluated contender"


@pytest.mark.parametrize(("num_trials", "full_evaluations"), [(10, 3), (12, 4), (15, 4), (4, 2)])
def test_dspys_policy_evaluates_minibatches_and_after_every_fifth_and_the_last_all_rows(
    num_trials: int, full_evaluations: int
) -> None:
    replay = _replay(3)
    DspyPolicy(num_trials=num_trials, minibatch_size=20)(replay, 7)
    assert replay.evaluations == 20 * num_trials + 50 * full_evaluations


def test_dspys_policy_returns_the_strictly_best_of_what_it_evaluated_in_full() -> None:
    replay = _replay(5)
    choice = DspyPolicy(minibatch_size=20)(replay, 1)
    full = {candidate: fmean(seen.values()) for candidate, seen in replay.seen.items() if len(seen) == 50}
    assert full[choice] == max(full.values())


def test_dspys_policy_keeps_the_default_when_nothing_is_better() -> None:
    table = synthetic_table(0, n_rows=80)
    flat = replace(table, scores=tuple((1000,) * 80 for _ in table.scores))
    assert DspyPolicy(minibatch_size=20)(Replay(flat, resplit(80, n_val=50, seed=0)), 0) == LIVE


def test_racing_finds_a_candidate_that_is_better_by_far() -> None:
    table = synthetic_table(0, n_rows=80)
    rng = Random(0)
    scores = [tuple(1000 * (rng.random() < 0.3) for _ in range(80)) for _ in table.scores]
    scores[9] = tuple(1000 * (rng.random() < 0.9) for _ in range(80))
    steep = replace(table, scores=tuple(scores))
    replay = Replay(steep, resplit(80, n_val=50, seed=0), max_calls=250)
    assert RacingPolicy()(replay, 0) == table.candidates[9]


def test_a_policy_that_is_the_reference_differs_from_it_by_nothing() -> None:
    table, reference = synthetic_table(1, n_rows=80), DspyPolicy(num_trials=5, minibatch_size=20)
    found = verdict(list(judge(table, {"same": reference}, reference=reference, seeds=range(4), n_val=50)))
    assert (found.diff, found.diff_se, found.below) == (0, 0, found.reference_below)
    assert overall([found]).regret_ratio == 1


def test_the_overall_figures_weigh_every_table_alike() -> None:
    def runs(table: str, gain: float) -> list[Run]:
        return [Run(table, "p", seed, 0.5 + gain, 0.5, 0.5, 0.7, 0.7, calls=1, calls_allowed=1) for seed in range(3)]

    figures = overall([verdict(runs("a", 0.1)), verdict(runs("b", -0.02))])
    assert figures.mean_diff == pytest.approx(0.04)
    assert figures.worst_table_diff == pytest.approx(-0.02)
    assert figures.regret_ratio == pytest.approx((0.1 + 0.22) / 0.4)
    assert figures.below_default == 0.5
    assert figures.pairs == 2


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = synthetic_table(2, n_rows=30)
    save_table(table, tmp_path / "tables" / "t.json")
    assert load_table(tmp_path / "tables" / "t.json") == table


def test_the_committed_tables_hold_whole_scores_of_every_candidate() -> None:
    for path in sorted((Path(__file__).parents[1] / "benchmarks" / "tables").glob("*.json")):
        table = load_table(path)
        assert len(table.scores) == len(table.lengths) == len(table.candidates)
        assert {len(row) for row in table.scores} == {table.n_rows}
        assert all(0 <= score <= 1000 for row in table.scores for score in row)
        assert path.stat().st_size < 200_000


def test_rows_come_from_lines_of_json(tmp_path: Path) -> None:
    line = {"id": "r1", "split": "val", "variables": {"message": "hello"}, "expected": "greeting"}
    path = tmp_path / "greetings.jsonl"
    path.write_text(json.dumps(line) + "\n\n")
    rows = load_rows(path)
    assert (rows.task, rows.user_template) == ("greetings", "{message}")
    assert [example.expected for example in rows.of(Split.VAL)] == ["greeting"]


def test_finished_live_runs_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    run = LiveRun(
        task="t",
        model="m",
        seed=1,
        default=0.5,
        ours=0.6,
        dspy=0.6,
        difference_se=0.01,
        calls_ours=300,
        calls_dspy=301,
        prompt_calls_ours=3,
        prompt_calls_dspy=20,
        tokens_ours=1,
        tokens_dspy=2,
        seconds_ours=1.0,
        seconds_dspy=2.0,
    )
    path = tmp_path / "live.jsonl"
    add_run(run, path)
    with path.open("a") as file:
        file.write('{"task": "t", "mod')
    assert load_runs(path) == [run]


def test_the_json_line_has_the_promised_names() -> None:
    table, reference = synthetic_table(1, n_rows=80), DspyPolicy(num_trials=5, minibatch_size=20)
    found = verdict(list(judge(table, {"racing": RandomPolicy()}, reference=reference, seeds=range(3), n_val=50)))
    figures = json.loads(as_json([found], []))
    assert set(figures["replay"]) == {
        "pairs",
        "seeds",
        "mean_diff",
        "mean_diff_se",
        "worst_table_diff",
        "regret_ratio",
        "below_default",
        "below_default_dspy",
    }
    assert figures["live"] == []


def test_a_candidate_is_judged_on_the_test_rows_alone() -> None:
    table = synthetic_table(0, n_rows=10)
    replay = Replay(table, Resplit(val=(0, 1), test=(2, 3)))
    assert replay.test_mean(Candidate(0, 1)) == fmean(table.scores_of[Candidate(0, 1)][2:4])

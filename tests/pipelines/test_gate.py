"""The gate: what is proof, and everything that is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.domain.prompts import Demo, PromptText
from rs_pipelines.gate import ComparedRow, GatePolicy, Verdict, judge

LIVE = PromptText("Answer {name}.", "{message}")
CANDIDATE = PromptText("Answer {name} at once.", "{message}", (Demo("a", "b", "e1"),))
values = st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0])


def rows(*pairs: tuple[float | None, float | None], tokens: int | None = 50) -> list[ComparedRow]:
    return [ComparedRow(str(n), "x", live, new, "", "", 10, tokens) for n, (live, new) in enumerate(pairs)]


def judged(
    compared: list[ComparedRow],
    policy: GatePolicy | None = None,
    *,
    live: PromptText = LIVE,
    candidate: PromptText = CANDIDATE,
) -> Verdict:
    return judge(compared, live=live, candidate=candidate, policy=policy or GatePolicy(), seed=0)


PROVEN = rows(*[(0.0, 1.0)] * 20, *[(1.0, 1.0)] * 30, *[(1.0, 0.0)] * 2)


def test_a_clear_gain_is_published_with_its_proof() -> None:
    verdict = judged(PROVEN)
    assert (verdict.publish, verdict.test, verdict.won, verdict.lost, verdict.n) == (True, "mcnemar", 20, 2, 52)
    assert verdict.difference == pytest.approx(18 / 52)
    assert verdict.interval_low < verdict.difference < verdict.interval_high
    assert "Proven gain of +0.346" in verdict.reasons[0]


def test_a_gain_that_may_be_luck_is_not_published() -> None:
    verdict = judged(rows(*[(0.0, 1.0)] * 5, *[(1.0, 1.0)] * 40))
    assert not verdict.publish
    assert verdict.p_value == pytest.approx(1 / 32)
    assert "5 rows won, 0 lost" in verdict.reasons[0]


def test_graded_scores_are_decided_by_the_interval() -> None:
    verdict = judged(rows(*[(0.4, 0.6), (0.5, 0.7), (0.3, 0.6)] * 15))
    assert (verdict.publish, verdict.test, verdict.p_value) == (True, "bootstrap", None)
    assert not judged(rows(*[(0.4, 0.6), (0.7, 0.5)] * 20)).publish


def test_a_gain_below_the_configured_minimum_is_not_published() -> None:
    verdict = judged(PROVEN, GatePolicy(min_gain=0.3))
    assert (verdict.p_value or 1) < 0.025
    assert not verdict.publish
    assert "above 0.3" in verdict.reasons[0]
    assert judged(PROVEN, GatePolicy(min_gain=0.1)).publish


def test_the_live_prompt_itself_is_never_published_whatever_the_scores() -> None:
    twin = PromptText(LIVE.instruction, LIVE.user)
    verdict = judged(PROVEN, candidate=twin)
    assert not verdict.publish
    assert "is the live prompt" in verdict.reasons[0]


def test_a_candidate_that_drops_a_variable_is_refused() -> None:
    verdict = judged(PROVEN, candidate=PromptText("Answer.", "{message}"))
    assert not verdict.publish
    assert "drops the variable name" in verdict.reasons[0]


def test_a_candidate_beyond_the_token_budget_is_refused() -> None:
    assert "takes 50 tokens; the limit is 40" in judged(PROVEN, GatePolicy(max_prompt_tokens=40)).reasons[0]
    assert judged(PROVEN, GatePolicy(max_prompt_tokens=50)).publish


def test_without_token_counts_the_prompts_length_stands_in() -> None:
    unknown = rows(*[(0.0, 1.0)] * 40, tokens=None)
    long = PromptText(LIVE.instruction + "word " * 400, LIVE.user)
    assert not judged(unknown, GatePolicy(max_prompt_tokens=100), candidate=long).publish


def test_too_few_rows_prove_nothing() -> None:
    assert "Only 29 test rows" in judged(rows(*[(0.0, 1.0)] * 29)).reasons[0]
    assert not judged([]).publish


def test_missing_rows_leave_the_pairs_and_too_many_refuse() -> None:
    few = judged([*PROVEN, *rows((None, 1.0), (1.0, None))])
    assert (few.publish, few.n, few.missing) == (True, 52, 2)
    many = judged([*PROVEN, *rows(*[(None, 1.0)] * 6)])
    assert not many.publish
    assert "6 of 58 test rows are missing" in many.reasons[0]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(values, values), max_size=60))
def test_the_verdict_is_the_same_each_time_and_never_both_ways(pairs: list[tuple[float | None, float | None]]) -> None:
    there = judged(rows(*pairs))
    assert judged(rows(*pairs)) == there
    back = judged(rows(*[(b, a) for a, b in pairs]))
    assert not (there.publish and back.publish)
    assert there.reasons
    assert there.won + there.lost <= there.n == len(pairs) - there.missing

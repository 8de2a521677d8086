"""The gate: what is proof, and everything that is none."""

from dataclasses import replace

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


CHEAP = GatePolicy(objective="cost", max_loss=0.05)


def priced(
    compared: list[ComparedRow], *, live: tuple[int | None, int | None], new: tuple[int | None, int | None], usd: bool
) -> list[ComparedRow]:
    """The rows with (input, output) tokens, and at 1 and 4 USD for a million of them when `usd`."""

    def cost(tokens: tuple[int | None, int | None]) -> float | None:
        return ((tokens[0] or 0) + 4 * (tokens[1] or 0)) / 1e6 if usd else None

    return [
        replace(
            row,
            live_tokens=live[0],
            live_output_tokens=live[1],
            candidate_tokens=new[0],
            candidate_output_tokens=new[1],
            live_cost_usd=cost(live),
            candidate_cost_usd=cost(new),
        )
        for row in compared
    ]


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


def test_graded_scores_need_the_interval_and_the_test_by_sign_flips() -> None:
    verdict = judged(rows(*[(0.4, 0.6), (0.5, 0.7), (0.3, 0.6)] * 15))
    assert (verdict.publish, verdict.test) == (True, "sign_flip")
    assert verdict.p_value < 0.001
    assert not judged(rows(*[(0.4, 0.6), (0.7, 0.5)] * 20)).publish


def test_a_few_large_gains_that_may_be_luck_are_not_published_although_the_interval_is_above_zero() -> None:
    verdict = judged(rows(*[(0.0, 0.5)] * 4, (0.5, 0.75), *[(0.5, 0.5)] * 95))
    assert verdict.interval_low > 0
    assert not verdict.publish
    assert "sign-flip test p = 0.031" in verdict.reasons[0]


EQUAL = rows(*[(0.0, 1.0)] * 6, *[(1.0, 0.0)] * 6, *[(1.0, 1.0)] * 388)


def test_for_cost_a_cheaper_prompt_that_is_no_worse_is_published_without_any_gain() -> None:
    compared = priced(EQUAL, live=(200, 10), new=(100, 10), usd=True)
    verdict = judged(compared, CHEAP)
    assert verdict.publish, verdict.reasons
    assert "0.24 -> 0.14 USD per 1,000 calls (-42%)" in verdict.reasons[0]
    assert verdict.cost_usd_candidate == pytest.approx(140e-6)
    assert not judged(compared).publish


def test_for_cost_tokens_stand_in_where_the_price_is_unknown() -> None:
    assert judged(priced(EQUAL, live=(200, 10), new=(100, 10), usd=False), CHEAP).publish
    dearer = judged(priced(EQUAL, live=(200, 10), new=(205, 10), usd=False), CHEAP)
    assert not dearer.publish
    assert "210.0 -> 215.0 input and output tokens" in dearer.reasons[0]


def test_for_cost_a_dearer_prompt_is_refused_although_it_takes_fewer_tokens() -> None:
    verdict = judged(priced(EQUAL, live=(200, 10), new=(150, 40), usd=True), CHEAP)
    assert not verdict.publish
    assert "Not proven cheaper" in verdict.reasons[0]


def test_for_cost_nothing_is_published_where_nobody_counts_tokens() -> None:
    verdict = judged(priced(EQUAL, live=(None, None), new=(None, None), usd=False), CHEAP)
    assert "does not say how many tokens" in verdict.reasons[0]


def test_for_cost_a_loss_that_the_rows_cannot_rule_out_is_refused() -> None:
    cheaper = priced(rows(*[(1.0, 0.0)] * 12, *[(1.0, 1.0)] * 388), live=(200, 10), new=(100, 10), usd=True)
    verdict = judged(cheaper, CHEAP)
    assert not verdict.publish
    assert "may be worse than allowed" in verdict.reasons[0]
    assert judged(cheaper, replace(CHEAP, max_loss=0.1)).publish


def test_for_cost_rows_without_a_single_loss_do_not_prove_that_there_are_none() -> None:
    ties = priced(rows(*[(1.0, 1.0)] * 100), live=(200, 10), new=(100, 10), usd=True)
    verdict = judged(ties, replace(CHEAP, max_loss=0.02))
    assert verdict.interval_low == 0
    assert not verdict.publish
    assert judged(ties * 2, replace(CHEAP, max_loss=0.02)).publish


def test_a_gain_below_the_configured_minimum_is_not_published() -> None:
    verdict = judged(PROVEN, GatePolicy(min_gain=0.3))
    assert verdict.p_value < 0.025
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


@settings(max_examples=80)
@given(st.lists(st.tuples(values, values), max_size=60))
def test_the_verdict_is_the_same_each_time_and_never_both_ways(pairs: list[tuple[float | None, float | None]]) -> None:
    there = judged(rows(*pairs))
    assert judged(rows(*pairs)) == there
    back = judged(rows(*[(b, a) for a, b in pairs]))
    assert not (there.publish and back.publish)
    assert there.reasons
    assert there.won + there.lost <= there.n == len(pairs) - there.missing

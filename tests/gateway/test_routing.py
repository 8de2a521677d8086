"""Strategies: everybody is either chosen or a fallback, weights are kept, the idle one is asked, a draw decides."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.router import Router
from rs_gateway.domain.routing import STRATEGIES, CircuitRules, RouterRules
from tests.gateway.routing_pools import BAD, GOOD, call, pool_of

WEIGHTS = st.lists(st.floats(0, 100), min_size=1, max_size=6)
DRAWS = st.floats(0, 1, exclude_max=True)
STRATEGY = st.sampled_from(sorted(STRATEGIES))


@given(STRATEGY, WEIGHTS, st.lists(DRAWS, min_size=1, max_size=20))
def test_every_combination_is_either_chosen_or_a_fallback(
    strategy: str, weights: list[float], draws: list[float]
) -> None:
    pool, router = pool_of(weights), Router(RouterRules(strategy))
    for turn, draw in enumerate(draws):
        decision = router.choose("t", pool, draw=draw, now_s=turn)
        assert sorted([decision.chosen, *decision.fallbacks]) == sorted(c.combination_id for c in pool)
        assert sum(decision.probabilities.values()) == pytest.approx(1)
        assert decision.probabilities[decision.chosen] > 0
        assert decision.strategy == STRATEGIES[strategy]
        assert decision.reason


@given(STRATEGY, WEIGHTS.filter(lambda weights: max(weights) > 0), st.lists(DRAWS, min_size=1, max_size=20))
def test_weight_zero_keeps_out_of_the_draw_and_the_decision_says_so(
    strategy: str, weights: list[float], draws: list[float]
) -> None:
    pool, router = pool_of(weights), Router(RouterRules(strategy))
    weightless = {c.combination_id for c in pool if c.weight == 0}
    for draw in draws:
        decision = router.choose("t", pool, draw=draw, now_s=0)
        assert decision.chosen not in weightless
        assert decision.excluded == dict.fromkeys(weightless, "its weight is 0")
        assert decision.probabilities.keys().isdisjoint(weightless)


@given(STRATEGY, st.integers(1, 6), DRAWS)
def test_all_weights_zero_counts_as_all_the_same(strategy: str, size: int, draw: float) -> None:
    decision = Router(RouterRules(strategy)).choose("t", pool_of([0.0] * size), draw=draw, now_s=0)
    assert list(decision.probabilities.values()) == pytest.approx([1 / size] * size)
    assert not decision.excluded


@given(STRATEGY, WEIGHTS, st.lists(DRAWS, min_size=1, max_size=20))
def test_the_same_draws_give_the_same_decisions(strategy: str, weights: list[float], draws: list[float]) -> None:
    runs = [
        [router.choose("t", pool_of(weights), draw=draw, now_s=turn) for turn, draw in enumerate(draws)]
        for router in (Router(RouterRules(strategy)), Router(RouterRules(strategy)))
    ]
    assert runs[0] == runs[1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any))
def test_smooth_weighting_is_exact_over_one_round_and_never_picks_weight_zero(weights: list[int]) -> None:
    router, pool = Router(RouterRules("weighted")), pool_of(weights)
    picks = Counter(router.choose("t", pool, draw=0, now_s=0).chosen for _ in range(sum(weights)))
    assert [picks[c.combination_id] for c in pool] == weights


def test_smooth_weighting_spreads_the_heavy_one() -> None:
    router, pool = Router(RouterRules("weighted_round_robin")), pool_of([5, 1, 1])
    picks = [router.choose("t", pool, draw=0, now_s=0).chosen for _ in range(7)]
    assert picks == ["c0", "c0", "c1", "c0", "c2", "c0", "c0"]


def test_shares_of_weights_are_the_long_run_ones() -> None:
    decision = Router(RouterRules("weighted")).choose("t", pool_of([3, 1, 0]), draw=0.9, now_s=0)
    assert decision.probabilities == {"c0": 0.75, "c1": 0.25}
    assert decision.reason == "weight 3 of 4"


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=300))
def test_a_combination_that_comes_back_gets_its_share_and_no_flood(outages: list[list[bool]]) -> None:
    """However combinations drop out and return, nobody is then chosen more than a round's worth at a stretch."""
    pool = pool_of([1, 1, 1, 1])
    router = Router(RouterRules("weighted", circuit=CircuitRules(failures_in_a_row=1, open_s=1, max_open_s=1)))
    now_s = 0.0
    for down in outages:
        for combination, is_down in zip(pool, down, strict=True):
            if is_down:
                call(router, combination.combination_id, BAD, now_s=now_s)
        router.choose("t", pool, draw=0, now_s=now_s)
        now_s += 0.7
    for combination in pool:
        call(router, combination.combination_id, GOOD, now_s=now_s + 1)
    picks = Counter(router.choose("t", pool, draw=0, now_s=now_s + 1).chosen for _ in range(40))
    assert max(picks.values()) - min(picks.values()) <= 6


@given(st.integers(1, 7))
def test_round_robin_gives_each_its_turn_whatever_the_weight(size: int) -> None:
    router, pool = Router(RouterRules("round_robin")), pool_of([float(i + 1) for i in range(size)])
    picks = [router.choose("t", pool, draw=0.5, now_s=0).chosen for _ in range(2 * size)]
    assert picks == [c.combination_id for c in pool] * 2


@given(st.integers(1, 7), DRAWS)
def test_random_is_uniform_over_the_draw(size: int, draw: float) -> None:
    pool = pool_of([float(i + 1) for i in range(size)])
    decision = Router(RouterRules("random")).choose("t", pool, draw=draw, now_s=0)
    assert decision.chosen == f"c{int(draw * size)}"


def test_pools_take_their_own_turns() -> None:
    router = Router(RouterRules("round_robin"))
    pool, other = pool_of([1, 1]), (Combination("x", "u", "m", "p"), Combination("y", "u", "m", "p"))
    picks = [
        router.choose(key, members, draw=0, now_s=0).chosen
        for key, members in (("t", pool), ("u", other), ("t", pool), ("u", other))
    ]
    assert picks == ["c0", "x", "c1", "y"]


def test_a_picture_reloaded_without_changes_does_not_restart_the_turns() -> None:
    router = Router(RouterRules("round_robin"))
    assert [router.choose("t", list(pool_of([1, 1, 1])), draw=0, now_s=0).chosen for _ in range(3)] == [
        "c0",
        "c1",
        "c2",
    ]


def test_new_weights_are_kept_from_the_first_request_on() -> None:
    router = Router(RouterRules("weighted"))
    for _ in range(60):
        router.choose("t", pool_of([100, 1]), draw=0, now_s=0)
    picks = Counter(router.choose("t", pool_of([1, 1]), draw=0, now_s=0).chosen for _ in range(10))
    assert picks == {"c0": 5, "c1": 5}


STEPS = st.lists(st.tuples(st.sampled_from(["choose", "end", "fall back"]), DRAWS), max_size=60)


@given(STEPS, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_least_connections_asks_whoever_has_the_fewest_attempts_under_way(
    steps: list[tuple[str, float]], weights: list[int]
) -> None:
    router, pool = Router(RouterRules("least_connections")), pool_of(weights)
    under_way: list[str] = []
    for step, draw in steps:
        if step == "end" and under_way:
            router.ended(under_way.pop(int(draw * len(under_way))), GOOD, now_s=1)
        elif step == "fall back":
            under_way.append(pool[int(draw * len(pool))].combination_id)
            router.started(under_way[-1])
        elif step == "choose":
            counts = Counter(under_way)
            decision = router.choose("t", pool, draw=draw, now_s=1)
            fewest = min(counts[c.combination_id] for c in pool)
            heaviest = max(c.weight for c in pool if counts[c.combination_id] == fewest)
            best = {c.combination_id for c in pool if (counts[c.combination_id], c.weight) == (fewest, heaviest)}
            assert decision.chosen in best
            assert {c for c, p in decision.probabilities.items() if p > 0} == best
            assert decision.reason.startswith(f"{fewest} in flight")
            under_way.append(decision.chosen)
            router.started(decision.chosen)
        states = router.states(1)
        assert all(states[c].in_flight == n for c, n in Counter(under_way).items())
        assert sum(state.in_flight for state in states.values()) == len(under_way)


def test_configured_fallbacks_are_tried_in_their_order_even_outside_the_pool() -> None:
    pool = (Combination("a", "t", "m", "p", fallbacks=("z", "b", "a")), Combination("b", "t", "m", "p"))
    router = Router(RouterRules("round_robin"))
    assert router.choose("t", pool, draw=0, now_s=0).fallbacks == ("z", "b")
    assert router.choose("t", pool, draw=0, now_s=0).fallbacks == ("a",)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (lambda: RouterRules("fastest"), "'fastest' is no strategy"),
        (lambda: RouterRules("random", fallback_threshold=1.5), "fallback_threshold is 1.5"),
        (lambda: RouterRules("random", half_life_s=0), "half_life_s is 0"),
        (lambda: CircuitRules(failures_in_a_row=0), "failures_in_a_row is 0"),
        (lambda: CircuitRules(failure_rate=0), "failure_rate is 0"),
        (lambda: CircuitRules(open_s=10, max_open_s=5), "open_s 10, max_open_s 5"),
    ],
)
def test_rules_that_cannot_work_are_refused_by_name(rules: object, named: str) -> None:
    assert callable(rules)
    with pytest.raises(ValueError, match=named):
        rules()

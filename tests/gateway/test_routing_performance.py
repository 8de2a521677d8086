"""`performance_based`: it finds the best, follows a change, tries again who was bad, and says true probabilities."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.evidence import Evidence, rate_upper_bound
from rs_gateway.domain.health import Result
from rs_gateway.domain.router import Router
from rs_gateway.domain.routing import CircuitRules, Decision, RouterRules
from tests.gateway.routing_pools import BAD, GOOD, SIMULATED, call, pool_of

NEVER_OPENS = CircuitRules(failures_in_a_row=10**9, min_results=1e9)
DRAWS = st.floats(0, 1, exclude_max=True)


def learner() -> Router:
    return Router(RouterRules("performance_based", circuit=NEVER_OPENS))


def traffic(
    router: Router,
    pool: Sequence[Combination],
    rates: Callable[[float], Sequence[float]],
    *,
    chance: Random,
    seconds: range,
    latencies_s: Sequence[float] | None = None,
) -> list[Decision]:
    """A request a second; each combination succeeds at its own rate."""
    decisions: list[Decision] = []
    for now_s in seconds:
        decision = router.choose("t", pool, draw=chance.random(), now_s=now_s)
        index = int(decision.chosen[1:])
        latency_s = latencies_s[index] * chance.lognormvariate(0, 0.5) if latencies_s else 0.5
        call(router, decision.chosen, Result(chance.random() < rates(now_s)[index], latency_s), now_s=now_s)
        decisions.append(decision)
    return decisions


def share(decisions: Sequence[Decision], combination_id: str) -> float:
    return Counter(d.chosen for d in decisions)[combination_id] / len(decisions)


@SIMULATED
@given(st.integers(0, 10**6), st.permutations([0.98, 0.8, 0.6]))
def test_it_finds_the_best(seed: int, rates: list[float]) -> None:
    decisions = traffic(learner(), pool_of([1, 1, 1]), lambda _: rates, chance=Random(seed), seconds=range(2_000))
    assert share(decisions[500:], f"c{rates.index(0.98)}") > 0.7


@SIMULATED
@given(st.integers(0, 10**6), st.permutations([0.98, 0.8, 0.6]))
def test_it_follows_a_change(seed: int, rates: list[float]) -> None:
    """The best breaks down to 0.3, and what was worst becomes as good as it was."""
    after = [{0.98: 0.3, 0.8: 0.8, 0.6: 0.98}[rate] for rate in rates]
    decisions = traffic(
        learner(),
        pool_of([1, 1, 1]),
        lambda now_s: rates if now_s < 2_000 else after,
        chance=Random(seed),
        seconds=range(6_000),
    )
    assert share(decisions[4_500:], f"c{after.index(0.98)}") > 0.6
    assert share(decisions[4_500:], f"c{after.index(0.3)}") < 0.1


@SIMULATED
@given(st.integers(0, 10**6))
def test_one_that_was_bad_an_hour_ago_is_tried_again_and_comes_back(seed: int) -> None:
    router, pool, chance = learner(), pool_of([1, 1]), Random(seed)
    bad_hour = traffic(router, pool, lambda _: (0.0, 0.9), chance=chance, seconds=range(3_600))
    assert 0 < share(bad_hour[600:], "c0") < 0.1
    good_hour = traffic(router, pool, lambda _: (1.0, 0.9), chance=chance, seconds=range(3_600, 7_200))
    assert share(good_hour[:600], "c0") > 0
    assert share(good_hour[2_400:], "c0") > 0.6


@given(st.integers(1, 200))
def test_after_an_hour_without_traffic_old_failures_no_longer_count(failures: int) -> None:
    router, pool = learner(), pool_of([1, 1])
    for _ in range(failures):
        call(router, "c0", BAD, now_s=0)
        call(router, "c1", GOOD, now_s=0)
    assert router.choose("t", pool, draw=0.5, now_s=0).probabilities["c0"] < 0.1
    assert router.choose("t", pool, draw=0.5, now_s=3_600).probabilities["c0"] > 0.3


def test_a_newcomer_is_tried_at_once_without_being_flooded() -> None:
    router = learner()
    traffic(router, pool_of([1, 1]), lambda _: (0.97, 0.9), chance=Random(3), seconds=range(600))
    probability = router.choose("t", pool_of([1, 1, 1]), draw=0.5, now_s=600).probabilities["c2"]
    assert 0.2 < probability < 0.8


def test_of_two_with_the_same_record_the_less_known_is_asked_more() -> None:
    router, pool = learner(), pool_of([1, 1])
    for step in range(400):
        call(router, "c0", GOOD if step % 4 else BAD, now_s=0)
    for step in range(12):
        call(router, "c1", GOOD if step % 4 else BAD, now_s=0)
    assert router.choose("t", pool, draw=0.5, now_s=0).probabilities["c1"] > 0.8


def test_among_equally_reliable_ones_the_faster_gets_more() -> None:
    decisions = traffic(
        learner(),
        pool_of([1, 1, 1]),
        lambda _: (0.97, 0.97, 0.97),
        chance=Random(4),
        seconds=range(3_000),
        latencies_s=(3.0, 0.8, 1.6),
    )
    shares = [share(decisions[500:], c) for c in ("c0", "c1", "c2")]
    assert shares[1] > 0.6
    assert shares[0] < 0.1


def test_one_very_slow_answer_hardly_changes_anything() -> None:
    router, pool = learner(), pool_of([1, 1])
    for step in range(100):
        call(router, "c0", Result(True, 1.0), now_s=step)
        call(router, "c1", Result(True, 1.0), now_s=step)
    before = router.choose("t", pool, draw=0.5, now_s=100).probabilities["c0"]
    call(router, "c0", Result(True, 60.0), now_s=100)
    after = router.choose("t", pool, draw=0.5, now_s=101).probabilities["c0"]
    assert before - after < 0.1


def test_where_scores_exist_the_better_answers_get_more() -> None:
    router, pool, chance = learner(), pool_of([1, 1]), Random(5)
    for now_s in range(200):
        for combination_id in ("c0", "c1"):
            call(router, combination_id, GOOD, now_s=now_s)
    equal = router.choose("t", pool, draw=0.5, now_s=200).probabilities
    assert equal == pytest.approx({"c0": 0.5, "c1": 0.5})
    for now_s in range(200, 260):
        router.scored("c0", chance.uniform(0.8, 1.0), now_s=now_s)
        router.scored("c1", chance.uniform(0.5, 0.7), now_s=now_s)
    decision = router.choose("t", pool, draw=0.5, now_s=260)
    assert decision.probabilities["c0"] > 0.9
    assert "quality 0.89" in decision.reason


@SIMULATED
@given(st.integers(0, 10**6))
def test_its_probabilities_are_what_happens(seed: int) -> None:
    router, pool, chance = learner(), pool_of([1, 1, 1]), Random(seed)
    traffic(router, pool, lambda _: (0.9, 0.88, 0.8), chance=chance, seconds=range(100))
    told = router.choose("t", pool, draw=0.5, now_s=100).probabilities
    n = 4_000
    picks = Counter(router.choose("t", pool, draw=i / n, now_s=100).chosen for i in range(n))
    assert {c: picks[c] / n for c in told} == pytest.approx(dict(told), abs=2 / n)


RESULTS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1)), max_size=60
)


@given(RESULTS, DRAWS)
def test_nobody_eligible_is_ever_without_a_chance(
    results: list[tuple[int, bool, float, float, float]], draw: float
) -> None:
    router, pool, now_s = learner(), pool_of([1, 1, 1, 1]), 0.0
    for index, succeeded, latency_s, passed_s, score in results:
        now_s += passed_s
        call(router, f"c{index}", Result(succeeded, latency_s), now_s=now_s)
        router.scored(f"c{index}", score, now_s=now_s)
        decision = router.choose("t", pool, draw=draw, now_s=now_s)
        assert min(decision.probabilities.values()) >= 0.015 - 1e-9, "a quarter of the 6 % that are spread evenly"
        assert sum(decision.probabilities.values()) == pytest.approx(1)


def test_a_crowd_of_requests_does_not_all_go_to_one_newcomer() -> None:
    router, pool, chance = learner(), pool_of([1, 1]), Random(6)
    for now_s in range(100):
        call(router, "c0", GOOD if now_s % 20 else BAD, now_s=now_s)
    chosen = Counter[str]()
    for step in range(200):
        decision = router.choose("t", pool, draw=chance.random(), now_s=100 + step * 0.01)
        router.started(decision.chosen)
        chosen[decision.chosen] += 1
    assert 40 < chosen["c1"] < 160


# --- evidence ---


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=50), st.floats(0, 1e6))
def test_evidence_is_bounded_and_only_ever_fades(results: list[tuple[bool, float]], passed_s: float) -> None:
    evidence, now_s = Evidence(60.0), 0.0
    for succeeded, later_s in results:
        now_s += later_s
        evidence.succeeded(1.0, now_s) if succeeded else evidence.failed(now_s)
        assert 0 <= evidence.successes <= evidence.weight + 1e-9
    before = evidence.weight
    assert before <= len(results) + 1e-9
    evidence.fade(now_s + passed_s)
    assert evidence.weight == pytest.approx(before * 0.5 ** (passed_s / 60))
    evidence.fade(now_s)
    assert evidence.weight == pytest.approx(before * 0.5 ** (passed_s / 60)), "a clock that steps back adds nothing"


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0.5, 4))
def test_the_upper_bound_is_above_the_rate_and_tightens(successes: int, more: int, z: float) -> None:
    results = successes + more
    bound = rate_upper_bound(successes, results, z=z)
    assert successes / results <= bound <= 1
    assert rate_upper_bound(10 * successes, 10 * results, z=z) <= bound + 1e-12
    assert rate_upper_bound(0, 0, z=z) == 1


def test_the_upper_bound_agrees_with_a_published_value() -> None:
    """Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, 95 % score interval 0.2553 to 0.3662."""
    assert rate_upper_bound(81, 263, z=1.959964) == pytest.approx(0.3662, abs=5e-5)

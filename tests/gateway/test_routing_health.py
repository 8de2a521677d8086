"""Circuits, demotion and the books of the router: who is left alone, who comes back, and that every count holds."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.router import PROBING_SHARE, Router
from rs_gateway.domain.routing import STRATEGIES, CircuitRules, RouterRules
from tests.gateway.routing_pools import BAD, GOOD, UNTOLD, call, pool_of

NEVER_OPENS = CircuitRules(failures_in_a_row=10**9, min_results=1e9)
DRAWS = st.floats(0, 1, exclude_max=True)


def broken(router: Router, combination_id: str, *, now_s: float = 0.0) -> None:
    """Five failures in a row."""
    for _ in range(5):
        call(router, combination_id, BAD, now_s=now_s)


def test_a_combination_that_fails_five_times_in_a_row_is_left_alone_then_probed_then_back() -> None:
    router, pool = Router(RouterRules("round_robin")), pool_of([1, 1])
    broken(router, "c0")
    decisions = [router.choose("t", pool, draw=0, now_s=4.9) for _ in range(3)]
    assert [d.chosen for d in decisions] == ["c1"] * 3
    assert decisions[0].excluded == {"c0": "its circuit is open after failures"}
    assert decisions[0].fallbacks == ("c0",)
    assert not router.may_try("c0", now_s=4.9)
    assert router.states(3)["c0"].circuit == "open"
    assert router.states(3)["c0"].retry_in_s == 2

    assert router.states(5)["c0"].circuit == "half_open"
    assert router.may_try("c0", now_s=5)
    mark = router.started("c0")
    assert not router.may_try("c0", now_s=5)
    during = [router.choose("t", pool, draw=0, now_s=5) for _ in range(3)]
    assert {d.chosen for d in during} == {"c1"}
    assert "probe is under way" in during[0].excluded["c0"]
    router.ended("c0", GOOD, now_s=6, mark=mark)
    assert router.states(6)["c0"].circuit == "closed"
    assert {router.choose("t", pool, draw=0, now_s=6).chosen for _ in range(2)} == {"c0", "c1"}


def test_every_failed_probe_doubles_the_wait_up_to_the_cap_and_a_good_one_starts_over() -> None:
    router = Router(RouterRules("random", circuit=CircuitRules(open_s=5, max_open_s=30)))
    now_s, waits = 0.0, list[float | None]()
    broken(router, "c0")
    for _ in range(4):
        waits.append(router.states(now_s)["c0"].retry_in_s)
        now_s += waits[-1] or 0.0
        call(router, "c0", BAD, now_s=now_s)
    assert waits == [5, 10, 20, 30]
    now_s += 30
    call(router, "c0", GOOD, now_s=now_s)
    broken(router, "c0", now_s=now_s)
    assert router.states(now_s)["c0"].retry_in_s == 5


def test_a_probe_that_tells_nothing_makes_room_for_the_next() -> None:
    router = Router(RouterRules("random"))
    broken(router, "c0")
    call(router, "c0", UNTOLD, now_s=6)
    assert router.states(6)["c0"].circuit == "half_open"
    assert router.may_try("c0", now_s=6)


def test_half_the_results_failing_opens_a_circuit_even_if_never_in_a_row() -> None:
    router = Router(RouterRules("random"))
    opened = list[int]()
    for step in range(30):
        call(router, "c0", BAD if step % 2 else GOOD, now_s=step * 0.1)
        if not router.may_try("c0", now_s=step * 0.1):
            opened.append(step)
    assert opened[0] in range(19, 25), "not before there are 20 results, and soon after"


def test_one_failure_in_four_opens_nothing() -> None:
    router = Router(RouterRules("random"))
    for step in range(400):
        call(router, "c0", GOOD if step % 4 else BAD, now_s=step * 0.1)
    assert router.states(40)["c0"].circuit == "closed"


def test_calls_that_were_under_way_when_it_opened_are_old_news() -> None:
    router = Router(RouterRules("random"))
    under_way = [router.started("c0") for _ in range(40)]
    for mark in under_way[:20]:
        router.ended("c0", BAD, now_s=1, mark=mark)
    assert router.states(1)["c0"].retry_in_s == 5  # neither counted twice nor doubled
    router.ended("c0", GOOD, now_s=2, mark=under_way[20])
    assert router.states(2)["c0"].circuit == "open"
    probe = router.started("c0")
    for mark in under_way[21:]:
        router.ended("c0", BAD, now_s=7, mark=mark)
    assert router.states(7)["c0"].circuit == "half_open"
    assert not router.may_try("c0", now_s=7), "the old calls' ends must not free the probe's slot"
    router.ended("c0", GOOD, now_s=8, mark=probe)
    assert router.states(8)["c0"].circuit == "closed"
    assert router.states(8)["c0"].in_flight == 0


def test_without_the_mark_the_books_still_balance() -> None:
    router = Router(RouterRules("random"))
    for _ in range(10):
        router.started("c0")
    for _ in range(10):
        router.ended("c0", BAD, now_s=1)
    assert router.states(1)["c0"].in_flight == 0
    assert router.states(60)["c0"].circuit == "half_open"
    assert router.may_try("c0", now_s=60)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_if_every_circuit_is_open_all_are_tried_anyway(strategy: str) -> None:
    router, pool = Router(RouterRules(strategy)), pool_of([1, 1, 0])
    for combination in pool:
        broken(router, combination.combination_id)
    chosen = set[str]()
    for step in range(40):
        decision = router.choose("t", pool, draw=step / 40, now_s=1)
        assert "all are tried anyway" in decision.reason
        assert decision.excluded == {"c2": "its weight is 0"}
        chosen.add(decision.chosen)
        router.started(decision.chosen)
    assert chosen == {"c0", "c1"}


def test_a_forced_try_that_succeeds_closes_the_circuit_before_its_time() -> None:
    router = Router(RouterRules("random"))
    broken(router, "c0")
    call(router, "c0", GOOD, now_s=1)
    assert router.states(1)["c0"].circuit == "closed"


def test_ailing_fallbacks_go_last_and_stay() -> None:
    pool = (Combination("a", "t", "m", "p", fallbacks=("x", "y", "b")), Combination("b", "t", "m", "p"))
    router = Router(RouterRules("round_robin", fallback_threshold=0.9, circuit=NEVER_OPENS))
    broken(router, "x")
    broken(router, "x")
    assert router.states(0)["x"].demoted
    assert router.choose("t", pool, draw=0.5, now_s=0).fallbacks == ("y", "b", "x")


# --- demotion ---


def demoted_pool(router: Router) -> tuple[Combination, ...]:
    pool = pool_of([1, 1, 1])
    for step in range(60):
        call(router, "c0", BAD if step % 2 else GOOD, now_s=step)
        call(router, "c1", GOOD, now_s=step)
        call(router, "c2", GOOD, now_s=step)
    return pool


def test_a_combination_proven_below_the_threshold_keeps_only_a_probing_share() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.8, circuit=NEVER_OPENS))
    pool = demoted_pool(router)
    assert [s.demoted for s in router.states(60).values()] == [True, False, False]
    picks = Counter[str]()
    for step in range(1_000):
        decision = router.choose("t", pool, draw=step / 1_000, now_s=60)
        picks[decision.chosen] += 1
        assert decision.probabilities == pytest.approx({"c1": 0.475, "c2": 0.475, "c0": PROBING_SHARE})
        if decision.chosen != "c0":
            assert decision.fallbacks[-1] == "c0"
    assert picks["c0"] == 50
    assert "demoted" in router.choose("t", pool, draw=0.01, now_s=60).reason


@pytest.mark.parametrize("strategy", ["random", "performance_based", "least_connections"])
def test_beside_a_probing_share_the_probabilities_are_what_happens(strategy: str) -> None:
    router, n = Router(RouterRules(strategy, fallback_threshold=0.8, circuit=NEVER_OPENS)), 4_000
    pool = demoted_pool(router)
    decisions = [router.choose("t", pool, draw=i / n, now_s=60) for i in range(n)]
    picks = Counter(d.chosen for d in decisions)
    assert {c: picks[c] / n for c in ("c0", "c1", "c2")} == pytest.approx(dict(decisions[0].probabilities), abs=2 / n)


def test_a_combination_that_only_may_be_below_is_not_demoted() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.8, circuit=NEVER_OPENS))
    for step in range(40):
        call(router, "c0", GOOD if step % 4 else BAD, now_s=step)
    assert not router.states(40)["c0"].demoted


def test_a_handful_of_failures_proves_nothing() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.9, circuit=NEVER_OPENS))
    for now_s in range(9):
        call(router, "c0", BAD, now_s=now_s)
    assert not router.states(9)["c0"].demoted


def test_several_demoted_ones_divide_the_probing_share() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.8, circuit=NEVER_OPENS))
    for _ in range(20):
        call(router, "c0", BAD, now_s=0)
        call(router, "c1", BAD, now_s=0)
    decisions = [router.choose("t", pool_of([3, 1, 1]), draw=i / 1_000, now_s=0) for i in range(1_000)]
    assert decisions[0].probabilities == pytest.approx({"c0": 0.025, "c1": 0.025, "c2": 0.95})
    assert Counter(d.chosen for d in decisions) == {"c0": 25, "c1": 25, "c2": 950}


def test_a_combination_that_keeps_the_threshold_is_hardly_ever_demoted() -> None:
    demotions = 0
    for seed in range(40):
        chance, router = Random(seed), Router(RouterRules("random", fallback_threshold=0.8, circuit=NEVER_OPENS))
        for step in range(1_000):
            call(router, "c0", GOOD if chance.random() < 0.85 else BAD, now_s=step)
            if router.states(step)["c0"].demoted:
                demotions += 1
                break
    assert demotions <= 2


def test_a_demoted_combination_that_recovered_is_restored_by_its_probes() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.8, circuit=NEVER_OPENS))
    pool, chance, restored_at_s = demoted_pool(router), Random(1), None
    for now_s in range(60, 3_000):
        decision = router.choose("t", pool, draw=chance.random(), now_s=now_s)
        call(router, decision.chosen, GOOD, now_s=now_s)
        if not router.states(now_s)["c0"].demoted:
            restored_at_s = now_s
            break
    assert restored_at_s is not None
    assert restored_at_s < 60 + 600
    # The bad time is forgotten: one failure more does not demote again.
    call(router, "c0", BAD, now_s=restored_at_s)
    assert not router.states(restored_at_s)["c0"].demoted
    picks = Counter(router.choose("t", pool, draw=0, now_s=restored_at_s).chosen for _ in range(30))
    assert picks["c0"] == 10


def test_one_that_goes_on_failing_stays_demoted() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.8, circuit=NEVER_OPENS))
    pool, chance = demoted_pool(router), Random(2)
    for now_s in range(60, 3_000):
        decision = router.choose("t", pool, draw=chance.random(), now_s=now_s)
        call(router, decision.chosen, BAD if decision.chosen == "c0" else GOOD, now_s=now_s)
        assert router.states(now_s)["c0"].demoted


def test_a_demotion_that_nobody_remembers_the_cause_of_lapses() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.8, circuit=NEVER_OPENS))
    pool = demoted_pool(router)
    assert "c0" in router.choose("t", pool, draw=0.01, now_s=60).chosen
    hours_later_s = 4 * 3600.0
    assert {router.choose("t", pool, draw=0.5, now_s=hours_later_s).chosen for _ in range(3)} == {"c0", "c1", "c2"}


def test_if_the_only_others_are_open_the_demoted_answer() -> None:
    router = Router(RouterRules("weighted", fallback_threshold=0.8))
    pool = demoted_pool(router)
    for combination_id in ("c1", "c2"):
        broken(router, combination_id, now_s=60)
    call(router, "c0", GOOD, now_s=70)
    decision = router.choose("t", pool, draw=0.5, now_s=61)
    assert decision.chosen == "c0"
    assert decision.probabilities == {"c0": 1.0}
    assert "the demoted answer" in decision.reason


def test_without_a_threshold_nobody_is_demoted() -> None:
    router = Router(RouterRules("weighted", circuit=NEVER_OPENS))
    demoted_pool(router)
    assert not any(state.demoted for state in router.states(60).values())


# --- the books ---

EVENTS = st.lists(
    st.tuples(st.sampled_from(["choose", "fall back", "good", "bad", "untold", "wait", "score", "reload"]), DRAWS),
    max_size=150,
)


@given(
    st.sampled_from(sorted(STRATEGIES)),
    st.lists(st.floats(0, 10), min_size=1, max_size=4),
    EVENTS,
    st.sampled_from([None, 0.5, 0.9]),
)
def test_whatever_happens_the_books_balance_and_a_decision_is_whole(
    strategy: str, weights: list[float], events: list[tuple[str, float]], threshold: float | None
) -> None:
    rules = RouterRules(strategy, threshold, CircuitRules(failures_in_a_row=2, open_s=1, max_open_s=8), half_life_s=20)
    router, pool, now_s = Router(rules), pool_of(weights), 0.0
    ids = [c.combination_id for c in pool]
    under_way: list[tuple[str, int]] = []
    for event, draw in events:
        if event == "wait":
            now_s += 4 * draw
        elif event == "score":
            router.scored(ids[int(draw * len(ids))], draw, now_s=now_s)
        elif event == "reload":
            router.keep_only(ids)
        elif event == "fall back":
            under_way.append((ids[int(draw * len(ids))], router.started(ids[int(draw * len(ids))])))
        elif event == "choose":
            decision = router.choose("t", pool, draw=draw, now_s=now_s)
            assert sorted([decision.chosen, *decision.fallbacks]) == ids
            assert sum(decision.probabilities.values()) == pytest.approx(1)
            assert decision.probabilities[decision.chosen] > 0
            assert sorted([*decision.probabilities, *decision.excluded]) == ids
            if max(weights) > 0:
                assert all(weights[ids.index(c)] > 0 for c in decision.probabilities)
            if not router.may_try(decision.chosen, now_s=now_s):
                assert not any(
                    router.may_try(c, now_s=now_s)
                    for c, w in zip(ids, weights, strict=True)
                    if w > 0 or not any(weights)
                )
            under_way.append((decision.chosen, router.started(decision.chosen)))
        elif under_way:
            combination_id, mark = under_way.pop(int(draw * len(under_way)))
            result = {"good": GOOD, "bad": BAD, "untold": UNTOLD}[event]
            router.ended(combination_id, result, now_s=now_s, mark=mark)
        states = router.states(now_s)
        counts = Counter(combination_id for combination_id, _ in under_way)
        assert {c: s.in_flight for c, s in states.items() if s.in_flight} == dict(counts)
    for combination_id, mark in under_way:
        router.ended(combination_id, UNTOLD, now_s=now_s, mark=mark)
    assert all(state.in_flight == 0 for state in router.states(now_s).values())
    # No probe's slot has leaked: once its time is over, everybody may be tried.
    assert all(router.may_try(c, now_s=now_s + 10) for c in ids)


def test_what_left_the_configuration_is_forgotten_once_nothing_of_it_is_under_way() -> None:
    router, pool = Router(RouterRules("weighted")), pool_of([1, 1, 1])
    router.choose("t", pool, draw=0, now_s=0)
    mark = router.started("c2")
    router.keep_only(["c0"])
    assert set(router.states(0)) == {"c0", "c2"}
    router.choose("t", pool, draw=0, now_s=0)  # a request that still holds the old picture
    router.ended("c2", GOOD, now_s=1, mark=mark)
    assert "c2" not in router.states(1)
    router.keep_only(["c0"])
    assert set(router.states(1)) == {"c0"}
    router.ended("c2", GOOD, now_s=1)  # of something nobody knows: no news
    assert set(router.states(1)) == {"c0"}
    decision = router.choose("t", pool, draw=0, now_s=1)
    assert sorted([decision.chosen, *decision.fallbacks]) == ["c0", "c1", "c2"]


def test_a_late_request_counts_a_forgotten_combination_anew() -> None:
    router, pool = Router(RouterRules("least_connections")), pool_of([1, 1])
    mark = router.started("c1")
    router.keep_only(["c0"])
    router.choose("t", pool, draw=0, now_s=0)
    router.ended("c1", GOOD, now_s=0, mark=mark)
    router.started("c1")
    assert router.choose("t", pool, draw=0.9, now_s=0).chosen == "c0"


def test_one_that_came_back_before_its_last_call_ended_is_kept() -> None:
    router = Router(RouterRules("weighted"))
    mark = router.started("c0")
    router.keep_only([])
    router.keep_only(["c0"])
    router.ended("c0", GOOD, now_s=1, mark=mark)
    assert router.states(1)["c0"].success_rate == 1


def test_a_new_strategy_and_threshold_take_over_without_losing_what_is_known() -> None:
    router, pool = Router(RouterRules("round_robin", circuit=NEVER_OPENS)), pool_of([1, 1, 1])
    demoted_pool(router)
    router.started("c1")
    router.adopt(RouterRules("least_connections", fallback_threshold=0.8, circuit=NEVER_OPENS))
    call(router, "c0", BAD, now_s=60)
    decision = router.choose("t", pool, draw=0.5, now_s=60)
    assert (decision.strategy, decision.chosen) == ("least_connections", "c2")
    assert router.states(60)["c0"].demoted
    router.adopt(RouterRules("least_connections", circuit=NEVER_OPENS))
    assert not router.states(60)["c0"].demoted


def test_a_score_outside_its_range_is_refused() -> None:
    router = Router(RouterRules("random"))
    for score in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            router.scored("c0", score, now_s=0)


def test_states_say_what_is_known_and_nothing_more() -> None:
    router = Router(RouterRules("random"))
    router.choose("t", pool_of([1, 1]), draw=0, now_s=0)
    for result in (GOOD, GOOD, GOOD, BAD):
        call(router, "c0", result, now_s=0)
    router.scored("c0", 0.8, now_s=0)
    known, unknown = router.states(0)["c0"], router.states(0)["c1"]
    assert (known.success_rate, known.latency_s, known.quality) == pytest.approx((0.75, 0.5, 0.8))
    assert (unknown.success_rate, unknown.latency_s, unknown.quality) == (None, None, None)

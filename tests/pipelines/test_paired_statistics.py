"""Paired statistics: intervals that contain what they should, and error rates as promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gate import (
    Case,
    Kind,
    draw,
    loss_cases,
    publishes,
    same_prompt_cases,
    simulate,
    worth_a_look,
)
from rs_pipelines.gate import GatePolicy
from rs_pipelines.paired_statistics import guarded_low, mcnemar_p_value, paired_interval, sign_flip_p_value, t_quantile

scores = st.floats(0, 1, allow_nan=False)
pairs = st.lists(st.tuples(scores, scores), min_size=2, max_size=60)


@settings(max_examples=40)
@given(pairs)
def test_the_interval_lies_within_the_differences_and_is_ordered(rows: list[tuple[float, float]]) -> None:
    candidate, live = [c for c, _ in rows], [i for _, i in rows]
    low, high = paired_interval(candidate, live, seed=1, n_resamples=500)
    differences = [c - i for c, i in rows]
    assert min(differences) - 1e-9 <= low <= high <= max(differences) + 1e-9


@pytest.mark.parametrize("values", [2, 200], ids=["few values", "many values"])
def test_swapping_the_two_mirrors_the_interval(values: int) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    candidate, live = (rng.integers(0, values, size=(2, 100)) / values).tolist()
    low, high = paired_interval(candidate, live, seed=1)
    assert paired_interval(live, candidate, seed=1) == pytest.approx((-high, -low), abs=0.02)


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    candidate, live = [0.1 * (n % 7) for n in range(50)], [0.1 * (n % 5) for n in range(50)]
    assert paired_interval(candidate, live, seed=4) == paired_interval(candidate, live, seed=4)


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_interval([1.0], [1.0, 0.0], seed=0)


@pytest.mark.parametrize(("degrees", "expected"), [(10, 2.2281), (29, 2.0452), (100, 1.9840), (1000, 1.9623)])
def test_t_quantiles_are_those_of_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-3)


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_gives_a_probability_that_falls_with_every_win(won: int, lost: int) -> None:
    assert 0 < mcnemar_p_value(won, lost) <= 1
    assert mcnemar_p_value(won + 1, lost) <= mcnemar_p_value(won, lost)


@pytest.mark.parametrize(("won", "lost", "p"), [(0, 0, 1.0), (5, 0, 1 / 32), (6, 0, 1 / 64), (8, 2, 56 / 1024)])
def test_mcnemar_is_the_binomial_tail(won: int, lost: int, p: float) -> None:
    assert mcnemar_p_value(won, lost) == pytest.approx(p)


def test_sign_flips_on_scores_of_0_and_1_are_mcnemars_test() -> None:
    assert sign_flip_p_value([1.0] * 8 + [0.0] * 2, [0.0] * 8 + [1.0] * 2, seed=0) == pytest.approx(56 / 1024)
    many = sign_flip_p_value([1.0] * 30 + [0.0] * 15, [0.0] * 30 + [1.0] * 15, seed=0)
    assert many == pytest.approx(mcnemar_p_value(30, 15), abs=0.006)


@settings(max_examples=60)
@given(pairs)
def test_sign_flips_give_a_probability_and_the_two_directions_cover_everything(
    rows: list[tuple[float, float]],
) -> None:
    candidate, live = [c for c, _ in rows], [i for _, i in rows]
    there = sign_flip_p_value(candidate, live, seed=1)
    back = sign_flip_p_value(live, candidate, seed=1)
    assert 0 < there <= 1
    assert there + back >= 0.95  # 1 and a little, but for what is drawn


@pytest.mark.parametrize("rows", [30, 183, 400])
def test_without_any_difference_the_guarded_bound_is_clopper_and_pearsons(rows: int) -> None:
    assert guarded_low([1.0] * rows, [1.0] * rows, seed=0) == pytest.approx(0.025 ** (1 / rows) - 1, rel=0.08)


@settings(max_examples=40)
@given(pairs)
def test_the_guarded_bound_is_below_the_mean_and_within_the_possible(rows: list[tuple[float, float]]) -> None:
    candidate, live = [c for c, _ in rows], [i for _, i in rows]
    low = guarded_low(candidate, live, seed=2, n_resamples=1_000)
    assert -1 <= low <= max(c - i for c, i in rows)


@pytest.mark.parametrize("case", [*same_prompt_cases((60,)), *loss_cases((150,))], ids=str)
def test_what_must_not_be_published_is_in_at_most_two_and_a_half_percent_of_runs(case: Case) -> None:
    share = simulate(case, runs=4_000 if case.kind == "binary" else 200)
    assert share.holds, share


@pytest.mark.parametrize("kind", ["graded", "sparse"])
def test_the_simulation_passes_over_no_comparison_that_would_be_published(kind: Kind) -> None:
    live, candidate = draw(Case(kind, 40, 0.5), runs=150, rng=np.random.Generator(np.random.PCG64(5)))
    passed_over = np.flatnonzero(~worth_a_look(live, candidate, policy=GatePolicy()))
    assert len(passed_over) > 50
    assert not any(publishes(live[n], candidate[n], policy=GatePolicy(), seed=0) for n in passed_over)


def test_real_gains_are_found_the_more_often_the_larger_they_are() -> None:
    power = [simulate(Case("binary", 150, 0.5, gain), runs=1_000).published for gain in (0.05, 0.1, 0.2, 0.3)]
    assert power == sorted(power)
    assert power[-1] > 0.95

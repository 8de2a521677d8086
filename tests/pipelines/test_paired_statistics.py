"""Paired statistics: intervals that contain what they should, and error rates as promised."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.domain.prompts import PromptText
from rs_pipelines.gate import ComparedRow, GatePolicy, judge
from rs_pipelines.paired_statistics import mcnemar_p_value, paired_interval, t_quantile

scores = st.floats(0, 1, allow_nan=False)
pairs = st.lists(st.tuples(scores, scores), min_size=2, max_size=60)


@settings(max_examples=40, deadline=None)
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


def published_share(draw: str, *, n: int, runs: int, gain: float = 0.0) -> float:
    """Share of simulated comparisons that publish; two prompts that differ by `gain` on average, with noise."""
    rng = np.random.Generator(np.random.PCG64(7))
    live_text, candidate_text = PromptText("a"), PromptText("b")
    published = 0
    for run in range(runs):
        difficulty = rng.beta(2, 2, size=n)
        if draw == "binary":
            live = (rng.random(n) < difficulty).astype(float)
            candidate = (rng.random(n) < difficulty + gain).astype(float)
        else:
            live = np.clip(difficulty + rng.normal(0, 0.15, n), 0, 1)
            candidate = np.clip(difficulty + gain + rng.normal(0, 0.15, n), 0, 1)
        rows = [
            ComparedRow(str(i), "", float(a), float(b), "", "", None, None)
            for i, (a, b) in enumerate(zip(live, candidate, strict=True))
        ]
        verdict = judge(rows, live=live_text, candidate=candidate_text, policy=GatePolicy(), seed=run)
        published += verdict.publish
    return published / runs


@pytest.mark.parametrize("n", [40, 150])
@pytest.mark.parametrize("draw", ["binary", "graded"])
def test_noise_publishes_in_at_most_two_and_a_half_percent_of_runs(draw: str, n: int) -> None:
    runs = 2000 if draw == "binary" else 600
    monte_carlo_error = math.sqrt(0.025 * 0.975 / runs)
    share = published_share(draw, n=n, runs=runs)
    print(f"A/A, {draw}, {n} rows: {share:.4f} of {runs} runs publish")
    assert share <= 0.025 + 3 * monte_carlo_error


def test_real_gains_are_found_the_more_often_the_larger_they_are() -> None:
    power = [published_share("binary", n=150, runs=200, gain=gain) for gain in (0.0, 0.1, 0.2, 0.3)]
    print("power at gains of 0, .1, .2, .3 on 150 rows:", power)
    assert power == sorted(power)
    assert power[-1] > 0.95

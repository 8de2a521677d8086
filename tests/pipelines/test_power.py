"""What a test split can prove, against simulation and arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_pipelines.paired_statistics import mcnemar_p_value
from rs_pipelines.power import (
    LEAST_WINS,
    least_excluded_loss,
    lowest_score,
    mcnemar_power,
    rows_to_exclude,
    smallest_gain,
    smallest_mean_gain,
)


def test_six_rows_won_and_none_lost_are_the_least_proof() -> None:
    assert LEAST_WINS == 6
    assert mcnemar_power(6, won=1.0, lost=0.0) == pytest.approx(1.0)
    assert mcnemar_power(5, won=1.0, lost=0.0) == 0.0


@pytest.mark.parametrize(("n", "won", "lost"), [(60, 0.3, 0.1), (150, 0.2, 0.1), (300, 0.08, 0.02)])
def test_the_power_is_what_simulation_finds(n: int, won: float, lost: float) -> None:
    draws = np.random.Generator(np.random.PCG64(1)).multinomial(n, [won, lost, 1 - won - lost], size=4_000)
    proven = np.mean([mcnemar_p_value(int(w), int(k)) <= 0.025 for w, k, _ in draws])
    assert mcnemar_power(n, won=won, lost=lost) == pytest.approx(proven, abs=0.03)


@settings(max_examples=20)
@given(st.integers(30, 150), st.floats(0.05, 0.7))
def test_more_agreement_and_more_rows_prove_smaller_gains(n: int, live: float) -> None:
    unrelated, half, best = (smallest_gain(n, live=live, agreement=a) or 1.0 for a in (0.0, 0.5, 1.0))
    assert best <= half <= unrelated
    assert (smallest_gain(2 * n, live=live, agreement=0.5) or 1.0) <= half


def test_where_there_is_too_little_to_win_no_gain_is_provable() -> None:
    assert smallest_gain(30, live=0.9, agreement=1.0) is None
    assert smallest_gain(80, live=0.9, agreement=1.0) == pytest.approx(0.098)


def test_a_required_gain_comes_on_top() -> None:
    assert smallest_mean_gain(100, spread=0.3) == pytest.approx(2.8016 * 0.03, rel=1e-3)
    assert smallest_mean_gain(100, spread=0.3, min_gain=0.1) - smallest_mean_gain(100, spread=0.3) == pytest.approx(0.1)


@pytest.mark.parametrize("loss", [0.01, 0.02, 0.1])
def test_the_rows_that_rule_out_a_loss_are_the_fewest(loss: float) -> None:
    n = rows_to_exclude(loss)
    assert least_excluded_loss(n) < loss <= least_excluded_loss(n - 1)


@pytest.mark.parametrize(("total", "n", "low"), [(10, 10, 0.05**0.1), (0, 10, 0.0), (0, 0, 0.0), (1, 10, 0.0051)])
def test_the_lowest_score_is_clopper_and_pearsons(total: float, n: int, low: float) -> None:
    assert lowest_score(total, n) == pytest.approx(low, abs=2e-4)

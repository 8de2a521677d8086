"""What test rows can prove, as it is told before a search."""

from dataclasses import replace

import pytest

from rs_pipelines.evaluator_sanity import EvaluatorSanity
from rs_pipelines.gate import GatePolicy
from rs_pipelines.live_probe import LiveProbe
from rs_pipelines.provable import provable

SANE = EvaluatorSanity(40, 1.0, 0.0, binary=True)


def probe(*values: float, noise: float | None = None) -> LiveProbe:
    return LiveProbe(len(values), values, noise, 40, 5, 0.5)


HALF = probe(*[0.0, 1.0] * 5)


def test_exact_mcnemar_proves_smaller_gains_where_no_row_is_lost() -> None:
    found = provable(80, policy=GatePolicy(), evaluator=SANE, live=HALF)
    assert (found.kind, found.live_score, found.best_case) == ("gain", 0.5, pytest.approx(0.098))
    assert 0.15 < (found.smallest or 0) < 0.2
    assert found.basis == "exact McNemar, live score from 10 rows"


def test_without_a_look_at_the_model_the_assumption_is_stated() -> None:
    found = provable(80, policy=GatePolicy(), evaluator=None, live=None)
    assert "a live score of 0.5 is assumed" in found.basis


def test_a_noisy_live_prompt_proves_larger_gains_only() -> None:
    noisy, calm = (
        provable(80, policy=GatePolicy(), evaluator=SANE, live=replace(HALF, noise=noise)) for noise in (0.45, 0.0)
    )
    assert (noisy.smallest or 1) > (calm.smallest or 1)


def test_graded_scores_are_planned_by_the_normal_approximation() -> None:
    graded = probe(0.2, 0.4, 0.6, 0.8)
    found = provable(80, policy=GatePolicy(), evaluator=replace(SANE, binary=False), live=graded)
    assert found.basis.startswith("normal approximation")
    assert found.smallest == pytest.approx(2.8016 * 0.2236 / 80**0.5, rel=0.01)

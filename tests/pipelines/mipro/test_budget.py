"""Plans and estimates: modes, explicit numbers, and what a budget must at least cover."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.errors import ConfigurationError
from rs_pipelines.mipro.budget import PlanNumbers, estimate_calls, plan_for, study_allowance
from tests.pipelines.parcels import parcels


@pytest.mark.parametrize(("mode", "trials"), [("light", 10), ("medium", 18), ("heavy", 27)])
def test_modes_have_the_reference_numbers_of_trials(mode: str, trials: int) -> None:
    assert plan_for(mode, 500).num_trials == trials  # type: ignore[arg-type]


def test_few_validation_rows_are_used_whole() -> None:
    plan = plan_for("light", 40)
    assert (plan.val_rows, plan.minibatch_size) == (40, 40)


def test_explicit_numbers_replace_the_modes_own() -> None:
    numbers = PlanNumbers(num_candidates=3, num_trials=4, minibatch_size=10, max_labeled_demos=0, seed=0)
    plan = plan_for("medium", 500, numbers=numbers)
    assert (plan.num_candidates, plan.num_trials, plan.minibatch_size) == (3, 4, 10)
    assert (plan.max_labeled_demos, plan.seed) == (0, 0)
    assert plan.num_instruction_candidates == plan_for("medium", 500).num_instruction_candidates


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 60), st.integers(1, 9))
def test_any_numbers_make_a_plan_that_fits_its_rows(n_val: int, trials: int, minibatch: int, steps: int) -> None:
    numbers = PlanNumbers(num_trials=trials, minibatch_size=minibatch, minibatch_full_eval_steps=steps)
    plan = plan_for("light", n_val, numbers=numbers)
    assert 1 <= plan.minibatch_size <= plan.val_rows <= n_val


def test_a_budget_keeps_back_what_the_comparison_needs() -> None:
    sample = parcels(test=80)
    plan = plan_for("light", 60, numbers=PlanNumbers(max_calls=1000))
    assert study_allowance(plan, sample).calls == 1000 - math.ceil(1.1 * 160)


def test_a_budget_too_small_for_anything_is_refused_with_the_number_that_is_needed() -> None:
    sample = parcels(val=60, test=80)
    plan = plan_for("light", 60, numbers=PlanNumbers(max_calls=200))
    with pytest.raises(ConfigurationError, match="at least 283"):
        study_allowance(plan, sample)


def test_the_estimate_adds_up() -> None:
    estimate = estimate_calls(plan_for("light", 60, numbers=PlanNumbers(minibatch_size=20)), parcels())
    assert (estimate.live, estimate.screening, estimate.minibatches, estimate.comparison) == (60, 24, 200, 160)
    assert estimate.total == estimate.study + estimate.comparison


def test_a_judges_questions_are_in_the_estimate_and_in_what_a_budget_must_cover() -> None:
    sample, numbers = parcels(val=60, test=80), PlanNumbers(minibatch_size=20, max_calls=1000)
    plain = plan_for("light", 60, numbers=numbers)
    judged = plan_for("light", 60, numbers=numbers, questions_per_answer=2)
    without, estimate = estimate_calls(plain, sample), estimate_calls(judged, sample)
    assert estimate.proposals == without.proposals
    assert estimate.total - estimate.proposals == 3 * (without.total - without.proposals)
    assert study_allowance(judged, sample).calls == 1000 - math.ceil(1.1 * 3 * 160)

"""How large a study is, and what it will cost."""

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rs_gateway.domain.errors import ConfigurationError
from rs_pipelines.sample import CalibrationSample, Split
from rs_pipelines.spending import Allowance

Mode: TypeAlias = Literal["light", "medium", "heavy"]
SearchPolicy: TypeAlias = Literal["racing", "tpe"]

_MINIBATCH_FROM = 50
"""With no more validation rows than this, a minibatch saves nothing (DSPy's threshold)."""
DRAWS_PER_PROPOSAL = 2
"""How often the prompt model is asked for one place, when its first proposal had to be refused."""
REVISION_ROWS = 32
"""Train rows that the leader is tried on before the second round, at most."""
RETRY_SHARE = 0.1
"""Part of what the comparison needs kept back for retries, and for answers longer than those so far."""
LEAST_SEEN = 0.3
"""Part of the validation rows that a race must have shown a candidate before it may choose it."""
_DEMO_CHOICES = {"light": 6, "medium": 12, "heavy": 18}
_INSTRUCTION_CHOICES = {"light": 4, "medium": 7, "heavy": 10}
_REVISIONS = {"light": 1, "medium": 2, "heavy": 3}
_VAL_ROWS = {"light": 100, "medium": 300, "heavy": 1000}
_LOOK_ROWS = 12
"""What a race shows a candidate at once: few, or it cannot turn to another one; but enough to keep a server busy."""
_NEAREST_POOL = 50
"""Demos to choose from for each request; more make the version's file longer, and the choice a little slower."""
_SCREEN_ROWS = {"light": 24, "medium": 48, "heavy": 96}


@dataclass(frozen=True, slots=True)
class PlanNumbers:
    """What the configuration (`mipro_v2`) says in numbers; None leaves it to the mode."""

    num_candidates: int | None = None
    num_instruction_candidates: int | None = None
    num_revisions: int | None = None
    max_bootstrapped_demos: int | None = None
    max_labeled_demos: int | None = None
    wide_demos: int | None = None
    nearest_demos: bool = False
    num_trials: int | None = None
    minibatch_size: int | None = None
    minibatch_full_eval_steps: int | None = None
    look_rows: int | None = None
    search: SearchPolicy = "racing"
    seed: int = 0
    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """The size of one study.

    Attributes:
        num_candidates: demo sets, at most; num_instruction_candidates: instructions, at most (both with the live one).
        num_revisions: instructions more, at most, that the prompt model writes when it has seen failures; 0: no second
            round.
        max_labeled_demos: demos in a set, at most; max_bootstrapped_demos: those of them that the model got right.
        nearest_pool: demos of a set of which a request is shown the `max_labeled_demos` most like it. 0: no such set.
        wide_demos: demos of the one larger set, at least; it has one for every label up to 12. 0: no such set.
        num_trials: minibatch evaluations after the live version's full evaluation; a race may evaluate as many rows as
            these trials with their full evaluations would.
        look_rows: rows that a race shows a candidate at once.
        val_rows: validation rows that are used.
        minibatch_full_eval_steps: after so many trials the most promising candidate is evaluated on all val rows.
        screen_rows: train rows that the model is tried on, to know which it gets right.
        max_calls, max_tokens, max_cost_usd: of study and comparison together; None is no limit.
        questions_per_answer: what a judge is asked about each answer, beside the answer's own call.
    """

    num_candidates: int
    num_instruction_candidates: int
    max_bootstrapped_demos: int
    max_labeled_demos: int
    wide_demos: int
    nearest_pool: int
    num_trials: int
    val_rows: int
    minibatch_size: int
    minibatch_full_eval_steps: int
    screen_rows: int
    look_rows: int = _LOOK_ROWS
    num_revisions: int = 0
    search: SearchPolicy = "racing"
    seed: int = 0
    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    questions_per_answer: int = 0

    @property
    def allowance(self) -> Allowance:
        """What study and comparison may cost together."""
        return Allowance(self.max_calls, self.max_tokens, self.max_cost_usd)


def plan_for(mode: Mode, n_val: int, *, numbers: PlanNumbers | None = None, questions_per_answer: int = 0) -> StudyPlan:
    """The plan of a mode, with the numbers that were given in place of the mode's own.

    Args:
        n_val: validation rows that there are.

    Source: MIPROv2's formula for the number of trials (DSPy 3.4, `mipro_optimizer_v2.py`), with two variables.
    """
    numbers = numbers or PlanNumbers()
    demo_choices = _or(numbers.num_candidates, _DEMO_CHOICES[mode])
    val_rows = min(n_val, _VAL_ROWS[mode])
    minibatch = _or(numbers.minibatch_size, val_rows if val_rows <= _MINIBATCH_FROM else 35)
    bootstrapped = _or(numbers.max_bootstrapped_demos, 4)
    labeled = _or(numbers.max_labeled_demos, 4)
    instructions = max(1, _or(numbers.num_instruction_candidates, _INSTRUCTION_CHOICES[mode]))
    return StudyPlan(
        num_candidates=max(1, demo_choices),
        num_instruction_candidates=instructions,
        num_revisions=_or(numbers.num_revisions, _REVISIONS[mode] if instructions > 1 else 0),
        max_bootstrapped_demos=bootstrapped,
        max_labeled_demos=labeled,
        wide_demos=_or(numbers.wide_demos, 2 * labeled),
        nearest_pool=_NEAREST_POOL if numbers.nearest_demos and labeled else 0,
        num_trials=_or(numbers.num_trials, int(max(4 * math.log2(max(demo_choices, 1)), 1.5 * demo_choices))),
        val_rows=val_rows,
        minibatch_size=max(1, min(minibatch, val_rows)),
        minibatch_full_eval_steps=max(1, _or(numbers.minibatch_full_eval_steps, 5)),
        screen_rows=_SCREEN_ROWS[mode] if bootstrapped or labeled else 0,
        look_rows=max(1, _or(numbers.look_rows, _LOOK_ROWS)),
        search=numbers.search,
        seed=numbers.seed,
        max_calls=numbers.max_calls,
        max_tokens=numbers.max_tokens,
        max_cost_usd=numbers.max_cost_usd,
        questions_per_answer=questions_per_answer,
    )


def n_rewrites(plan: StudyPlan) -> int:
    """Instructions made without a model: half of the places, so that a weak proposer cannot spoil the search."""
    return min(3, plan.num_instruction_candidates // 2)


def n_proposals(plan: StudyPlan) -> int:
    """Places left for the prompt model, after the live instruction and the rewrites."""
    return max(0, plan.num_instruction_candidates - 1 - n_rewrites(plan))


def _or(number: int | None, default: int) -> int:
    return default if number is None else number


@dataclass(frozen=True, slots=True)
class ComparisonSize:
    """How many prompts run on the test rows after the search, and how many calls more are made to take the time."""

    prompts: int = 2
    timed_calls: int = 0


LIVE_AND_WINNER = ComparisonSize()


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """Model calls that a plan may cost at most, a judge's included, retries and cached answers aside."""

    live: int
    screening: int
    proposals: int
    minibatches: int
    full_evaluations: int
    comparison: int
    failures: int = 0

    @property
    def study(self) -> int:
        """Calls of the search alone."""
        before = self.live + self.screening + self.proposals
        return before + self.minibatches + self.full_evaluations + self.failures

    @property
    def total(self) -> int:
        """Calls of search and comparison."""
        return self.study + self.comparison


def planned_evaluations(plan: StudyPlan, n_val: int) -> int:
    """Answers that all trials and their full evaluations need, the live version's aside, on `n_val` rows."""
    minibatch = min(plan.minibatch_size, n_val)
    evaluated_in_full = math.ceil(plan.num_trials / plan.minibatch_full_eval_steps)
    return plan.num_trials * minibatch + evaluated_in_full * (n_val - minibatch)


def estimate_calls(
    plan: StudyPlan, sample: CalibrationSample, comparison: ComparisonSize = LIVE_AND_WINNER
) -> CallEstimate:
    """What a study on this sample will cost at most, in calls."""
    n_val = min(plan.val_rows, len(sample.rows(Split.VAL)))
    minibatch = min(plan.minibatch_size, n_val)
    per_row = 1 + plan.questions_per_answer
    return CallEstimate(
        live=per_row * n_val,
        screening=per_row * min(plan.screen_rows, len(sample.rows(Split.TRAIN))),
        proposals=DRAWS_PER_PROPOSAL * (n_proposals(plan) + plan.num_revisions) + (n_proposals(plan) > 0),
        failures=per_row * min(REVISION_ROWS, len(sample.rows(Split.TRAIN))) if plan.num_revisions else 0,
        minibatches=per_row * plan.num_trials * minibatch,
        full_evaluations=per_row * (planned_evaluations(plan, n_val) - plan.num_trials * minibatch),
        comparison=per_row * comparison.prompts * len(sample.rows(Split.TEST)) + comparison.timed_calls,
    )


def study_allowance(
    plan: StudyPlan, sample: CalibrationSample, comparison: ComparisonSize = LIVE_AND_WINNER
) -> Allowance:
    """The plan's budget without the calls that the comparison needs.

    What it needs of tokens and dollars is not known before the live version is evaluated (`ComparisonReserve`).

    Raises:
        ConfigurationError: the budget does not even cover the live version's evaluation and the comparison.
    """
    estimate, reserved = estimate_calls(plan, sample, comparison), _reserved_calls(plan, sample, comparison)
    least, looks = least_calls(plan, sample, comparison), _least_looks(plan, sample)
    if plan.max_calls is not None and plan.max_calls < least:
        raise ConfigurationError(
            f"mipro_v2.max_calls is {plan.max_calls}, but this sample needs at least {least}: {estimate.live} to "
            f"evaluate the live version, {estimate.screening + estimate.proposals} to make candidates, {looks} to see "
            f"one of them often enough to choose it, {reserved} for the comparison on test rows. The whole plan costs "
            f"about {estimate.total}."
        )
    return replace(plan.allowance, calls=search_calls(plan, sample, comparison))


def search_calls(
    plan: StudyPlan, sample: CalibrationSample, comparison: ComparisonSize, *, calls_per_answer: float = 1.0
) -> int | None:
    """What of `max_calls` is not kept back for the comparison; None is no limit.

    Args:
        calls_per_answer: at least 1; more where calls fail.
    """
    if plan.max_calls is None:
        return None
    return max(0, plan.max_calls - math.ceil(calls_per_answer * _reserved_calls(plan, sample, comparison)))


def least_calls(plan: StudyPlan, sample: CalibrationSample, comparison: ComparisonSize = LIVE_AND_WINNER) -> int:
    """Calls without which no gain can be proven, however large: with less there is only the live version to choose."""
    estimate = estimate_calls(plan, sample, comparison)
    candidates = estimate.screening + estimate.proposals + _least_looks(plan, sample)
    return estimate.live + candidates + _reserved_calls(plan, sample, comparison)


def least_rows(plan: StudyPlan, n_val: int) -> int:
    """Validation rows that a candidate must have seen to be chosen."""
    n_rows = min(plan.val_rows, n_val)
    return n_rows if plan.search == "tpe" else math.ceil(LEAST_SEEN * n_rows)


def _least_looks(plan: StudyPlan, sample: CalibrationSample) -> int:
    return (1 + plan.questions_per_answer) * least_rows(plan, len(sample.rows(Split.VAL)))


def _reserved_calls(plan: StudyPlan, sample: CalibrationSample, comparison: ComparisonSize) -> int:
    return math.ceil(estimate_calls(plan, sample, comparison).comparison * (1 + RETRY_SHARE))

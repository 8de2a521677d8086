"""What search and comparison will cost at most, by what the probe's calls took."""

from dataclasses import dataclass

from rs_pipelines.cached_model import CallCost
from rs_pipelines.foresight import Needed
from rs_pipelines.live_probe import LiveProbe
from rs_pipelines.mipro.budget import CallEstimate, StudyPlan

_PROPOSAL_TOKENS = (1_500, 300)
"""Input and output of one call to the prompt model: its question shows six rows, its answers are cut at 300."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What search and comparison cost at most, answers in the cache aside. None is unknown."""

    calls: int
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None
    seconds: float | None


def estimate_cost(
    estimate: CallEstimate,
    plan: StudyPlan,
    probe: LiveProbe,
    *,
    longest: float,
    cost_of_call: CallCost,
    cost_of_proposal: CallCost,
) -> CostEstimate:
    """Calls, tokens, dollars and seconds of the whole plan, at most.

    Args:
        longest: how many times as long as the live version's a request with the most demos is; all candidates are taken
            to be as long.
    """
    calls = estimate.total if plan.max_calls is None else min(estimate.total, plan.max_calls)
    seconds = None if probe.seconds_per_call is None else calls * probe.seconds_per_call
    if probe.input_tokens is None or probe.output_tokens is None:
        return CostEstimate(calls, None, None, None, seconds)
    plain, with_demos = round(probe.input_tokens), round(probe.input_tokens * longest)
    out = round(probe.output_tokens)
    compared = estimate.comparison // 2
    # (calls, input tokens of each, output tokens of each, what each costs)
    parts = [
        (estimate.live + estimate.screening + compared, plain, out, cost_of_call(plain, out)),
        (
            estimate.minibatches + estimate.full_evaluations + estimate.failures + compared,
            with_demos,
            out,
            cost_of_call(with_demos, out),
        ),
        (estimate.proposals, *_PROPOSAL_TOKENS, cost_of_proposal(*_PROPOSAL_TOKENS)),
    ]
    made = [part for part in parts if part[0]]
    # A limit on calls cuts all kinds alike.
    cut = calls / estimate.total if estimate.total else 1.0
    unpriced = any(usd is None for *_, usd in made)
    return CostEstimate(
        calls,
        input_tokens=round(cut * sum(n * tokens for n, tokens, _, _ in made)),
        output_tokens=round(cut * sum(n * tokens for n, _, tokens, _ in made)),
        usd=None if unpriced else cut * sum(n * (usd or 0.0) for n, _, _, usd in made),
        seconds=seconds,
    )


def proposals_needed(estimate: CallEstimate, *, cost_of_proposal: CallCost) -> Needed:
    """What the prompt model will take for all its proposals."""
    n, each = estimate.proposals, cost_of_proposal(*_PROPOSAL_TOKENS)
    return Needed(n, n * sum(_PROPOSAL_TOKENS), n * (each or 0.0))

"""What a search will cost, as it is told before it starts."""

from dataclasses import replace

import pytest

from rs_pipelines.cached_model import CallCost, unknown_cost
from rs_pipelines.cost_estimate import estimate_cost
from rs_pipelines.live_probe import LiveProbe
from rs_pipelines.mipro.budget import estimate_calls
from tests.pipelines.parcels import parcels, small_plan

PROBE = LiveProbe(2, (0.0, 1.0), None, input_tokens=40, output_tokens=5, seconds_per_call=0.5)


def cost(usd: float | None) -> CallCost:
    return lambda n_in, n_out: None if usd is None else usd * ((n_in or 0) + (n_out or 0))


def test_the_costs_are_those_of_the_plan_with_demos_in_the_candidates() -> None:
    plan = small_plan()
    calls = estimate_calls(plan, parcels())
    found = estimate_cost(calls, plan, PROBE, longest=3.0, cost_of_call=cost(1e-6), cost_of_proposal=cost(1e-6))
    assert (found.calls, found.seconds) == (calls.total, calls.total * 0.5)
    assert found.input_tokens is not None
    assert found.output_tokens is not None
    assert found.input_tokens > 40 * (calls.total - calls.proposals)
    assert found.usd == pytest.approx((found.input_tokens + found.output_tokens) * 1e-6)


def test_what_is_unknown_is_not_nothing() -> None:
    plan = small_plan()
    calls = estimate_calls(plan, parcels())

    def estimated(live: LiveProbe, proposal: CallCost) -> tuple[float | None, float | None, float | None]:
        e = estimate_cost(calls, plan, live, longest=3.0, cost_of_call=cost(1e-6), cost_of_proposal=proposal)
        return e.input_tokens, e.usd, e.seconds

    assert estimated(PROBE, unknown_cost)[1] is None
    assert estimated(replace(PROBE, input_tokens=None, output_tokens=None), cost(1e-6))[:2] == (None, None)
    assert estimated(replace(PROBE, seconds_per_call=None), cost(1e-6))[2] is None


def test_a_limit_on_calls_limits_the_estimate() -> None:
    plan = small_plan(max_calls=300)
    calls = estimate_calls(plan, parcels())
    found = estimate_cost(calls, plan, PROBE, longest=3.0, cost_of_call=cost(1e-6), cost_of_proposal=cost(1e-6))
    assert found.calls == 300 < calls.total

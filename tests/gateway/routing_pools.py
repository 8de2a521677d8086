"""Pools and results for the routing tests."""

from collections.abc import Sequence

from hypothesis import settings

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.health import Result
from rs_gateway.domain.router import Router

SIMULATED = settings(max_examples=25)
"""A simulation takes long; a few of them say enough."""

GOOD = Result(True, 0.5)
BAD = Result(False, 0.5)
UNTOLD = Result(None, 0.5)


def pool_of(weights: Sequence[float]) -> tuple[Combination, ...]:
    """Combinations c0, c1 ... with these weights."""
    return tuple(Combination(f"c{i}", "t", "m", "p", weight=w) for i, w in enumerate(weights))


def call(router: Router, combination_id: str, result: Result, *, now_s: float) -> None:
    """One whole attempt."""
    mark = router.started(combination_id)
    router.ended(combination_id, result, now_s=now_s, mark=mark)

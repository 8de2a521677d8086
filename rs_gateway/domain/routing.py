"""Which combination answers. A strategy sees only its own pool and draws nothing, so a decision can be replayed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rs_gateway.domain.combinations import Combination


@dataclass(frozen=True, slots=True)
class Decision:
    """What a strategy picked, from what, how likely each was, and why; stored on the trace.

    Attributes:
        fallbacks: what is tried next, in order, should the chosen one fail.
        probabilities: eligible combination id -> probability of being picked at this draw; they sum to 1.
    """

    chosen: str
    fallbacks: tuple[str, ...]
    strategy: str
    probabilities: Mapping[str, float]
    reason: str


class Strategy(Protocol):
    """Picks from one pool. Keeps at most a few numbers a combination; is called by one thread."""

    def choose(self, pool: Sequence[Combination], *, draw: float) -> Decision:
        """Choose from `pool` (not empty; every member enabled).

        Args:
            draw: uniform in [0, 1), supplied by the caller.
        """
        ...


class RoundRobin:
    """Each in turn, in the order of the configuration, whatever its weight."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, pool: Sequence[Combination], *, draw: float) -> Decision:
        index = self._turn % len(pool)
        self._turn = index + 1
        chosen = pool[index].combination_id
        return Decision(
            chosen=chosen,
            fallbacks=_fallbacks(pool[index], pool),
            strategy="round_robin",
            probabilities={c.combination_id: float(c.combination_id == chosen) for c in pool},
            reason=f"turn {index + 1} of {len(pool)}",
        )


class SmoothWeighted:
    """In proportion to the weights, evenly spread: weights 5, 1, 1 give a a b a c a a, never five in a row.

    Source: the smooth weighted round-robin of nginx (ngx_http_upstream_round_robin): every member gains its weight,
    the largest total is picked and pays back the sum of all weights.
    """

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def choose(self, pool: Sequence[Combination], *, draw: float) -> Decision:
        total = sum(c.weight for c in pool)
        # All weights 0 means that the owner took every one out of the draw; they still have to answer somebody.
        weights = {c.combination_id: c.weight if total > 0 else 1.0 for c in pool}
        total = total if total > 0 else float(len(pool))
        credit = {c: self._credit.get(c, 0.0) + weight for c, weight in weights.items()}
        chosen = max(pool, key=lambda c: (weights[c.combination_id] > 0, credit[c.combination_id]))
        credit[chosen.combination_id] -= total
        self._credit = credit
        return Decision(
            chosen=chosen.combination_id,
            fallbacks=_fallbacks(chosen, pool),
            strategy="weighted_round_robin",
            probabilities={c: weight / total for c, weight in weights.items()},
            reason=f"weight {weights[chosen.combination_id]:g} of {total:g}",
        )


def _fallbacks(chosen: Combination, pool: Sequence[Combination]) -> tuple[str, ...]:
    if chosen.fallbacks:
        return chosen.fallbacks
    return tuple(c.combination_id for c in pool if c is not chosen)


STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "round_robin": RoundRobin,
    "weighted_round_robin": SmoothWeighted,
    "weighted": SmoothWeighted,
}
"""Every spelling that `gateway.strategy` accepts."""

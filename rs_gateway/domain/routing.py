"""What routing is told and what it answers: the rules of the configuration, and the decision kept on the trace."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StrategyName = Literal["least_connections", "performance_based", "random", "round_robin", "weighted_round_robin"]

STRATEGIES: Mapping[str, StrategyName] = {
    "least_connections": "least_connections",
    "performance_based": "performance_based",
    "random": "random",
    "round_robin": "round_robin",
    "weighted_round_robin": "weighted_round_robin",
    "weighted": "weighted_round_robin",
}
"""Every spelling that `gateway.strategy` accepts, and the strategy that it means."""

_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a strategy picked, from what, how likely each was, and why; stored on the trace.

    Attributes:
        fallbacks: what is tried next, in order, should the chosen one fail.
        probabilities: eligible combination id -> probability of being picked at this draw; they sum to 1. Round robin
            and weighted round robin draw no lots: theirs are the shares over a whole round.
        excluded: every other combination of the pool -> why it was not eligible.
    """

    chosen: str
    fallbacks: tuple[str, ...]
    strategy: str
    probabilities: Mapping[str, float]
    reason: str
    excluded: Mapping[str, str] = field(default_factory=lambda: _NOTHING)


@dataclass(frozen=True, slots=True)
class CircuitRules:
    """When a circuit opens and for how long.

    Attributes:
        failures_in_a_row: opens after so many, whatever came before.
        failure_rate: opens at this share of failures, once `min_results` recent results (faded) are there.
        half_life_s: a result of so many seconds ago counts half in that share.
        open_s: how long it stays open the first time; doubled by every probe that fails, up to `max_open_s`.
    """

    failures_in_a_row: int = 5
    failure_rate: float = 0.5
    min_results: float = 20.0
    half_life_s: float = 10.0
    open_s: float = 5.0
    max_open_s: float = 120.0

    def __post_init__(self) -> None:
        """Refuse rules under which a circuit would never open or never close. Raises ValueError."""
        if self.failures_in_a_row < 1 or self.min_results < 1:
            raise ValueError(
                f"failures_in_a_row is {self.failures_in_a_row} and min_results {self.min_results:g}: both must be "
                "1 or more."
            )
        if not 0 < self.failure_rate <= 1:
            raise ValueError(f"failure_rate is {self.failure_rate:g}: it must be above 0 and at most 1.")
        if not (self.half_life_s > 0 and 0 < self.open_s <= self.max_open_s):
            raise ValueError(
                f"half_life_s is {self.half_life_s:g}, open_s {self.open_s:g}, max_open_s {self.max_open_s:g}: "
                "all must be above 0, and max_open_s not below open_s."
            )


@dataclass(frozen=True, slots=True)
class RouterRules:
    """How every pool is routed.

    Attributes:
        strategy: one of the spellings in `STRATEGIES`.
        fallback_threshold: a combination whose success rate is proven to be below it is demoted; None: never.
        half_life_s: a result of so many seconds ago counts half, in success rates and latencies.
        quality_half_life_s: the same for quality scores, which come late and seldom.
    """

    strategy: str
    fallback_threshold: float | None = None
    circuit: CircuitRules = field(default_factory=CircuitRules)
    half_life_s: float = 300.0
    quality_half_life_s: float = 6 * 3600.0

    def __post_init__(self) -> None:
        """Refuse what cannot be routed by. Raises ValueError."""
        if self.strategy not in STRATEGIES:
            raise ValueError(f"{self.strategy!r} is no strategy; there are: {', '.join(sorted(STRATEGIES))}.")
        if self.fallback_threshold is not None and not 0 <= self.fallback_threshold <= 1:
            raise ValueError(f"fallback_threshold is {self.fallback_threshold:g}: it must be from 0 to 1.")
        if not (self.half_life_s > 0 and self.quality_half_life_s > 0):
            raise ValueError(
                f"half_life_s is {self.half_life_s:g} and quality_half_life_s {self.quality_half_life_s:g}: both must "
                "be above 0."
            )

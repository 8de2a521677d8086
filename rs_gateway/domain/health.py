"""How one combination is doing: what it has under way, whether it may be asked, what its recent results prove."""

from dataclasses import dataclass
from typing import Literal

from rs_gateway.domain.circuit import Circuit, CircuitState
from rs_gateway.domain.evidence import Evidence, FadedMean, rate_upper_bound
from rs_gateway.domain.routing import RouterRules

PROVEN_Z = 3.0
"""Standard errors that prove a success rate to be low: strict, because every single result is a new look."""
MIN_RESULTS = 10.0
"""Recent results (faded) below which nothing is proven, however bad."""
PROBATION_RESULTS = 10
"""Results since the demotion that are judged together: a rate at the threshold or above restores."""
_NOTHING_LEFT = 1.0
"""Below this weight of evidence a demotion lapses: nobody remembers why."""


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt at a provider ended.

    Attributes:
        succeeded: None when it says nothing of the combination: the client hung up, or its request was refused as bad.
        latency_s: from the start of the attempt to its end, in seconds.
    """

    succeeded: bool | None
    latency_s: float


@dataclass(frozen=True, slots=True)
class CombinationState:
    """How a combination is doing, for a person to read.

    Attributes:
        in_flight: attempts under way.
        retry_in_s: until the circuit lets a probe through; None when it is closed.
        demoted: its success rate is proven to be below the threshold.
        success_rate, latency_s, quality: faded means of the recent past (latency: of successes); None if unknown.
    """

    in_flight: int
    circuit: CircuitState
    retry_in_s: float | None
    demoted: bool
    success_rate: float | None
    latency_s: float | None
    quality: float | None


class Health:
    """Of one combination, whatever pool asks for it.

    Attributes:
        leaving: no longer configured; forgotten as soon as nothing of it is under way.
    """

    __slots__ = (
        "_probation",
        "_threshold",
        "circuit",
        "demoted",
        "evidence",
        "in_flight",
        "leaving",
        "quality",
    )

    def __init__(self, rules: RouterRules) -> None:
        self._threshold = rules.fallback_threshold
        self._probation = (0, 0)
        self.circuit = Circuit(rules.circuit)
        self.evidence = Evidence(rules.half_life_s)
        self.quality = FadedMean(rules.quality_half_life_s)
        self.in_flight = 0
        self.demoted = False
        self.leaving = False

    def adopt(self, rules: RouterRules) -> None:
        """Go on under other rules. All that was learned stays; the next failure is judged by the new threshold."""
        self._threshold, self._probation, self.demoted = rules.fallback_threshold, (0, 0), False
        self.circuit.rules = rules.circuit
        self.evidence.half_life_s, self.quality.half_life_s = rules.half_life_s, rules.quality_half_life_s

    @property
    def sound(self) -> bool:
        """Neither demoted nor with a circuit that is not closed."""
        return not self.demoted and self.circuit.closed

    def started(self) -> int:
        """An attempt begins. Returns the circuit's generation, for `ended`."""
        self.in_flight += 1
        return self.circuit.started()

    def ended(self, result: Result, generation: int, now_s: float) -> None:
        """An attempt ended."""
        self.in_flight = max(0, self.in_flight - 1)
        self.circuit.ended(generation, result.succeeded, now_s)
        if result.succeeded is None:
            return
        if result.succeeded:
            self.evidence.succeeded(result.latency_s, now_s)
        else:
            self.evidence.failed(now_s)
        if self._threshold is not None:
            self._judge(result.succeeded, self._threshold)

    def standing(self, now_s: float) -> Literal["sound", "demoted", "open", "probing"]:
        """What it may be asked: anything, a probing share, nothing, or nothing until its one probe has ended."""
        if not self.circuit.lets_through(now_s):
            return "open" if self.circuit.state(now_s) == "open" else "probing"
        if self.demoted:
            self.evidence.fade(now_s)
            self.demoted = self.evidence.weight >= _NOTHING_LEFT
        return "demoted" if self.demoted else "sound"

    def state(self, now_s: float) -> CombinationState:
        """For a person to read."""
        self.standing(now_s)
        return CombinationState(
            in_flight=self.in_flight,
            circuit=self.circuit.state(now_s),
            retry_in_s=self.circuit.retry_in_s(now_s),
            demoted=self.demoted,
            success_rate=self.evidence.success_rate,
            latency_s=self.evidence.latency_s,
            quality=self.quality.mean,
        )

    def _judge(self, succeeded: bool, threshold: float) -> None:
        evidence = self.evidence
        if not self.demoted:
            if (
                not succeeded
                and evidence.weight >= MIN_RESULTS
                and rate_upper_bound(evidence.successes, evidence.weight, z=PROVEN_Z) < threshold
            ):
                self.demoted, self._probation = True, (0, 0)
            return
        results, successes = self._probation[0] + 1, self._probation[1] + succeeded
        if results < PROBATION_RESULTS:
            self._probation = (results, successes)
            return
        # Block by block, and not faded: at any rate of probes, ten good ones restore, however bad it once was.
        self._probation = (0, 0)
        if successes >= threshold * results:
            self.demoted = False
            # The bad time is over: left in the evidence, it would demote again at the next failure.
            evidence.restate(float(results), float(successes))

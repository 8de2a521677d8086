"""A circuit breaker: a combination that fails and fails is left alone for a while, then asked one cautious question."""

from typing import Literal

from rs_gateway.domain.evidence import FadedMean
from rs_gateway.domain.routing import CircuitRules

CircuitState = Literal["closed", "open", "half_open"]


class Circuit:
    """Closed: calls pass. Open: none should. Half-open, when its time is over: one at a time, whose result decides.

    Every opening starts a new generation. A call that began in an earlier one tells nothing new about it: a hundred
    calls that were under way when a provider went down are one piece of news, not a hundred.
    """

    __slots__ = ("_failures", "_in_a_row", "_open_for_s", "_under_way", "_until_s", "generation", "rules")

    def __init__(self, rules: CircuitRules) -> None:
        self.rules = rules
        self._failures = FadedMean(rules.half_life_s)
        self._in_a_row = 0
        self._open_for_s = rules.open_s
        self._until_s: float | None = None
        self._under_way = 0
        self.generation = 0

    @property
    def closed(self) -> bool:
        """Whether calls pass as they like."""
        return self._until_s is None

    def state(self, now_s: float) -> CircuitState:
        """Closed, open or half-open."""
        if self._until_s is None:
            return "closed"
        return "open" if now_s < self._until_s else "half_open"

    def retry_in_s(self, now_s: float) -> float | None:
        """Seconds until a probe may pass; None when the circuit is closed."""
        return None if self._until_s is None else max(0.0, self._until_s - now_s)

    def lets_through(self, now_s: float) -> bool:
        """Whether a call may begin now."""
        return self._until_s is None or (now_s >= self._until_s and self._under_way == 0)

    def started(self) -> int:
        """A call begins. Returns its generation, for `ended`."""
        self._under_way += 1
        return self.generation

    def ended(self, generation: int, succeeded: bool | None, now_s: float) -> None:
        """The call of `generation` ended; `succeeded` None tells nothing, and only makes room for the next probe."""
        if generation != self.generation:
            return
        self._under_way = max(0, self._under_way - 1)
        if succeeded is None:
            return
        if self._until_s is None:
            self._count(succeeded, now_s)
        elif succeeded:
            self._close()
        elif now_s >= self._until_s:
            self._open_for_s = min(2 * self._open_for_s, self.rules.max_open_s)
            self._open(now_s)

    def _count(self, succeeded: bool, now_s: float) -> None:
        failures = self._failures
        failures.add(0.0 if succeeded else 1.0, now_s)
        if succeeded:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        rules = self.rules
        often = failures.weight >= rules.min_results and failures.total >= rules.failure_rate * failures.weight
        if often or self._in_a_row >= rules.failures_in_a_row:
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        self._until_s = now_s + self._open_for_s
        self._under_way = 0
        self.generation += 1

    def _close(self) -> None:
        self._until_s = None
        self._open_for_s = self.rules.open_s
        self._in_a_row = 0
        self._failures = FadedMean(self.rules.half_life_s)

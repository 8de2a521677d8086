"""How long each part of a trace store is kept."""

from dataclasses import dataclass

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """Days after which a part is deleted, and how large the store may get; None: never. Live figures always stay.

    Attributes:
        payload_days: what was said; the trace stays without it.
        trace_days: the trace itself, and its payload with it.
        feedback_days: what was said about it later.
        store_bytes: of all rows and indexes: over it, the oldest payloads go, and traces once no payload is left.
    """

    payload_days: float | None = None
    trace_days: float | None = None
    feedback_days: float | None = None
    store_bytes: float | None = None

    @property
    def forgets(self) -> bool:
        """Whether anything is ever deleted."""
        limits = (self.payload_days, self.trace_days, self.feedback_days, self.store_bytes)
        return any(limit is not None for limit in limits)

    def payloads_before(self, now_s: float) -> float | None:
        """Payloads of requests that began before this are deleted, in seconds since the epoch; None: none is."""
        kept = [days for days in (self.payload_days, self.trace_days) if days is not None]
        return _before(now_s, min(kept)) if kept else None

    def traces_before(self, now_s: float) -> float | None:
        """The same for traces."""
        return None if self.trace_days is None else _before(now_s, self.trace_days)

    def feedback_before(self, now_s: float) -> float | None:
        """The same for feedback, by the time at which it was given."""
        return None if self.feedback_days is None else _before(now_s, self.feedback_days)


def _before(now_s: float, days: float) -> float:
    return max(now_s - days * _DAY_S, 0.0)

"""The rules that pick one of a pool's eligible combinations. Chance is passed in, so every pick can be replayed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rs_gateway.domain.health import Health


@dataclass(frozen=True, slots=True)
class Member:
    """One combination of a pool, as strategies see it.

    Attributes:
        weight: >= 0; 1 for everybody where the owner gave all of the pool 0.
        fallbacks: its own, as configured; may name combinations outside the pool.
    """

    combination_id: str
    weight: float
    fallbacks: tuple[str, ...]
    health: Health


class Strategy(Protocol):
    """Picks for one pool. Keeps at most a few numbers a combination; is called by one thread."""

    def shares(self, eligible: tuple[Member, ...], *, now_s: float) -> tuple[float, ...]:
        """How likely each is; sums to 1. The same object again where nothing changed, so that it can be recognised."""
        ...

    def pick(self, eligible: tuple[Member, ...], shares: tuple[float, ...], *, draw: float) -> int:
        """The position of the one to ask; `draw` is uniform in [0, 1)."""
        ...

    def reason(self, eligible: tuple[Member, ...], position: int) -> str:
        """Why this one, in a few words, asked right after `pick`."""
        ...


def drawn(shares: Sequence[float], draw: float) -> int:
    """The position that `draw` falls on; never one whose share is 0."""
    for position, share in enumerate(shares):
        draw -= share
        if draw < 0:
            return position
    # Rounding left a sliver beyond the last edge.
    return max(position for position, share in enumerate(shares) if share > 0)


class _Remembered:
    """The shares of the eligible set seen last, which is nearly always the one seen next."""

    __slots__ = ("_eligible", "_shares")

    def __init__(self) -> None:
        self._eligible: tuple[Member, ...] = ()
        self._shares: tuple[float, ...] = ()

    def shares(self, eligible: tuple[Member, ...], *, now_s: float) -> tuple[float, ...]:
        """As long as the set is the same, the same object."""
        if eligible is not self._eligible:
            self._eligible, self._shares = eligible, self._shares_of(eligible)
        return self._shares

    def _shares_of(self, eligible: tuple[Member, ...]) -> tuple[float, ...]:
        return (1 / len(eligible),) * len(eligible)


class RoundRobin(_Remembered):
    """Each in turn, in the order of the configuration, whatever its weight."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        super().__init__()
        self._turn = 0

    def pick(self, eligible: tuple[Member, ...], shares: tuple[float, ...], *, draw: float) -> int:
        """The one whose turn it is."""
        position = self._turn % len(eligible)
        self._turn = position + 1
        return position

    def reason(self, eligible: tuple[Member, ...], position: int) -> str:
        """Whose turn it was."""
        return f"turn {position + 1} of {len(eligible)}"


class UniformRandom(_Remembered):
    """Each with the same probability, whatever its weight and whoever came before."""

    __slots__ = ()

    def pick(self, eligible: tuple[Member, ...], shares: tuple[float, ...], *, draw: float) -> int:
        """By the draw alone."""
        return min(int(draw * len(eligible)), len(eligible) - 1)

    def reason(self, eligible: tuple[Member, ...], position: int) -> str:
        """How many there were."""
        return f"drawn from {len(eligible)}"


class SmoothWeighted(_Remembered):
    """In proportion to the weights, evenly spread: weights 5, 1, 1 give a a b a c a a, never five in a row.

    Source: the smooth weighted round-robin of nginx (ngx_http_upstream_round_robin): every member gains its weight,
    the largest total is picked and pays back the sum of all weights.
    """

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        super().__init__()
        self._credit: dict[str, float] = {}

    def pick(self, eligible: tuple[Member, ...], shares: tuple[float, ...], *, draw: float) -> int:
        """The one with the most credit. Who is not eligible keeps its credit until it is again."""
        credit = self._credit
        best, most, total = 0, float("-inf"), 0.0
        for position, member in enumerate(eligible):
            weight = member.weight
            total += weight
            has = credit[member.combination_id] = credit.get(member.combination_id, 0.0) + weight
            if has > most:
                best, most = position, has
        credit[eligible[best].combination_id] = most - total
        return best

    def reason(self, eligible: tuple[Member, ...], position: int) -> str:
        """Its weight among all."""
        return f"weight {eligible[position].weight:g} of {sum(m.weight for m in eligible):g}"

    def _shares_of(self, eligible: tuple[Member, ...]) -> tuple[float, ...]:
        total = sum(m.weight for m in eligible)
        return tuple(m.weight / total for m in eligible)


class LeastConnections:
    """The one with the fewest attempts under way; among equals the heaviest, then by the draw."""

    __slots__ = ()

    def shares(self, eligible: tuple[Member, ...], *, now_s: float) -> tuple[float, ...]:
        """Split among those that nobody beats."""
        ranks = [(m.health.in_flight, -m.weight) for m in eligible]
        first = min(ranks)
        share = 1 / ranks.count(first)
        return tuple([share if rank == first else 0.0 for rank in ranks])

    def pick(self, eligible: tuple[Member, ...], shares: tuple[float, ...], *, draw: float) -> int:
        """Among those that nobody beats, by the draw."""
        return drawn(shares, draw)

    def reason(self, eligible: tuple[Member, ...], position: int) -> str:
        """How many attempts it has under way, and the others."""
        others = [f"{m.combination_id} {m.health.in_flight}" for m in eligible if m is not eligible[position]]
        in_flight = f"{eligible[position].health.in_flight} in flight"
        return f"{in_flight}, nobody has fewer ({', '.join(others)})" if others else in_flight

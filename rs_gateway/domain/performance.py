"""The strategy that learns: more to those that answer, answer well and answer fast, and never nothing to anybody."""

import math
from dataclasses import dataclass

from rs_gateway.domain.strategies import Member, drawn

EXPLORED = 0.06
"""Share of the draws that is spread evenly, whatever is known: nobody's evidence ever dries up under traffic."""
TEMPERATURE = 0.03
"""A value lower by this much gets 1/e of the share."""
SPEED_SHARE = 0.2
"""How much of its value an endlessly slow answer would lose; one twice as slow as the fastest loses half of it."""
_PRIOR = 2.0
"""How many results the assumption that somebody is as good as the best is worth."""
_KNOWN = 1.0
"""Weight of evidence from which a combination may set the standard for others."""
_FRESH_S = 0.05
"""The table of shares is computed anew at most this often, in seconds."""


@dataclass(frozen=True, slots=True)
class _Table:
    eligible: tuple[Member, ...]
    made_s: float
    values: tuple[float, ...]
    shares: tuple[float, ...]


class PerformanceBased:
    """Draws with probabilities that rise steeply with the value of a combination.

    The value is success rate x (1 - 0.2 x how much slower than the fastest) x mean quality score, the last only where
    scores exist. All three are means of faded evidence, taken at the optimistic end (one standard error up) and drawn
    towards the best of the pool as far as evidence is missing. So a new combination is tried as if it were the best,
    and a bad one is tried again when its bad time has faded.

    Source: discounted evidence with an optimistic bound as in Garivier & Moulines, "On Upper-Confidence Bound Policies
    for Switching Bandit Problems" (ALT 2011). Where they take the largest bound, we draw from a softmax over the bounds
    mixed with an even share (Sutton & Barto, "Reinforcement Learning", 2nd ed., 2.2 and 2.8): the probability of every
    pick is then known, positive and on the trace, and many requests at once do not all rush to one newcomer.
    """

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: _Table | None = None

    def shares(self, eligible: tuple[Member, ...], *, now_s: float) -> tuple[float, ...]:
        """What every draw of the next 50 ms goes by."""
        table = self._table
        if table is None or table.eligible is not eligible or not 0 <= now_s - table.made_s < _FRESH_S:
            values = _values(eligible, now_s)
            table = self._table = _Table(eligible, now_s, values, _softmax(values))
        return table.shares

    def pick(self, eligible: tuple[Member, ...], shares: tuple[float, ...], *, draw: float) -> int:
        """By the draw."""
        return drawn(shares, draw)

    def reason(self, eligible: tuple[Member, ...], position: int) -> str:
        """What it is worth, and what that rests on."""
        health = eligible[position].health
        known = [
            f"{name} {value:.3g}{unit}"
            for name, value, unit in (
                ("success rate", health.evidence.success_rate, ""),
                ("latency", health.evidence.latency_s, " s"),
                ("quality", health.quality.mean, ""),
            )
            if value is not None
        ]
        value = self._table.values[position] if self._table is not None else 1.0
        return f"value {value:.3f} ({', '.join(known) or 'nothing known yet'})"


def _values(eligible: tuple[Member, ...], now_s: float) -> tuple[float, ...]:
    best_rate = best_quality = 0.0
    fastest = math.inf
    for member in eligible:
        evidence, quality = member.health.evidence, member.health.quality
        evidence.fade(now_s)
        quality.fade(now_s)
        if evidence.weight >= _KNOWN:
            best_rate = max(best_rate, evidence.successes / evidence.weight)
        if evidence.successes >= _KNOWN and evidence.log_latency is not None:
            fastest = min(fastest, evidence.log_latency)
        if quality.weight >= _KNOWN:
            best_quality = max(best_quality, quality.total / quality.weight)
    # With nobody known, everybody is presumed perfect. Where all fail, a newcomer's bound still beats them.
    best_rate = best_rate or 1.0
    values: list[float] = []
    for member in eligible:
        evidence, quality = member.health.evidence, member.health.quality
        value = _optimistic(evidence.successes, evidence.weight, best_rate)
        log_latency = evidence.log_latency
        if log_latency is not None and fastest < math.inf:
            slower = max(0.0, log_latency - fastest) * evidence.successes / (evidence.successes + _PRIOR)
            value *= 1 - SPEED_SHARE * (1 - math.exp(-slower))
        if best_quality > 0:
            value *= _optimistic(quality.total, quality.weight, best_quality)
        values.append(value)
    return tuple(values)


def _optimistic(total: float, weight: float, best: float) -> float:
    """The mean, drawn towards `best` as far as evidence is missing, and one standard error up; at most 1."""
    mean = (total + _PRIOR * best) / (weight + _PRIOR)
    spread = max(0.0, mean * (1 - mean)) / (weight + _PRIOR + 1)
    return min(1.0, mean + math.sqrt(spread))


def _softmax(values: tuple[float, ...]) -> tuple[float, ...]:
    top = max(values)
    odds = [math.exp((value - top) / TEMPERATURE) for value in values]
    floor, scale = EXPLORED / len(values), (1 - EXPLORED) / sum(odds)
    return tuple([floor + scale * o for o in odds])

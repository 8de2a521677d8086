"""The one place that knows how every combination is doing, and decides from it who answers. No clock, no lots."""

from collections.abc import Callable, Collection, Mapping, Sequence

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.health import CombinationState, Health, Result
from rs_gateway.domain.performance import PerformanceBased
from rs_gateway.domain.routing import STRATEGIES, Decision, RouterRules, StrategyName
from rs_gateway.domain.strategies import (
    LeastConnections,
    Member,
    RoundRobin,
    SmoothWeighted,
    Strategy,
    UniformRandom,
    drawn,
)

PROBING_SHARE = 0.05
"""What the demoted combinations of a pool get together while others are sound: enough to see them recover."""
_MAX_MENUS = 32
_MAKERS: Mapping[StrategyName, Callable[[], Strategy]] = {
    "least_connections": LeastConnections,
    "performance_based": PerformanceBased,
    "random": UniformRandom,
    "round_robin": RoundRobin,
    "weighted_round_robin": SmoothWeighted,
}
_WHY = {
    "open": "its circuit is open after failures",
    "probing": "its circuit is half-open and a probe is under way",
}


class Router:
    """Chooses for every pool of one gateway process, and learns from every attempt. Belongs to one thread.

    Health (attempts under way, circuit, evidence) is kept by combination id and shared by all pools; whose turn it is,
    by pool key. Every `started` needs its `ended`, whatever happened in between.
    """

    def __init__(self, rules: RouterRules) -> None:
        self._rules = rules
        self._health: dict[str, Health] = {}
        self._configured: frozenset[str] = frozenset()
        self._ailing: set[str] = set()
        self._pools: dict[str, _PoolTurns] = {}

    def choose(self, pool_key: str, combinations: Sequence[Combination], *, draw: float, now_s: float) -> Decision:
        """Who answers the next request of this pool, and who after it.

        Eligible are members with a weight whose circuit lets a call through and that are not demoted; the demoted ones
        keep a probing share. If there are none, the demoted answer; if there are none of these either, everybody with
        a weight: our own bookkeeping never refuses a request. The chosen one is to be tried without asking `may_try`.

        Args:
            combinations: not empty; every one enabled. All weights 0 counts as all the same.
            draw: uniform in [0, 1).
            now_s: monotonic seconds.
        """
        pool = self._pools.get(pool_key)
        members = combinations if isinstance(combinations, tuple) else tuple(combinations)
        if pool is None or (pool.combinations is not members and pool.combinations != members):
            pool = self._pools[pool_key] = self._pool_of(members)
        pool.combinations = members
        if not self._ailing or self._ailing.isdisjoint(pool.watched):
            return pool.sound.decide(draw, now_s)
        standings = tuple([health.standing(now_s) for health in pool.watched.values()])
        for combination_id in self._ailing.intersection(pool.watched):
            self._look_again(combination_id, self._health[combination_id])
        return pool.menu(standings).decide(draw, now_s)

    @property
    def all_sound(self) -> bool:
        """Whether there is nobody whom `may_try` could say no to."""
        return not self._ailing

    def may_try(self, combination_id: str, *, now_s: float) -> bool:
        """Whether a fallback or a retry makes sense: not while the circuit is open, nor while its one probe runs."""
        health = self._health.get(combination_id)
        return health is None or health.circuit.lets_through(now_s)

    def started(self, combination_id: str) -> int:
        """An attempt at its provider begins. Returns a mark that lets `ended` tell old news from new."""
        return self._of(combination_id).started()

    def ended(self, combination_id: str, result: Result, *, now_s: float, mark: int | None = None) -> None:
        """The attempt ended.

        Args:
            mark: what `started` returned. Without it the attempt counts as one begun since the circuit last opened, and
                calls that were under way at that moment may pass for the probe.
        """
        health = self._health.get(combination_id)
        if health is None:
            return
        health.ended(result, health.circuit.generation if mark is None else mark, now_s)
        self._look_again(combination_id, health)
        if health.leaving and health.in_flight == 0:
            self._forget(combination_id)

    def scored(self, combination_id: str, score: float, *, now_s: float) -> None:
        """An answer of it was judged. Of what nobody chose yet too, as long as `keep_only` names it.

        Raises:
            ValueError: `score` is not in [0, 1].
        """
        if not 0 <= score <= 1:
            raise ValueError(f"The score of {combination_id!r} is {score}: it must be from 0 to 1.")
        if combination_id in self._health or combination_id in self._configured:
            self._of(combination_id).quality.add(score, now_s)

    def states(self, now_s: float) -> Mapping[str, CombinationState]:
        """How every combination that was ever a candidate, or judged, is doing."""
        return {combination_id: health.state(now_s) for combination_id, health in self._health.items()}

    def keep_only(self, combination_ids: Collection[str]) -> None:
        """Forget what left the configuration; what still has attempts under way, as soon as they have ended."""
        kept = self._configured = frozenset(combination_ids)
        for combination_id, health in list(self._health.items()):
            health.leaving = combination_id not in kept
            if health.leaving and health.in_flight == 0:
                self._forget(combination_id)
        self._pools = {key: pool for key, pool in self._pools.items() if kept.issuperset(pool.watched)}

    def adopt(self, rules: RouterRules) -> None:
        """Go on under other rules. What is under way and what was learned stays; turns and demotions start afresh."""
        if rules == self._rules:
            return
        self._rules = rules
        self._pools.clear()
        for combination_id, health in self._health.items():
            health.adopt(rules)
            self._look_again(combination_id, health)

    def _of(self, combination_id: str) -> Health:
        health = self._health.get(combination_id)
        if health is None:
            health = self._health[combination_id] = Health(self._rules)
        return health

    def _look_again(self, combination_id: str, health: Health) -> None:
        if health.sound:
            self._ailing.discard(combination_id)
        else:
            self._ailing.add(combination_id)

    def _forget(self, combination_id: str) -> None:
        del self._health[combination_id]
        self._ailing.discard(combination_id)
        # A pool that still shows it to late requests must not go on counting on the forgotten record.
        self._pools = {key: pool for key, pool in self._pools.items() if combination_id not in pool.watched}

    def _pool_of(self, combinations: tuple[Combination, ...]) -> "_PoolTurns":
        # All weights 0 means that the owner took every one out of the draw; they still have to answer somebody.
        weightless = not any(c.weight > 0 for c in combinations)
        members = tuple(
            Member(c.combination_id, 1.0 if weightless else c.weight, c.fallbacks, self._of(c.combination_id))
            for c in combinations
        )
        outside = {f: self._of(f) for member in members for f in member.fallbacks}
        watched = {**outside, **{m.combination_id: m.health for m in members}}
        name = STRATEGIES[self._rules.strategy]
        return _PoolTurns(combinations, members, watched, name)


class _PoolTurns:
    """One pool: its strategy with whose turn it is, and a menu for every state of health that it has been in.

    Args:
        watched: the health of its members and of whatever their fallbacks name.
    """

    __slots__ = ("_members", "_menus", "_name", "_strategy", "combinations", "sound", "watched")

    def __init__(
        self,
        combinations: tuple[Combination, ...],
        members: tuple[Member, ...],
        watched: Mapping[str, Health],
        name: StrategyName,
    ) -> None:
        self.combinations = combinations
        self.watched = watched
        self._members = members
        self._name: StrategyName = name
        self._strategy = _MAKERS[name]()
        self._menus: dict[tuple[str, ...], _Menu] = {}
        self.sound = self.menu(("sound",) * len(watched))

    def menu(self, standings: tuple[str, ...]) -> "_Menu":
        """What there is to choose from when those `watched` stand so."""
        menu = self._menus.get(standings)
        if menu is None:
            if len(self._menus) >= _MAX_MENUS:
                self._menus.clear()
            ranks = dict(zip(self.watched, standings, strict=True))
            menu = self._menus[standings] = _Menu(self._members, ranks, self._strategy, self._name)
        return menu


class _Menu:
    """Who may be chosen at one state of health, who not and why, and the decisions that repeat."""

    __slots__ = (
        "_decisions", "_eligible", "_excluded", "_members", "_name", "_note", "_probed", "_shares", "_standings",
        "_strategy",
    )  # fmt: skip

    def __init__(
        self, members: tuple[Member, ...], standings: Mapping[str, str], strategy: Strategy, name: StrategyName
    ) -> None:
        self._members, self._standings, self._strategy, self._name = members, standings, strategy, name
        weighted = tuple(m for m in members if m.weight > 0)
        sound = tuple(m for m in weighted if standings[m.combination_id] == "sound")
        demoted = tuple(m for m in weighted if standings[m.combination_id] == "demoted")
        self._eligible = sound or demoted or weighted
        self._probed = demoted if sound else ()
        if sound:
            self._note = ""
        elif demoted:
            self._note = "; nobody is sound, so the demoted answer"
        else:
            self._note = "; every circuit is open, so all are tried anyway"
        let_in = {m.combination_id for m in (*self._eligible, *self._probed)}
        self._excluded = {
            m.combination_id: "its weight is 0" if m.weight <= 0 else _WHY[standings[m.combination_id]]
            for m in members
            if m.combination_id not in let_in
        }
        self._shares: tuple[float, ...] = ()
        self._decisions: dict[int, Decision] = {}

    def decide(self, draw: float, now_s: float) -> Decision:
        """One decision. Decisions that say the same are the same object."""
        strategy, eligible = self._strategy, self._eligible
        shares = strategy.shares(eligible, now_s=now_s)
        if shares is not self._shares:
            self._shares = shares
            self._decisions.clear()
        if self._probed:
            if draw < PROBING_SHARE:
                return self._probe(draw / PROBING_SHARE)
            draw = (draw - PROBING_SHARE) / (1 - PROBING_SHARE)
        position = strategy.pick(eligible, shares, draw=draw)
        decision = self._decisions.get(position)
        if decision is None:
            reason = strategy.reason(eligible, position) + self._note
            decision = self._decisions[position] = self._decision(eligible[position], reason)
        return decision

    def _probe(self, draw: float) -> Decision:
        position = drawn((1 / len(self._probed),) * len(self._probed), draw)
        reason = f"probe: it is demoted, and {PROBING_SHARE:.0%} of the draws show whether it has recovered"
        return self._decision(self._probed[position], reason)

    def _decision(self, chosen: Member, reason: str) -> Decision:
        kept = 1 - PROBING_SHARE if self._probed else 1.0
        probabilities = {
            m.combination_id: kept * share for m, share in zip(self._eligible, self._shares, strict=True)
        } | {m.combination_id: PROBING_SHARE / len(self._probed) for m in self._probed}
        return Decision(
            chosen=chosen.combination_id,
            fallbacks=self._fallbacks(chosen),
            strategy=self._name,
            probabilities=probabilities,
            reason=reason,
            excluded=self._excluded,
        )

    def _fallbacks(self, chosen: Member) -> tuple[str, ...]:
        """As configured, or all the others; the ailing go last."""
        order = {"sound": 0, "demoted": 1, "probing": 2, "open": 2}
        others = dict.fromkeys(chosen.fallbacks or [m.combination_id for m in self._members])
        others.pop(chosen.combination_id, None)
        return tuple(sorted(others, key=lambda c: order[self._standings[c]]))

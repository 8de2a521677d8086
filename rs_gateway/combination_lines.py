"""Combinations as they would be drawn from: configuration and registry put together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.registered_template import RegisteredTemplate


@dataclass(frozen=True, slots=True)
class CombinationLine:
    """One combination.

    Attributes:
        weight: as set while the gateway ran (`weight_is_set`), else as configured.
        share: of the template's draws under `weighted_round_robin`, in [0, 1]; 0 for one that cannot be drawn. Where
            all weights are 0, all share alike.
        version: the version that it would render now.
        fallbacks: who is asked when it fails, in this order: those that the configuration names (`fallbacks_are_set`)
            or all others of the template, in both cases only those that can answer. Empty for one that cannot be drawn.
        problem: why it cannot be drawn; None when it can.
    """

    combination_id: str
    name: str
    template_id: str | None
    model: str
    provider: str
    enabled: bool
    weight: float
    weight_is_set: bool
    share: float
    version: int | None
    fallbacks: tuple[str, ...]
    fallbacks_are_set: bool
    problem: str | None


def combination_lines(
    combinations: Sequence[Combination], templates: Mapping[str, RegisteredTemplate]
) -> list[CombinationLine]:
    """All combinations, in the configuration's order."""
    weights = {c.combination_id: _weight(c, templates.get(c.template_id or "")) for c in combinations}
    problems = {c.combination_id: _problem(c, templates.get(c.template_id or "")) for c in combinations}
    pools: defaultdict[str | None, dict[str, float]] = defaultdict(dict)
    for c in combinations:
        if problems[c.combination_id] is None:
            pools[c.template_id][c.combination_id] = weights[c.combination_id]
    lines: list[CombinationLine] = []
    for c in combinations:
        registered = templates.get(c.template_id or "")
        live = None if registered is None else registered.live(c.model)
        pool, problem = pools[c.template_id], problems[c.combination_id]
        lines.append(
            CombinationLine(
                combination_id=c.combination_id,
                name=c.name,
                template_id=c.template_id,
                model=c.model,
                provider=c.provider,
                enabled=c.enabled,
                weight=weights[c.combination_id],
                weight_is_set=registered is not None and c.combination_id in registered.weights,
                share=0.0 if problem is not None else _share(c.combination_id, pool),
                version=None if live is None else live.number,
                fallbacks=() if problem is not None else _fallbacks(c, pool),
                fallbacks_are_set=bool(c.fallbacks),
                problem=problem,
            )
        )
    return lines


def _weight(combination: Combination, registered: RegisteredTemplate | None) -> float:
    if registered is None:
        return combination.weight
    return registered.weights.get(combination.combination_id, combination.weight)


def _share(combination_id: str, pool: Mapping[str, float]) -> float:
    total = sum(pool.values())
    return pool[combination_id] / total if total > 0 else 1 / len(pool)


def _fallbacks(combination: Combination, pool: Mapping[str, float]) -> tuple[str, ...]:
    """As the router asks them while all are sound."""
    named = dict.fromkeys(combination.fallbacks or pool)
    return tuple(c for c in named if c in pool and c != combination.combination_id)


def _problem(combination: Combination, registered: RegisteredTemplate | None) -> str | None:
    if not combination.enabled:
        return "not enabled"
    if registered is None:
        return "its template is not registered"
    return "nothing is live for its model" if registered.live(combination.model) is None else None

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
        share: of the template's draws under `weighted_round_robin`, in [0, 1]; 0 for one that cannot be drawn.
        version: the version that it would render now.
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
    problem: str | None


def combination_lines(
    combinations: Sequence[Combination], templates: Mapping[str, RegisteredTemplate]
) -> list[CombinationLine]:
    """All combinations, in the configuration's order."""
    weights = {c.combination_id: _weight(c, templates.get(c.template_id or "")) for c in combinations}
    problems = {c.combination_id: _problem(c, templates.get(c.template_id or "")) for c in combinations}
    totals: defaultdict[str | None, float] = defaultdict(float)
    for c in combinations:
        if problems[c.combination_id] is None:
            totals[c.template_id] += weights[c.combination_id]
    lines: list[CombinationLine] = []
    for c in combinations:
        registered = templates.get(c.template_id or "")
        live = None if registered is None else registered.live(c.model)
        weight, total, problem = weights[c.combination_id], totals[c.template_id], problems[c.combination_id]
        lines.append(
            CombinationLine(
                combination_id=c.combination_id,
                name=c.name,
                template_id=c.template_id,
                model=c.model,
                provider=c.provider,
                enabled=c.enabled,
                weight=weight,
                weight_is_set=registered is not None and c.combination_id in registered.weights,
                share=weight / total if problem is None and total > 0 else 0.0,
                version=None if live is None else live.number,
                fallbacks=c.fallbacks,
                problem=problem,
            )
        )
    return lines


def _weight(combination: Combination, registered: RegisteredTemplate | None) -> float:
    if registered is None:
        return combination.weight
    return registered.weights.get(combination.combination_id, combination.weight)


def _problem(combination: Combination, registered: RegisteredTemplate | None) -> str | None:
    if not combination.enabled:
        return "not enabled"
    if registered is None:
        return "its template is not registered"
    return "nothing is live for its model" if registered.live(combination.model) is None else None

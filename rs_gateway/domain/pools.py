"""Who may answer a request: the pools of combinations, and how a request finds its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rs_gateway.domain.chat import ChatRequest
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import (
    AmbiguousModelError,
    ModelNotFoundError,
    TemplateUnavailableError,
)
from rs_gateway.domain.prompts import PromptTemplate, PromptVersion, RegisteredTemplate


@dataclass(frozen=True, slots=True)
class Pool:
    """The combinations that may answer one kind of request, each with the version that it serves.

    Attributes:
        key: names the pool's own strategy state: a template id, or template id and model, or a pass-through model.
        template: None for pass-through, where nothing is rendered.
        reserve: other combinations of the template; only a `fallbacks` entry that names them reaches them.
        versions: combination id -> version, the reserve's too; empty for pass-through.
    """

    key: str
    template: PromptTemplate | None
    combinations: tuple[Combination, ...]
    versions: Mapping[str, PromptVersion]
    reserve: tuple[Combination, ...] = ()

    def only(self, combinations: Iterable[Combination], *, key: str) -> "Pool":
        """The same pool with fewer to choose from; the others become its reserve."""
        kept = tuple(combinations)
        return replace(self, key=key, combinations=kept, reserve=tuple(c for c in self.combinations if c not in kept))


@dataclass(frozen=True, slots=True)
class Catalog:
    """An immutable picture of all that can be served; replaced whole when registry or configuration change.

    Attributes:
        pools: template id -> its pool; only templates that can answer.
        unavailable: template id -> why it cannot answer.
        passthrough: model name -> the combination that reaches it without a template.
    """

    pools: Mapping[str, Pool]
    unavailable: Mapping[str, str]
    passthrough: Mapping[str, Combination]

    def names(self) -> list[str]:
        """Everything that a client may put into `model`, sorted."""
        models = {c.model for pool in self.pools.values() for c in pool.combinations}
        return sorted({*self.pools, *models, *self.passthrough})


def build_catalog(
    templates: Mapping[str, RegisteredTemplate],
    combinations: Iterable[Combination],
    *,
    passthrough: Mapping[str, Combination],
    problems: Mapping[str, str],
) -> Catalog:
    """Join what the configuration declares with what the registry holds live.

    Args:
        problems: template id -> why the registry could not load it; shown to whoever asks for that template.
    """
    members: dict[str, list[Combination]] = {}
    versions: dict[str, dict[str, PromptVersion]] = {}
    unavailable = {template_id: reason for template_id, reason in problems.items() if template_id not in templates}
    for combination in combinations:
        template_id = combination.template_id
        if template_id is None or not combination.enabled:
            continue
        registered = templates.get(template_id)
        if registered is None:
            unavailable.setdefault(template_id, "it is not registered: run `route-switch template register`.")
            continue
        version = registered.live(combination.model)
        if version is None:
            unavailable.setdefault(template_id, f"no version is live for {combination.model}.")
            continue
        weight = registered.weights.get(combination.combination_id, combination.weight)
        members.setdefault(template_id, []).append(replace(combination, weight=weight))
        versions.setdefault(template_id, {})[combination.combination_id] = version
    pools = {
        template_id: Pool(template_id, templates[template_id].template, tuple(group), versions[template_id])
        for template_id, group in members.items()
    }
    for template_id in templates.keys() - pools.keys():
        unavailable.setdefault(template_id, "no enabled combination in `gateway.combinations` names it.")
    return Catalog(pools, {t: r for t, r in unavailable.items() if t not in pools}, passthrough)


def resolve(catalog: Catalog, request: ChatRequest) -> Pool:
    """The pool that `request` may be answered from.

    In order: `metadata.combination_id`; `metadata.template_id`; `model` equal to a template id; `model` equal to a
    model that exactly one template (or the default one) runs on, restricted to that model; pass-through.

    Raises:
        ModelNotFoundError, AmbiguousModelError, TemplateUnavailableError.
    """
    if request.combination_id is not None:
        return _pool_of_combination(catalog, request.combination_id, request.template_id)
    if request.template_id is not None:
        return _pool_of_template(catalog, request.template_id, kind="template")
    if request.model in catalog.pools or request.model in catalog.unavailable:
        return _pool_of_template(catalog, request.model, kind="model")
    return _pool_of_model(catalog, request.model)


def _pool_of_combination(catalog: Catalog, combination_id: str, template_id: str | None) -> Pool:
    pools = [p for t, p in catalog.pools.items() if template_id is None or t == template_id]
    for pool in pools:
        for combination in pool.combinations:
            if combination.combination_id == combination_id:
                return pool.only([combination], key=f"{pool.key}#{combination_id}")
    available = [c.combination_id for pool in pools for c in pool.combinations]
    raise ModelNotFoundError(combination_id, kind="combination", available=available)


def _pool_of_template(catalog: Catalog, template_id: str, *, kind: str) -> Pool:
    if template_id in catalog.pools:
        return catalog.pools[template_id]
    if template_id in catalog.unavailable:
        raise TemplateUnavailableError(template_id, catalog.unavailable[template_id])
    raise ModelNotFoundError(template_id, kind=kind, available=catalog.pools if kind == "template" else catalog.names())


def _pool_of_model(catalog: Catalog, model: str) -> Pool:
    running = {t: p for t, p in catalog.pools.items() if any(c.model == model for c in p.combinations)}
    defaults = [t for t, p in running.items() if p.template is not None and p.template.default]
    if len(running) > 1 and len(defaults) != 1:
        raise AmbiguousModelError(model, running)
    if running:
        template_id = next(iter(running)) if len(running) == 1 else defaults[0]
        pool = running[template_id]
        return pool.only((c for c in pool.combinations if c.model == model), key=f"{template_id}@{model}")
    if model in catalog.passthrough:
        return Pool(f"@{model}", None, (catalog.passthrough[model],), {})
    raise ModelNotFoundError(model, available=catalog.names())

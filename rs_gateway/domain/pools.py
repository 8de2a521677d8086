"""Who may answer a request: the pools of combinations, and how a request finds its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rs_gateway.domain.chat import ChatRequest
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import AmbiguousModelError, ModelNotFoundError, TemplateUnavailableError
from rs_gateway.domain.prompts import PromptTemplate, PromptVersion
from rs_gateway.domain.registered_template import RegisteredTemplate


@dataclass(frozen=True, slots=True)
class Pool:
    """The combinations that may answer one kind of request, each with the version that it serves.

    Attributes:
        key: names the pool's own strategy state: a template id, or template id and model, or a pass-through model.
        template: None for pass-through, where nothing is rendered.
        reserve: other combinations of the template; only a `fallbacks` entry that names them reaches them.
        versions: combination id -> version, the reserve's too; empty for pass-through.
        members: combination id -> combination, the reserve's too.
    """

    key: str
    template: PromptTemplate | None
    combinations: tuple[Combination, ...]
    versions: Mapping[str, PromptVersion]
    reserve: tuple[Combination, ...] = ()
    members: Mapping[str, Combination] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        members = {c.combination_id: c for c in (*self.combinations, *self.reserve)}
        object.__setattr__(self, "members", members)

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
        by_combination: combination id -> the pool of that one alone.
        by_model: model name -> the pool of those that run it; of the default template, where there are several.
        ambiguous: model name -> the templates that run it, none of them the default.
    """

    pools: Mapping[str, Pool]
    unavailable: Mapping[str, str]
    passthrough: Mapping[str, Combination]
    by_combination: Mapping[str, Pool] = field(init=False, compare=False, repr=False)
    by_model: Mapping[str, Pool] = field(init=False, compare=False, repr=False)
    ambiguous: Mapping[str, tuple[str, ...]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_combination = {
            c.combination_id: pool.only([c], key=f"{pool.key}#{c.combination_id}")
            for pool in self.pools.values()
            for c in pool.combinations
        }
        by_model = {model: Pool(f"@{model}", None, (c,), {}) for model, c in self.passthrough.items()}
        ambiguous: dict[str, tuple[str, ...]] = {}
        for model in {c.model for pool in self.pools.values() for c in pool.combinations}:
            running = [pool for pool in self.pools.values() if any(c.model == model for c in pool.combinations)]
            defaults = [pool for pool in running if pool.template is not None and pool.template.default]
            chosen = running if len(running) == 1 else defaults
            if len(chosen) != 1:
                ambiguous[model] = tuple(pool.key for pool in running)
                continue
            by_model[model] = chosen[0].only(
                (c for c in chosen[0].combinations if c.model == model), key=f"{chosen[0].key}@{model}"
            )
        object.__setattr__(self, "by_combination", by_combination)
        object.__setattr__(self, "by_model", by_model)
        object.__setattr__(self, "ambiguous", ambiguous)

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
    pool = catalog.by_combination.get(combination_id)
    if pool is not None and template_id in (None, pool.template.template_id if pool.template is not None else None):
        return pool
    pools = [p for t, p in catalog.pools.items() if template_id is None or t == template_id]
    available = [c.combination_id for pool in pools for c in pool.combinations]
    raise ModelNotFoundError(combination_id, kind="combination", available=available)


def _pool_of_template(catalog: Catalog, template_id: str, *, kind: str) -> Pool:
    if template_id in catalog.pools:
        return catalog.pools[template_id]
    if template_id in catalog.unavailable:
        raise TemplateUnavailableError(template_id, catalog.unavailable[template_id])
    raise ModelNotFoundError(template_id, kind=kind, available=catalog.pools if kind == "template" else catalog.names())


def _pool_of_model(catalog: Catalog, model: str) -> Pool:
    if model in catalog.ambiguous:
        raise AmbiguousModelError(model, catalog.ambiguous[model])
    pool = catalog.by_model.get(model)
    if pool is not None:
        return pool
    raise ModelNotFoundError(model, available=catalog.names())

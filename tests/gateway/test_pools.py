"""Pools: how a request finds the combinations that may answer it, and that nobody gets another template's prompt."""

import pytest

from rs_gateway.domain.chat import ChatRequest
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import AmbiguousModelError, ModelNotFoundError, TemplateUnavailableError
from rs_gateway.domain.pools import Catalog, build_catalog, resolve
from rs_gateway.domain.prompts import Origin, PromptTemplate, PromptText, PromptVersion
from rs_gateway.domain.registered_template import RegisteredTemplate

ORIGIN = Origin("registered", "tester", "2026-01-01T00:00:00+00:00")


def registered(template_id: str, *, default: bool = False) -> RegisteredTemplate:
    version = PromptVersion(1, PromptText(f"I am {template_id}"), None, ORIGIN)
    template = PromptTemplate(template_id, template_id, (), {"name": "ExactMatch"}, default=default)
    return RegisteredTemplate(template, {1: version}, {"*": 1})


def catalog(*, default: str | None = None, problems: dict[str, str] | None = None) -> Catalog:
    return build_catalog(
        {t: registered(t, default=t == default) for t in ("billing", "support")},
        [
            Combination("s-big", "support", "big", "p", fallbacks=("s-small",)),
            Combination("s-small", "support", "small", "p"),
            Combination("b-big", "billing", "big", "p"),
            Combination("off", "billing", "off-model", "p", enabled=False),
            Combination("ghost", "ghost", "big", "p"),
        ],
        passthrough={"raw": Combination("p/raw", None, "raw", "p")},
        problems=problems or {},
    )


def request(model: str, template_id: str | None = None, combination_id: str | None = None) -> ChatRequest:
    return ChatRequest(model, (), {}, template_id, combination_id, {}, stream=False, include_usage=False)


def test_a_template_id_reaches_its_whole_pool_and_no_other() -> None:
    pool = resolve(catalog(), request("support"))
    assert [c.combination_id for c in pool.combinations] == ["s-big", "s-small"]
    assert {v.text.instruction for v in pool.versions.values()} == {"I am support"}


def test_a_model_of_one_template_reaches_that_pool_restricted_but_keeps_declared_fallbacks_reachable() -> None:
    small = resolve(catalog(), request("small"))
    assert [c.combination_id for c in small.combinations] == ["s-small"]
    assert [c.combination_id for c in small.reserve] == ["s-big"]


def test_a_model_of_several_templates_needs_a_default() -> None:
    with pytest.raises(AmbiguousModelError, match="billing, support"):
        resolve(catalog(), request("big"))
    pool = resolve(catalog(default="billing"), request("big"))
    assert [c.combination_id for c in pool.combinations] == ["b-big"]


def test_a_combination_can_be_pinned_within_its_template_only() -> None:
    pinned = resolve(catalog(), request("whatever", combination_id="s-small"))
    assert [c.combination_id for c in pinned.combinations] == ["s-small"]
    with pytest.raises(ModelNotFoundError):
        resolve(catalog(), request("x", template_id="billing", combination_id="s-small"))


def test_what_cannot_be_served_says_why() -> None:
    with pytest.raises(TemplateUnavailableError, match="not registered"):
        resolve(catalog(), request("ghost"))
    with pytest.raises(TemplateUnavailableError, match="broken file"):
        resolve(catalog(problems={"broken": "broken file"}), request("x", template_id="broken"))
    with pytest.raises(ModelNotFoundError, match="billing"):
        resolve(catalog(), request("off-model"))


def test_a_weight_of_the_registry_overrides_the_configuration() -> None:
    base = registered("support")
    overridden = RegisteredTemplate(base.template, base.versions, base.serving, weights={"s-small": 9.0})
    built = build_catalog(
        {"support": overridden}, [Combination("s-small", "support", "small", "p")], passthrough={}, problems={}
    )
    assert built.pools["support"].combinations[0].weight == 9.0

"""The configuration of the original system: each of its keys works here, or is refused by name."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rs_gateway.domain.errors import ConfigurationError, MissingVariablesError
from rs_gateway.domain.routing import RouterRules
from rs_gateway.settings import Settings, load_settings, provider_key
from rs_gateway.wiring import combinations_of, passthrough_of, rate_limits_of, router_rules_of
from tests import upstream as wire
from tests.gateway.test_chat import HELP
from tests.running import RunningGateway, register, running_gateway, write_configuration
from tests.upstream import Upstream

ORIGINAL = """
model_providers:
  openai: {api_key: "${OPENAI_KEY}", models: [gpt-4], options: {temperature: 0.7}}
  anthropic: {api_key: "${ANTHROPIC_KEY}", models: [claude-3-opus]}
  local: {base_url: "http://127.0.0.1:9/v1", models: [llama], rate_limit: 60}
mipro_v2:
  num_candidates: 5
  max_bootstrapped_demos: 3
  max_labeled_demos: 2
  num_trials: 20
  minibatch_size: 10
  minibatch_full_eval_steps: 4
  num_instruction_candidates: 6
  evaluation_strategy: KeywordMatch
evaluation: {default_strategy: ExactMatch}
api: {timeout_seconds: 30, max_retries: 3}
dataset: {base_path: rows, max_records: 100}
gateway:
  addr: ":8080"
  strategy: weighted
  fallback_threshold: 0.8
  optimization: {enabled: true, interval_seconds: 3600}
  combinations:
    - id: first
      name: The first one
      template_id: support
      model: gpt-4
      provider: openai
      is_primary: true
      weight: 3
      fallbacks: [second]
      metadata: {team: blue}
    - {id: second, template_id: support, model: claude-3-opus, provider: anthropic}
    - {id: third, template_id: support, model: llama, provider: local, enabled: false}
"""
"""Every key of the original that works here, in one file."""

WORKS = {
    "model_providers.openai.models": ("gpt-4",),
    "model_providers.openai.options": {"temperature": 0.7},
    "model_providers.local.base_url": "http://127.0.0.1:9/v1",
    "model_providers.local.rate_limit": 60,
    "mipro_v2.num_candidates": 5,
    "mipro_v2.max_bootstrapped_demos": 3,
    "mipro_v2.max_labeled_demos": 2,
    "mipro_v2.num_trials": 20,
    "mipro_v2.minibatch_size": 10,
    "mipro_v2.minibatch_full_eval_steps": 4,
    "mipro_v2.num_instruction_candidates": 6,
    "mipro_v2.evaluation_strategy": "KeywordMatch",
    "evaluation.default_strategy": "ExactMatch",
    "api.timeout_seconds": 30,
    "api.max_retries": 3,
    "dataset.base_path": Path("rows"),
    "dataset.max_records": 100,
    "gateway.addr": ":8080",
    "gateway.strategy": "weighted",
    "gateway.fallback_threshold": 0.8,
    "gateway.optimization.enabled": True,
    "gateway.optimization.interval_seconds": 3600,
    "gateway.combinations.0.id": "first",
    "gateway.combinations.0.name": "The first one",
    "gateway.combinations.0.template_id": "support",
    "gateway.combinations.0.model": "gpt-4",
    "gateway.combinations.0.provider": "openai",
    "gateway.combinations.0.is_primary": True,
    "gateway.combinations.0.weight": 3,
    "gateway.combinations.0.fallbacks": ("second",),
    "gateway.combinations.0.enabled": True,
    "gateway.combinations.0.metadata": {"team": "blue"},
    "gateway.combinations.2.enabled": False,
}
REFUSED: dict[str, tuple[Any, str]] = {
    "analytics.driver": ("duckdb", "analytics is not read here: live figures are kept beside the traces"),
    "analytics.path": ("data/a.duckdb", "analytics is not read here: live figures are kept beside the traces"),
    "gateway.combinations.0.prompt": ("Hi", "gateway.combinations.0.prompt is not read here: prompt texts live in"),
    "evaluation.threshold": (0.8, "evaluation.threshold is not read here: set `threshold` with the evaluator"),
    "evaluation.max_retries": (2, "evaluation.max_retries is not read here: evaluators that call a model retry as"),
    "templates": ([], "templates is not read here: templates live in the registry"),
}
KEYS_OF_THE_ORIGINAL = {
    "model_providers": {"api_key", "base_url", "models", "options", "rate_limit"},
    "mipro_v2": {
        *("num_candidates", "max_bootstrapped_demos", "max_labeled_demos", "num_trials", "minibatch_size"),
        *("minibatch_full_eval_steps", "num_instruction_candidates", "evaluation_strategy"),
    },
    "evaluation": {"default_strategy", "threshold", "max_retries"},
    "api": {"timeout_seconds", "max_retries"},
    "dataset": {"base_path", "max_records"},
    "gateway": {"addr", "strategy", "fallback_threshold"},
    "gateway.optimization": {"enabled", "interval_seconds"},
    "gateway.combinations": {
        *("id", "name", "template_id", "prompt", "model", "provider", "is_primary", "weight", "fallbacks", "enabled"),
        "metadata",
    },
    "analytics": {"driver", "path"},
}


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("OPENAI_KEY", "sk-one")
    monkeypatch.setenv("ANTHROPIC_KEY", "sk-two")
    return load_settings(write_configuration(tmp_path, yaml.safe_load(ORIGINAL)))


def at(settings: Any, place: str) -> Any:
    for part in place.split("."):
        if isinstance(settings, dict):
            settings = settings[part]
        else:
            settings = settings[int(part)] if part.isdigit() else getattr(settings, part)
    return settings


def test_the_tables_below_forget_no_key_of_the_original() -> None:
    tested = {(_section(place), place.rpartition(".")[2]) for place in (*WORKS, *REFUSED)}
    # The key is tested with its variables, below.
    missing = {(s, key) for s, keys in KEYS_OF_THE_ORIGINAL.items() for key in keys} - tested
    assert missing == {("model_providers", "api_key")}


def _section(place: str) -> str:
    parts = [part for part in place.split(".")[:-1] if not part.isdigit()]
    return parts[0] if parts[:1] == ["model_providers"] else ".".join(parts)


@pytest.mark.parametrize("place", WORKS)
def test_a_key_that_works_is_read(original: Settings, place: str) -> None:
    assert at(original, place) == WORKS[place]


@pytest.mark.parametrize("place", REFUSED)
def test_a_key_whose_meaning_moved_is_refused_by_name_with_the_new_place(tmp_path: Path, place: str) -> None:
    value, words = REFUSED[place]
    document: Any = {"gateway": {"combinations": [{"id": "c"}]}}
    parent = document
    *parts, last = place.split(".")
    for part in parts:
        parent = parent[int(part)] if part.isdigit() else parent.setdefault(part, {})
    parent[last] = value
    with pytest.raises(ConfigurationError) as caught:
        load_settings(write_configuration(tmp_path, document))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "variables"),
    [
        ("openai", ("ROUTE_SWITCH_OPENAI_API_KEY", "OPENAI_API_KEY")),
        ("anthropic", ("ROUTE_SWITCH_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY")),
        ("google", ("ROUTE_SWITCH_GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")),
        ("mistral", ("ROUTE_SWITCH_MISTRAL_API_KEY", "MISTRAL_API_KEY")),
        ("cohere", ("ROUTE_SWITCH_COHERE_API_KEY", "COHERE_API_KEY")),
        ("my-own.llm", ("ROUTE_SWITCH_MY_OWN_LLM_API_KEY", "MY_OWN_LLM_API_KEY")),
    ],
)
def test_a_providers_key_comes_from_our_variable_then_from_its_own(
    tmp_path: Path, provider: str, variables: tuple[str, ...]
) -> None:
    settings = load_settings(
        write_configuration(tmp_path, {"model_providers": {provider: {"base_url": "http://x/v1"}}})
    )
    for position in range(len(variables)):
        environment = {name: name for name in variables[position:]}
        assert provider_key(provider, settings.model_providers[provider], environment) == variables[position]
    assert provider_key(provider, settings.model_providers[provider], {}) is None


def test_a_key_in_the_file_is_a_variables_name_and_wins(original: Settings) -> None:
    openai = original.model_providers["openai"]
    assert provider_key("openai", openai, {"ROUTE_SWITCH_OPENAI_API_KEY": "other"}) == "sk-one"


def test_the_evaluator_of_the_search_goes_before_the_general_one(original: Settings, tmp_path: Path) -> None:
    assert original.default_evaluator == "KeywordMatch"
    general = load_settings(write_configuration(tmp_path, {"evaluation": {"default_strategy": "Similarity"}}))
    assert general.default_evaluator == "Similarity"
    assert original.datasets_path == tmp_path / "rows"


def test_routing_goes_by_strategy_and_threshold(original: Settings) -> None:
    assert router_rules_of(original) == RouterRules("weighted", 0.8)


def test_a_rate_limit_is_requests_a_minute(original: Settings) -> None:
    (bucket,) = rate_limits_of(original).values()
    taken = 0
    while bucket.wait_s(100.0) == 0:
        bucket.take(1, 100.0)
        taken += 1
    assert taken == 6  # a tenth of the minute's may come at once
    assert bucket.wait_s(100.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ([{}, {}], [1, 1]),
        ([{"is_primary": True}, {}], [1, 0]),
        ([{"is_primary": True}, {"is_primary": True}, {}], [1, 1, 0]),
        ([{"is_primary": True}, {"weight": 2}], [1, 2]),
        ([{"is_primary": True, "weight": 5}, {}], [5, 0]),
        ([{"is_primary": True, "enabled": False}, {}], [1, 1]),
        ([{"is_primary": True}, {"template_id": "other"}], [1, 1]),
    ],
)
def test_beside_a_primary_combination_the_others_of_its_template_only_stand_in(
    tmp_path: Path, flags: list[dict[str, Any]], weights: list[float]
) -> None:
    combinations = [
        {"id": f"c{number}", "template_id": "support", "model": "m", "provider": "local", **flag}
        for number, flag in enumerate(flags)
    ]
    document = {"model_providers": {"local": {"base_url": "http://x/v1"}}, "gateway": {"combinations": combinations}}
    settings = load_settings(write_configuration(tmp_path, document))
    assert [c.weight for c in combinations_of(settings)] == weights


def test_a_providers_options_lie_under_the_combinations_own(original: Settings) -> None:
    first, second, third = combinations_of(original)
    assert (first.parameters, second.parameters) == ({"temperature": 0.7}, {})
    assert (first.fallbacks, first.metadata, third.enabled) == (("second",), {"team": "blue"}, False)
    assert passthrough_of(original)["gpt-4"].parameters == {"temperature": 0.7}


def served(folder: Path, *upstreams: Upstream, combinations: list[dict[str, Any]], **gateway: Any) -> dict[str, Any]:
    register(folder)
    return {
        "model_providers": {
            f"p{i}": {"base_url": u.base_url, "kind": "openai_compatible", "options": {"temperature": 0.7, "seed": 1}}
            for i, u in enumerate(upstreams, start=1)
        },
        "gateway": {"combinations": combinations, **gateway},
        "api": {"max_retries": 0},
        "telemetry": {"request_log": False},
    }


def status_of(gateway: RunningGateway) -> dict[str, Any]:
    with gateway.client() as client:
        return client.get("/status").json()


def test_a_primary_answers_and_its_fallback_takes_over_within_the_request(tmp_path: Path) -> None:
    combinations = [
        {"id": "one", "template_id": "support", "model": "gpt-4", "provider": "p1", "is_primary": True},
        {"id": "two", "template_id": "support", "model": "gpt-4", "provider": "p2", "metadata": {"team": "blue"}},
        {"id": "off", "template_id": "support", "model": "gpt-4", "provider": "p2", "enabled": False},
    ]
    with (
        Upstream([wire.answers("ok")] * 3 + [wire.fails(503)]).running() as first,
        Upstream([wire.answers("ok")]).running() as second,
        running_gateway(tmp_path, served(tmp_path, first, second, combinations=combinations)) as gateway,
    ):
        answered = [gateway.ask({**HELP, "seed": 2}).headers["x-route-switch-combination"] for _ in range(5)]
        assert answered == ["one", "one", "one", "two", "two"]
        sent = first.requests[0]
        assert (sent["temperature"], sent["seed"]) == (0.7, 2)
        shown = status_of(gateway)["templates"]["support"]["combinations"]
        assert [(c["combination_id"], c["weight"], c["metadata"]) for c in shown] == [
            ("one", 1, {}),
            ("two", 0, {"team": "blue"}),
        ]


def test_what_falls_below_the_threshold_is_demoted_within_the_running_gateway(tmp_path: Path) -> None:
    combinations = [
        {"id": name, "template_id": "support", "model": "gpt-4", "provider": provider}
        for name, provider in (("one", "p1"), ("two", "p2"))
    ]
    with (
        # One in two fails: too few in a row and too few in all for its circuit, and well below the threshold.
        Upstream([wire.fails(503), wire.answers("ok")] * 40).running() as first,
        Upstream([wire.answers("ok")]).running() as second,
        running_gateway(
            tmp_path,
            served(tmp_path, first, second, combinations=combinations, strategy="random", fallback_threshold=0.95),
        ) as gateway,
    ):
        for _ in range(60):
            assert gateway.ask(HELP).status_code == 200
        health = {c["combination_id"]: c["health"] for c in status_of(gateway)["templates"]["support"]["combinations"]}
        assert health["one"]["demoted"] is True
        assert health["two"]["demoted"] is False
        chosen = Counter(gateway.ask(HELP).headers["x-route-switch-combination"] for _ in range(60))
    assert chosen["two"] > 45


def test_a_providers_rate_limit_leads_to_the_next_combination(tmp_path: Path) -> None:
    combinations = [
        {"id": "one", "template_id": "support", "model": "gpt-4", "provider": "p1", "is_primary": True},
        {"id": "two", "template_id": "support", "model": "gpt-4", "provider": "p2"},
    ]
    with Upstream([wire.answers("ok")]).running() as first, Upstream([wire.answers("ok")]).running() as second:
        settings = served(tmp_path, first, second, combinations=combinations)
        settings["model_providers"]["p1"]["rate_limit"] = 10
        with running_gateway(tmp_path, settings) as gateway:
            answered = [gateway.ask(HELP).headers["x-route-switch-combination"] for _ in range(2)]
    assert answered == ["one", "two"]
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_the_documented_request_without_its_variable_says_which_one_is_missing(tmp_path: Path) -> None:
    combinations = [{"id": "one", "template_id": "support", "model": "gpt-4", "provider": "p1"}]
    with (
        Upstream([wire.answers("ok")]).running() as up,
        running_gateway(tmp_path, served(tmp_path, up, combinations=combinations)) as gateway,
    ):
        assert gateway.ask(json.loads(json.dumps(HELP))).status_code == 200
        refused = gateway.ask({name: value for name, value in HELP.items() if name != "variables"})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == MissingVariablesError.code
    assert "customer_name" in refused.json()["error"]["message"]

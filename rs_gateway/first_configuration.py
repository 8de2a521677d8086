"""The commented route-switch.yaml that `route-switch init` writes."""

import json
from collections.abc import Iterator, Mapping

from rs_gateway.surroundings import LOCAL_MODEL_URL, Surroundings
from rs_gateway.yaml_text import YamlTextError, parse_yaml

FIRST_MODELS: Mapping[str, str] = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "mistral": "mistral-small-latest",
    "groq": "llama-3.1-8b-instant",
    "deepseek": "deepseek-chat",
    "openrouter": "openai/gpt-4o-mini",
    "cohere": "command-r7b-12-2024",
}
"""A small model of each provider that needs a key, to begin with."""
_SHOWN_OLLAMA_MODELS = 5
_LOCAL = "local"


def first_configuration(found: Surroundings) -> str:
    """YAML that `route-switch check` accepts; what is commented out is accepted too where the comment is taken away."""
    return "\n".join([*_head(), *_providers(found), *_gateway(found), *_TAIL]) + "\n"


def models_of(found: Surroundings) -> dict[str, tuple[str, ...]]:
    """Provider -> the models to begin with, for those that can be used at once."""
    models: dict[str, tuple[str, ...]] = {name: (FIRST_MODELS[name],) for name in found.keys if name in FIRST_MODELS}
    if found.ollama_models:
        models["ollama"] = found.ollama_models[:_SHOWN_OLLAMA_MODELS]
    if found.local_models:
        models[_LOCAL] = found.local_models
    return models


def _head() -> Iterator[str]:
    yield "# Route-Switch. Look it over with `route-switch check`; `route-switch check --live` asks every model once."
    yield "# A key that is not known is refused by name. Lines that are commented out show what is used by default, or"
    yield "# what could be. Any key can come from the environment too: gateway.addr is RS_GATEWAY__ADDR."
    yield ""


def _providers(found: Surroundings) -> Iterator[str]:
    yield "# Who answers. API keys stay in the environment; this file never holds one."
    usable = models_of(found)
    yield (
        "model_providers:"
        if usable
        else "model_providers: {}  # none was found: set a key, or start Ollama or `route-switch model serve`"
    )
    for name, models in usable.items():
        where = f"  # the key is in {found.keys[name]}" if name in found.keys else "  # on this machine, without a key"
        yield f"  {name}:{where}"
        if name == _LOCAL:
            yield f"    base_url: {LOCAL_MODEL_URL}  # of `route-switch model serve`, while that runs"
        yield f"    models: [{', '.join(map(_yaml, models))}]  # what clients may ask for without a template"
        yield (
            "    options: {max_tokens: 256}  # under every request's own parameters; a small model may talk without end"
            if name == _LOCAL
            else "    # options: {temperature: 0}  # under every request's own parameters"
        )
        yield "    # rate_limit: 600  # requests a minute that the provider allows"
    yield "# Others: mistral, groq, deepseek, openrouter, ollama, anthropic, google, cohere, whatever litellm knows, or"
    yield "# any name with the URL of a server that speaks OpenAI's protocol: {base_url: http://127.0.0.1:8081/v1}"
    yield ""


def _gateway(found: Surroundings) -> Iterator[str]:
    name, models = next(iter(models_of(found).items()), ("openai", (FIRST_MODELS["openai"],)))
    yield "gateway:"
    yield f"  addr: 127.0.0.1:{found.port}  # other than loopback once there is a client key: route-switch keys create"
    yield "  # strategy: weighted_round_robin  # or round_robin, random, least_connections, performance_based"
    yield "  # Which model runs which template. Register a template first: route-switch template register support.yaml"
    yield "  # combinations:"
    yield f"  #   - {{id: support-first, template_id: support, model: {_yaml(models[0])}, provider: {name}, weight: 1}}"
    yield ""


_TAIL = (
    "# data_dir: data  # traces, prompts, keys, studies; relative to this file",
    "",
    "# privacy:",
    "#   store: full  # or metrics, none",
    "#   redact: [emails, card_numbers, api_keys]",
    "#   retention: {payload_days: 30}",
    "",
    "# How prompts are searched, and what a better one has to prove.",
    "# mipro_v2: {mode: light, max_calls: 2000}",
    "# evaluation: {default_strategy: ExactMatch, min_test_rows: 30}",
)


def _yaml(text: str) -> str:
    """An item of a flow list; what YAML would read as something else than this text is quoted."""
    try:
        plain = parse_yaml(f"[{text}]") == [text]
    except YamlTextError:
        plain = False
    return text if plain else json.dumps(text)

"""Who answers embeddings, Responses and Messages at each provider of a configuration."""

import base64
import json
import struct
from typing import Any

import pytest

from rs_gateway.adapters.endpoint_http import EndpointHttp
from rs_gateway.adapters.litellm_embeddings import LiteLLMEmbeddings
from rs_gateway.adapters.litellm_endpoints import TranslatedEndpoints
from rs_gateway.domain.endpoints import Endpoint, EndpointProvider
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.endpoint_wiring import build_endpoints
from rs_gateway.settings import Settings
from rs_gateway.wiring import build_providers
from tests.gateway.endpoint_stage import on_stage
from tests.upstream import Exchange, Upstream, fails


def wired(providers: dict[str, Any]) -> dict[tuple[str, Endpoint], EndpointProvider]:
    settings = Settings.model_validate({"model_providers": providers})
    return build_endpoints(settings, build_providers(settings))


@pytest.mark.parametrize(
    ("name", "provider", "direct"),
    [
        ("openai", {}, {"embeddings", "responses"}),
        ("anthropic", {}, {"messages"}),
        ("mistral", {}, {"embeddings"}),
        ("mine", {"base_url": "http://127.0.0.1:1/v1"}, {"embeddings"}),
        ("mine", {"base_url": "http://127.0.0.1:1/v1", "endpoints": ["chat", "messages"]}, {"messages"}),
        ("openai", {"endpoints": ["chat"]}, set[str]()),
        ("google", {}, set[str]()),
        ("cohere", {}, set[str]()),
    ],
)
def test_a_provider_is_asked_directly_where_it_speaks_the_endpoint(
    name: str, provider: dict[str, Any], direct: set[str]
) -> None:
    built = wired({name: provider})
    assert {endpoint for (_, endpoint), p in built.items() if isinstance(p, EndpointHttp)} == direct
    rest = {endpoint: p for (_, endpoint), p in built.items() if endpoint not in direct}
    assert all(isinstance(p, LiteLLMEmbeddings if e == "embeddings" else TranslatedEndpoints) for e, p in rest.items())
    assert {endpoint for _, endpoint in built} == {"embeddings", "responses", "messages"}


def test_a_provider_that_speaks_an_endpoint_needs_an_address() -> None:
    with pytest.raises(ConfigurationError, match=r"model_providers\.bedrock\.endpoints"):
        wired({"bedrock": {"endpoints": ["messages"]}})


def test_a_provider_with_openais_header_gets_its_key_in_both_ways_on_messages() -> None:
    def mine(upstream: Upstream) -> dict[tuple[str, Endpoint], EndpointProvider]:
        built = wired({"anthropic": {"base_url": upstream.base_url.removesuffix("/v1")}})
        other = EndpointHttp(
            "mine",
            base_url=upstream.base_url,
            api_key="sk-mine",
            connect_timeout_s=1,
            first_byte_timeout_s=1,
            idle_timeout_s=1,
        )
        return {**built, ("openai", "messages"): other}

    with Upstream([fails(400)]).running() as up, on_stage(up, providers=mine) as stage:
        stage.post("messages", {"model": "gpt", "max_tokens": 1, "messages": []})
        # Anthropic's address is found with and without its /v1: a wrong path would be a refusal like this one, too.
        assert stage.post("messages", {"model": "claude", "max_tokens": 1, "messages": []}).status_code == 400
    assert (up.headers[0]["x-api-key"], up.headers[0]["authorization"]) == ("sk-mine", "Bearer sk-mine")
    assert "authorization" not in up.headers[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_of_an_api_of_its_own_come_in_openais_shape(encoding: str | None) -> None:
    async def cohere(exchange: Exchange) -> None:
        meta = {"billed_units": {"input_tokens": 3}}
        await exchange.json(
            200, {"id": "e1", "embeddings": {"float": [[0.5, -1.25]]}, "texts": ["hello"], "meta": meta}
        )

    def providers(upstream: Upstream) -> dict[tuple[str, Endpoint], EndpointProvider]:
        provider = LiteLLMEmbeddings(
            "cohere", vendor="cohere", base_url=f"{upstream.base_url}/embed", api_key="sk-cohere"
        )
        return {("openai", "embeddings"): provider}

    asked = {"model": "embedder", "input": "hello", **({"encoding_format": encoding} if encoding else {})}
    with Upstream([cohere]).running() as up, on_stage(up, providers=providers) as stage:
        response = stage.post("embeddings", asked)
        refused = stage.post("embeddings", {**asked, "api_base": "http://evil.example"})
    assert response.status_code == 200, response.text
    vector = response.json()["data"][0]["embedding"]
    assert vector == (
        base64.b64encode(struct.pack("<2f", 0.5, -1.25)).decode() if encoding == "base64" else [0.5, -1.25]
    )
    assert up.requests[0]["texts"] == ["hello"]
    assert stage.traces(2)[0].usage.input_tokens == 3
    assert (refused.status_code, len(up.requests)) == (400, 1)
    assert "api_base" in json.dumps(refused.json())

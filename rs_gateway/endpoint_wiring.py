"""Settings -> who answers embeddings, Responses and Messages at each provider: itself, or litellm in between."""

import os
from collections.abc import Mapping

from rs_gateway.adapters.endpoint_http import ANTHROPIC_BASE_URL, EndpointHttp
from rs_gateway.adapters.litellm_embeddings import LiteLLMEmbeddings
from rs_gateway.adapters.litellm_endpoints import TranslatedEndpoints
from rs_gateway.domain.endpoints import ENDPOINT_PATHS, Endpoint, EndpointProvider
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.ports import ChatProvider
from rs_gateway.setting_sections import ProviderSettings
from rs_gateway.settings import DIRECT_BASE_URLS, Settings, provider_key

_SPOKEN_BY_NAME: Mapping[str, frozenset[Endpoint]] = {
    "openai": frozenset({"embeddings", "responses"}),
    "anthropic": frozenset({"messages"}),
}
_LITELLM_VENDORS = {"google": "gemini"}


def spoken_by(name: str, provider: ProviderSettings) -> frozenset[Endpoint]:
    """The endpoints that a provider speaks itself: as configured, else what is known of its name.

    Of an unknown one with OpenAI's chat API, embeddings are assumed; of one behind litellm, nothing.
    """
    if provider.endpoints is not None:
        return frozenset(e for e in ENDPOINT_PATHS if e in provider.endpoints)
    if name in _SPOKEN_BY_NAME:
        return _SPOKEN_BY_NAME[name]
    is_compatible = provider.kind == "openai_compatible" or provider.base_url or name in DIRECT_BASE_URLS
    return frozenset({"embeddings"}) if is_compatible and provider.kind != "litellm" else frozenset()


def build_endpoints(
    settings: Settings, providers: Mapping[str, ChatProvider]
) -> dict[tuple[str, Endpoint], EndpointProvider]:
    """Who answers where, for every provider of the configuration. Opens no connection and imports nothing heavy yet.

    Args:
        providers: by name; what is translated is asked through them.

    Raises:
        ConfigurationError: a provider is said to speak an endpoint, and nobody knows where.
    """
    built: dict[tuple[str, Endpoint], EndpointProvider] = {}
    for name, provider in settings.model_providers.items():
        base_url = provider.base_url or DIRECT_BASE_URLS.get(name)
        api_key = provider_key(name, provider, os.environ)
        spoken = spoken_by(name, provider)
        if base_url is None and name == "anthropic":
            base_url = ANTHROPIC_BASE_URL
        if spoken and base_url is None:
            raise ConfigurationError(f"model_providers.{name}.endpoints says that it speaks them: it needs a base_url.")
        if base_url is not None and spoken:
            direct = EndpointHttp(
                name,
                base_url=base_url,
                api_key=api_key,
                key_header="x-api-key" if name == "anthropic" else "authorization",
                connect_timeout_s=settings.api.connect_timeout_seconds,
                first_byte_timeout_s=settings.api.first_byte_timeout_seconds,
                idle_timeout_s=settings.api.idle_timeout_seconds,
            )
            built |= {(name, endpoint): direct for endpoint in spoken}
        limit_field = "max_completion_tokens" if name == "openai" else "max_tokens"
        translated = TranslatedEndpoints(name, providers[name], limit_field=limit_field)
        built.setdefault((name, "responses"), translated)
        built.setdefault((name, "messages"), translated)
        built.setdefault(
            (name, "embeddings"),
            LiteLLMEmbeddings(
                name,
                vendor=_LITELLM_VENDORS.get(name, name),
                base_url=provider.base_url,
                api_key=api_key,
                connect_timeout_s=settings.api.connect_timeout_seconds,
            ),
        )
    return built

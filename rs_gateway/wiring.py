"""Settings -> stores, registry, providers. Without FastAPI, so that pipelines and offline commands use it too."""

import os
import time
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Literal, Protocol

from rs_gateway.adapters.http_address import parse_address
from rs_gateway.adapters.litellm_chat import LiteLLMChat
from rs_gateway.adapters.openai_http import OpenAIHttp
from rs_gateway.adapters.price_table import load_prices
from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.adapters.request_log import RequestLog
from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.adapters.sqlite_erasure import SqliteEraser
from rs_gateway.adapters.sqlite_figures import SqliteFigures
from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore, sqlite_path
from rs_gateway.adapters.trace_retention import Retention
from rs_gateway.adapters.trace_writer import Prepare, WriterLimits
from rs_gateway.domain.access_store import AccessStore
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import ConfigurationError, RouteSwitchError
from rs_gateway.domain.ports import ChatProvider, PromptRegistry, ScoreReader, TraceEraser, TraceReader, TraceStore
from rs_gateway.domain.pricing import PriceBook
from rs_gateway.domain.rates import TokenBucket
from rs_gateway.domain.redaction import Redactor
from rs_gateway.domain.routing import RouterRules
from rs_gateway.domain.stats import StatsReader, TemplateFigures
from rs_gateway.domain.traces import Trace
from rs_gateway.setting_sections import ProviderSettings
from rs_gateway.settings import COUNTS_UNASKED, DIRECT_BASE_URLS, OWN_PROTOCOL, Settings, StoreName, provider_key
from rs_gateway.stderr_lines import write_lines
from rs_gateway.store_urls import is_postgres

if TYPE_CHECKING:
    from rs_gateway.adapters.postgres_database import PostgresPlace
    from rs_gateway.adapters.postgres_traces import PostgresTraceReader


def build_provider(name: str, provider: ProviderSettings, settings: Settings) -> ChatProvider:
    """The adapter that speaks to one provider. Opens no connection and imports nothing heavy yet."""
    api_key = provider_key(name, provider, os.environ)
    base_url = provider.base_url or DIRECT_BASE_URLS.get(name)
    if base_url is not None:
        try:
            parse_address(base_url)
        except ValueError as error:
            raise ConfigurationError(f"model_providers.{name}.base_url: {error}") from None
    if kind_of(name, provider) == "litellm":
        return LiteLLMChat(
            name,
            base_url=provider.base_url,
            api_key=api_key,
            connect_timeout_s=settings.api.connect_timeout_seconds,
            first_byte_timeout_s=settings.api.first_byte_timeout_seconds,
            idle_timeout_s=settings.api.idle_timeout_seconds,
        )
    if base_url is None:
        raise ConfigurationError(f"model_providers.{name} is openai_compatible and needs a base_url.")
    return OpenAIHttp(
        name,
        base_url=base_url,
        api_key=api_key,
        connect_timeout_s=settings.api.connect_timeout_seconds,
        first_byte_timeout_s=settings.api.first_byte_timeout_seconds,
        idle_timeout_s=settings.api.idle_timeout_seconds,
        asks_for_usage=name not in COUNTS_UNASKED,
    )


def kind_of(name: str, provider: ProviderSettings) -> Literal["openai_compatible", "litellm"]:
    """How a provider is spoken to: as configured, else by what its name is known for, else by whether it has a URL."""
    if provider.kind is not None:
        return provider.kind
    if name in OWN_PROTOCOL:
        return "litellm"
    return "openai_compatible" if provider.base_url is not None or name in DIRECT_BASE_URLS else "litellm"


def build_providers(settings: Settings) -> dict[str, ChatProvider]:
    """Every provider of the configuration, by name."""
    return {name: build_provider(name, provider, settings) for name, provider in settings.model_providers.items()}


def combinations_of(settings: Settings) -> tuple[Combination, ...]:
    """What the configuration declares; a provider's `options` lie under the combination's own parameters."""
    with_primary = {c.template_id for c in settings.gateway.combinations if c.is_primary and c.enabled}
    return tuple(
        Combination(
            combination_id=c.id,
            template_id=c.template_id,
            model=c.model,
            provider=c.provider,
            name=c.name,
            weight=c.weight if c.weight is not None else float(c.is_primary or c.template_id not in with_primary),
            fallbacks=c.fallbacks,
            parameters={**settings.model_providers[c.provider].options, **c.parameters},
            enabled=c.enabled,
            metadata=c.metadata,
        )
        for c in settings.gateway.combinations
    )


def rate_limits_of(settings: Settings) -> dict[str, TokenBucket]:
    """Provider -> its `rate_limit`, spread evenly over the minute; a tenth of it may come at once."""
    return {
        name: TokenBucket(provider.rate_limit / 60, max(1.0, provider.rate_limit / 10))
        for name, provider in settings.model_providers.items()
        if provider.rate_limit is not None
    }


def router_rules_of(settings: Settings) -> RouterRules:
    """How every pool is routed."""
    return RouterRules(settings.gateway.strategy, settings.gateway.fallback_threshold)


def passthrough_of(settings: Settings) -> Mapping[str, Combination]:
    """Model name -> how it is reached without a template. The first provider that lists a model has it."""
    reached: dict[str, Combination] = {}
    if settings.gateway.passthrough:
        for name, provider in settings.model_providers.items():
            for model in provider.models:
                reached.setdefault(
                    model, Combination(f"{name}/{model}", None, model, name, parameters=dict(provider.options))
                )
    return reached


def open_trace_store(settings: Settings) -> TraceStore:
    """The store that the gateway writes to. Raises StoreError, SchemaTooNewError, ConfigurationError."""
    kept = settings.privacy.retention
    retention = Retention(
        payload_days=kept.payload_days,
        trace_days=kept.trace_days,
        feedback_days=kept.feedback_days,
        store_bytes=None if kept.store_gb is None else kept.store_gb * 1e9,
    )
    limits = WriterLimits(flush_interval_s=settings.stores.flush_interval_seconds)
    prepare = redaction_of(settings)
    if is_postgres(settings.traces_url):
        if retention.store_bytes is not None:
            raise ConfigurationError(
                "privacy.retention.store_gb is the size of a SQLite file, and a table in Postgres does not shrink when "
                "rows are deleted: keep stores.traces small there by payload_days and trace_days."
            )
        place = _postgres(settings, "traces")
        from rs_gateway.adapters.postgres_traces import PostgresTraceStore

        return PostgresTraceStore(place, limits=limits, retention=retention, prepare=prepare)
    return SqliteTraceStore(
        settings.path(sqlite_path(settings.traces_url)),
        limits=limits,
        retention=retention,
        prepare=prepare,
    )


def open_stats_reader(settings: Settings) -> StatsReader:
    """Live figures out of the same store."""
    if is_postgres(settings.traces_url):
        place = _postgres(settings, "traces")
        from rs_gateway.adapters.postgres_stats import PostgresStatsReader

        return PostgresStatsReader(place)
    return SqliteStatsReader(settings.path(sqlite_path(settings.traces_url)))


def open_template_figures(settings: Settings) -> TemplateFigures:
    """One template's live figures in the same store, to be taken along."""
    if is_postgres(settings.traces_url):
        place = _postgres(settings, "traces")
        from rs_gateway.adapters.postgres_figures import PostgresFigures

        return PostgresFigures(place)
    return SqliteFigures(settings.path(sqlite_path(settings.traces_url)))


def open_score_reader(settings: Settings) -> ScoreReader:
    """Scores out of the same store, for the router."""
    return _trace_reader(settings)


def open_access_store(settings: Settings) -> AccessStore:
    """Client keys and their accounts. Raises StoreError, SchemaTooNewError."""
    if is_postgres(settings.access_url):
        place = _postgres(settings, "access")
        from rs_gateway.adapters.postgres_access import PostgresAccessStore

        return PostgresAccessStore(place)
    return SqliteAccessStore(settings.path(sqlite_path(settings.access_url)))


def access_store_exists(settings: Settings) -> bool:
    """Whether there is an access store; looks without making one. Raises as `open_access_store` does."""
    if is_postgres(settings.access_url):
        place = _postgres(settings, "access")
        from rs_gateway.adapters.postgres_access import has_access_store

        return has_access_store(place)
    return settings.path(sqlite_path(settings.access_url)).exists()


def needs_client_key(settings: Settings) -> bool:
    """Whether clients need a key: there has been one, or the store cannot say. Makes no store."""
    try:
        if not access_store_exists(settings):
            return False
        with closing(open_access_store(settings)) as store:
            return len(store.records(now_s=time.time())) > 0
    except RouteSwitchError:
        return True  # who sends a key to a gateway that asks for none is let in all the same


def open_prices(settings: Settings) -> PriceBook:
    """The shipped price table under the configuration's own prices."""
    return load_prices({name: provider.prices for name, provider in settings.model_providers.items()})


def open_trace_reader(settings: Settings) -> TraceReader:
    """The same store, read-only."""
    return _trace_reader(settings)


def _trace_reader(settings: Settings) -> "SqliteTraceReader | PostgresTraceReader":
    if is_postgres(settings.traces_url):
        place = _postgres(settings, "traces")
        from rs_gateway.adapters.postgres_traces import PostgresTraceReader

        return PostgresTraceReader(place)
    return SqliteTraceReader(settings.path(sqlite_path(settings.traces_url)))


def open_trace_eraser(settings: Settings) -> TraceEraser:
    """The same store, to take traces out of it."""
    if is_postgres(settings.traces_url):
        place = _postgres(settings, "traces")
        from rs_gateway.adapters.postgres_erasure import PostgresEraser

        return PostgresEraser(place)
    return SqliteEraser(settings.path(sqlite_path(settings.traces_url)))


def _postgres(settings: Settings, store: StoreName) -> "PostgresPlace":
    """Where a store's database is. Raises ConfigurationError: its driver is not installed."""
    try:
        from rs_gateway.adapters.postgres_database import PostgresPlace
    except ImportError as error:
        raise ConfigurationError(
            f"stores.{store} is on Postgres, and its driver cannot be loaded ({error}): "
            "install it with `pip install 'route-switch[postgres]'`."
        ) from None
    return PostgresPlace(settings.url_of(store), settings.password_of(store))


def redaction_of(settings: Settings) -> Prepare | None:
    """What runs over records before they are stored; None changes nothing. Raises ConfigurationError."""
    redactor = redactor_of(settings)
    if redactor is None:
        return None
    from rs_gateway.adapters.redaction_hooks import prepare_for

    return prepare_for(redactor)


def redactor_of(settings: Settings) -> Redactor | None:
    """The rules that the configuration names; None when it names none. Raises ConfigurationError."""
    if not settings.privacy.redact and settings.privacy.hook is None:
        return None
    from rs_gateway.adapters.redaction_hooks import redactor_for

    return redactor_for(settings.privacy.redact, hook=settings.privacy.hook)


class TraceObserver(Protocol):
    """Told of every finished request. Quick, and raises nothing."""

    def __call__(self, trace: Trace) -> None:
        """Take in one trace."""
        ...

    def close(self) -> None:
        """Pass on what is left; blocks for seconds at most."""
        ...


def open_observers(settings: Settings) -> tuple[TraceObserver, ...]:
    """Request log and telemetry, as far as they are configured. Raises ConfigurationError."""
    section, observers = settings.telemetry, list[TraceObserver]()
    if section.request_log:
        observers.append(RequestLog(write_lines))
    if section.otlp_endpoint is not None:
        from rs_gateway.adapters.telemetry import Telemetry

        headers = {name: value.get_secret_value() for name, value in section.otlp_headers.items()}
        observers.append(
            Telemetry(
                section.otlp_endpoint,
                headers=headers,
                service_name=section.service_name,
                sample_ratio=section.sample_ratio,
            )
        )
    return tuple(observers)


def open_registry(settings: Settings) -> PromptRegistry:
    """The prompt registry."""
    if is_postgres(settings.prompts_url):
        place = _postgres(settings, "prompts")
        from rs_gateway.adapters.postgres_prompts import PostgresPrompts

        return PostgresPrompts(place)
    scheme, _, place = settings.prompts_url.partition(":")
    if scheme != "file" or not place:
        raise ConfigurationError(
            f"stores.prompts {settings.prompts_url!r} is not understood: write file:data/prompts, "
            "or postgresql://USER:${POSTGRES_PASSWORD}@HOST/DATABASE."
        )
    return PromptFiles(settings.path(place.removeprefix("//") if place.startswith("///") else place))

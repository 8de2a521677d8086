"""The sections of route-switch.yaml that the gateway reads: what each key is, and what it may be.

`make docs` makes a reference of them: what stands beneath a key is its meaning, and `examples` are shown as they are.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from rs_gateway.domain.routing import STRATEGIES
from rs_gateway.domain.traces import StoreMode
from rs_gateway.domain.wording import did_you_mean
from rs_gateway.pipeline_sections import OptimizationSettings
from rs_gateway.section import Section


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        there_are = ", ".join(sorted(STRATEGIES))
        raise ValueError(f"{name!r} is no strategy; there are: {there_are}.{did_you_mean(name, STRATEGIES)}")
    return name


class PriceSettings(Section):
    """What a model costs, in US dollars for a million tokens. 0 is a price; a model without an entry has none."""

    input_usd_per_million_tokens: float = Field(ge=0, allow_inf_nan=False, examples=[0.15])
    """Of what is sent."""
    output_usd_per_million_tokens: float = Field(ge=0, allow_inf_nan=False, examples=[0.6])
    """Of what is answered."""
    cached_input_usd_per_million_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False, examples=[0.075])
    """Of input that the provider had in its cache; by default as input."""
    cache_write_usd_per_million_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False, examples=[0.15])
    """Of input that it put into its cache; by default as input."""
    reasoning_usd_per_million_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False, examples=[0.6])
    """Of output that is thought and not shown; by default as output."""


class ProviderSettings(Section):
    """One entry of `model_providers`."""

    kind: Literal["openai_compatible", "litellm"] | None = Field(default=None, examples=["openai_compatible"])
    """How it is spoken to; by default `openai_compatible` with a `base_url` or a known name, `litellm` otherwise."""
    api_key: SecretStr | None = Field(default=None, examples=["${OPENAI_API_KEY}"])
    """A reference to a variable, never the key itself. Left out: `ROUTE_SWITCH_<NAME>_API_KEY`, then `<NAME>_API_KEY`
    (google: `GEMINI_API_KEY`, then `GOOGLE_API_KEY`)."""
    base_url: str | None = Field(default=None, examples=["https://api.openai.com/v1"])
    """Where it is, up to and including `/v1`; known names need none."""
    models: tuple[str, ...] = Field(default=(), examples=[["gpt-4o-mini"]])
    """Models that clients may ask for by name without a template (pass-through); the first provider that lists one has
    it."""
    options: dict[str, Any] = Field(default_factory=dict, examples=[{"temperature": 0}])
    """Default request parameters, under the combination's and the request's own."""
    rate_limit: float | None = Field(default=None, gt=0, allow_inf_nan=False, examples=[600])
    """Requests a minute that the provider allows us, counted by each worker. Over it: a wait of at most a second, the
    next combination, then 429."""
    endpoints: tuple[Literal["chat", "embeddings", "responses", "messages"], ...] | None = Field(
        default=None, examples=[["chat", "embeddings"]]
    )
    """What it speaks itself, beside what litellm translates; by default its name says."""
    prices: dict[str, PriceSettings] = Field(default_factory=dict)
    """Model name -> its price, over the shipped table."""


class CombinationSettings(Section):
    """One entry of `gateway.combinations`."""

    id: str = Field(pattern=r"^[!-~]{1,200}$", examples=["orders-mini"])
    """Its name in traces, figures and fallbacks; used once. Printable ASCII without spaces."""
    name: str = Field(default="", examples=["Orders, small model"])
    """For people."""
    template_id: str = Field(examples=["orders"])
    """The template that it runs."""
    model: str = Field(min_length=1, examples=["gpt-4o-mini"])
    """The model's name at the provider."""
    provider: str = Field(examples=["openai"])
    """A name of `model_providers`."""
    weight: float | None = Field(default=None, ge=0, allow_inf_nan=False, examples=[3])
    """Share of the draw; by default 1, or 0 beside a combination of the template that is marked primary. 0 keeps it as
    a fallback."""
    is_primary: bool = False
    """The template's others have weight 0 unless they say otherwise."""
    fallbacks: tuple[str, ...] = Field(default=(), examples=[["orders-large"]])
    """Combinations of the same template that are asked when it fails, in order; by default all of them."""
    enabled: bool = True
    """`false`: it is asked by nobody, as if it were not there."""
    parameters: dict[str, Any] = Field(default_factory=dict, examples=[{"max_tokens": 50}])
    """Request parameters, under the request's own."""
    metadata: dict[str, Any] = Field(default_factory=dict, examples=[{"owner": "shop team"}])
    """The owner's own notes; shown on `/status`, never sent anywhere."""


class GatewaySettings(Section):
    """Section `gateway`: where it listens and who answers."""

    addr: str = "127.0.0.1:8080"
    """host:port; only this machine's addresses until there is a client key."""
    strategy: Annotated[str, AfterValidator(_known_strategy)] = Field(
        default="weighted_round_robin", json_schema_extra={"enum": [*STRATEGIES]}
    )
    """How one of a template's combinations is chosen; `weighted` is `weighted_round_robin`."""
    refresh_seconds: PositiveFloat = 2.0
    """How often prompt registry and configuration are looked at for changes."""
    fallback_threshold: float | None = Field(default=None, gt=0, lt=1, examples=[0.8])
    """A combination whose recent success rate is proven to be below this is asked last until it recovers."""
    max_body_bytes: PositiveInt = 20 * 1024 * 1024
    """The largest request body; a larger one is refused with 413."""
    passthrough: bool = True
    """Whether models listed by a provider can be asked for without a template."""
    combinations: tuple[CombinationSettings, ...] = ()
    """Which model runs which template, and for what share of its traffic."""
    optimization: OptimizationSettings = OptimizationSettings()

    @property
    def host_and_port(self) -> tuple[str, int]:
        """`addr`, split. Checked when the settings are read."""
        host, _, port = self.addr.rpartition(":")
        return host.strip("[]") or "127.0.0.1", int(port)

    @property
    def url(self) -> str:
        """Where programs on this machine reach the gateway, whichever of its addresses it listens at."""
        host, port = self.host_and_port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # what is meant is all of them
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @model_validator(mode="after")
    def _check(self) -> "GatewaySettings":
        if not re.fullmatch(r"[^:]*:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", self.addr) or self.host_and_port[1] > 65535:
            raise ValueError(f"addr {self.addr!r} is not host:port, such as 127.0.0.1:8080")
        by_id: dict[str, CombinationSettings] = {}
        for combination in self.combinations:
            if combination.id in by_id:
                raise ValueError(f"combination id {combination.id!r} is used twice")
            by_id[combination.id] = combination
        for combination in self.combinations:
            for fallback in combination.fallbacks:
                if fallback not in by_id:
                    raise ValueError(f"combination {combination.id!r} falls back to {fallback!r}, which does not exist")
                if by_id[fallback].template_id != combination.template_id:
                    raise ValueError(
                        f"combination {combination.id!r} falls back to {fallback!r}, which belongs to another template"
                    )
        for template_id in self.optimization.templates:
            if template_id not in {combination.template_id for combination in self.combinations}:
                raise ValueError(f"optimization.templates names {template_id!r}, which no combination runs")
        return self


class ApiSettings(Section):
    """Section `api`: how providers are called. All in seconds."""

    timeout_seconds: PositiveFloat = 120.0
    """Budget of one request, retries and fallbacks included; the time that a client takes to read its stream is not
    counted."""
    connect_timeout_seconds: PositiveFloat = 5.0
    """Until a connection to the provider stands."""
    first_byte_timeout_seconds: PositiveFloat = 60.0
    """Until the first event of a stream; until a whole answer, as long as there is somebody else to ask."""
    idle_timeout_seconds: PositiveFloat = 30.0
    """Between two pieces of a stream."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Further tries of the same combination before the next one is asked."""
    client_stall_seconds: PositiveFloat = 30.0
    """How long a client may read nothing of its stream before it counts as gone."""


_DATABASE = "postgresql://route_switch:${POSTGRES_PASSWORD}@db.example/route_switch"


class StoreSettings(Section):
    """Section `stores`. Paths are relative to the configuration file; by default all lie in `data_dir`.

    Each may be `postgresql://USER:${VARIABLE}@HOST/DATABASE` instead; a URL may hold a password, so it is a secret.
    """

    traces: SecretStr | None = Field(default=None, examples=[_DATABASE])
    """Traces and live figures; by default `sqlite:///DATA_DIR/traces.db`, with four slashes for an absolute path."""
    prompts: SecretStr | None = Field(default=None, examples=[_DATABASE])
    """The prompt registry; by default `file:DATA_DIR/prompts`, `file:///...` for an absolute path."""
    access: SecretStr | None = Field(default=None, examples=[_DATABASE])
    """Client keys and their accounts; by default `sqlite:///DATA_DIR/access.db`."""
    lake: str | None = Field(default=None, pattern=r"^s3://[^/]+(/.*)?$", examples=["s3://traces/route-switch"])
    """Where the pipelines keep what they ingested, such as s3://bucket/prefix; by default the folder DATA_DIR/lake."""
    answers: SecretStr | None = Field(default=None, examples=[_DATABASE])
    """What models answered the pipelines, and what was paid, for pipelines on several machines:
    `postgresql://USER:${VARIABLE}@HOST/DATABASE`; by default `DATA_DIR/cache/answers.db`."""
    trials: SecretStr | None = Field(
        default=None, examples=["postgresql+psycopg2://optuna:${POSTGRES_PASSWORD}@db.example/optuna"]
    )
    """Optuna's trials, in a database of their own, such as `postgresql+psycopg2://USER:PASSWORD@HOST/optuna`, for
    several processes on one study; by default a journal file beside each study."""
    durability: Literal["batched", "sync"] = "batched"
    """`sync`: a plain answer waits until its trace is committed; if that fails it goes out all the same."""
    flush_interval_seconds: PositiveFloat = 0.05
    """How long a trace waits for others to share its commit."""


class AccessSettings(Section):
    """Section `access`: client keys. Made with `route-switch keys create`; the first one switches them on."""

    sync_interval_seconds: PositiveFloat = 0.25
    """How soon a new or revoked key counts, and how far apart the counts of several workers may be."""


class RetentionSettings(Section):
    """How long each part is kept, and how large it may get, in days and in GB of 10^9 bytes; by default for ever."""

    trace_days: PositiveFloat | None = Field(default=None, examples=[90])
    """Of traces, their payloads included."""
    payload_days: PositiveFloat | None = Field(default=None, examples=[30])
    """Of what was said: messages, variables and answers."""
    feedback_days: PositiveFloat | None = Field(default=None, examples=[365])
    """Of feedback, from when it was given."""
    store_gb: PositiveFloat | None = Field(default=None, examples=[20])
    """Of the trace store: over it, the oldest payloads go, and traces once no payload is left."""
    lake_days: PositiveFloat | None = Field(default=None, examples=[365])
    """Of the lake: whole UTC days go, feedback by the day on which it was given."""
    lake_gb: PositiveFloat | None = Field(default=None, examples=[50])
    """Of the lake: over it, the oldest days go; today's stays."""
    cache_days: PositiveFloat | None = Field(default=None, examples=[90])
    """Of cached model answers, from when they were paid for."""
    cache_gb: PositiveFloat | None = Field(default=None, examples=[5])
    """Of cached model answers: over it, the oldest go."""


class PrivacySettings(Section):
    """Section `privacy`: what is kept of a request, and in which words."""

    store: StoreMode = StoreMode.FULL
    """How much is kept where neither template, key nor request asks for less."""
    redact: tuple[Literal["emails", "card_numbers", "api_keys"], ...] = Field(
        default=(), examples=[["emails", "card_numbers"]]
    )
    """Built-in rules, applied before a payload or a feedback value is stored."""
    hook: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$", examples=["our_privacy:redact"])
    """`module:function`, text -> text, applied after the rules."""
    retention: RetentionSettings = RetentionSettings()


class TelemetrySettings(Section):
    """Section `telemetry`: what can be watched."""

    request_log: bool = True
    """One JSON line a request on stderr, without prompt text."""
    otlp_endpoint: str | None = Field(default=None, examples=["http://127.0.0.1:4318"])
    """Base URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318; without one no spans are sent."""
    otlp_headers: dict[str, SecretStr] = Field(default_factory=dict, examples=[{"x-api-key": "${OTLP_KEY}"}])
    """Sent with the spans, such as the collector's key."""
    service_name: str = "route-switch"
    """What the gateway is called in spans."""
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that become spans; a client that sends `traceparent` has decided for itself."""

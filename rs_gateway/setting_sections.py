"""The sections of route-switch.yaml: what each key is, and what it may be."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.routing import STRATEGIES
from rs_gateway.domain.traces import StoreMode
from rs_gateway.domain.wording import did_you_mean


class Section(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        there_are = ", ".join(sorted(STRATEGIES))
        raise ValueError(f"{name!r} is no strategy; there are: {there_are}.{did_you_mean(name, STRATEGIES)}")
    return name


class PriceSettings(Section):
    """What a model costs, in US dollars for a million tokens. 0 is a price; a model without an entry has none."""

    input_usd_per_million_tokens: float = Field(ge=0, allow_inf_nan=False)
    output_usd_per_million_tokens: float = Field(ge=0, allow_inf_nan=False)
    cached_input_usd_per_million_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cache_write_usd_per_million_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    reasoning_usd_per_million_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class ProviderSettings(Section):
    """One entry of `model_providers`."""

    kind: Literal["openai_compatible", "litellm"] | None = None
    """How it is spoken to; by default `openai_compatible` with a `base_url` or a known name, `litellm` otherwise."""
    api_key: SecretStr | None = None
    base_url: str | None = None
    models: tuple[str, ...] = ()
    """Models that clients may ask for by name without a template (pass-through)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Default request parameters, under the combination's and the request's own."""
    rate_limit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Requests a minute that the provider allows us. Over it: a short wait, the next combination, then 429."""
    endpoints: tuple[Literal["chat", "embeddings", "responses", "messages"], ...] | None = None
    """What it speaks itself, beside what litellm translates; None goes by its name (`endpoint_wiring.spoken_by`)."""
    prices: dict[str, PriceSettings] = Field(default_factory=dict)
    """Model name -> its price, over the shipped table."""


class CombinationSettings(Section):
    """One entry of `gateway.combinations`."""

    id: str = Field(pattern=r"^[!-~]{1,200}$")
    name: str = ""
    template_id: str
    model: str = Field(min_length=1)
    provider: str
    weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Share of the draw; by default 1, or 0 beside a combination of the template that is marked primary."""
    is_primary: bool = False
    fallbacks: tuple[str, ...] = ()
    enabled: bool = True
    parameters: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The owner's own notes; shown on `/status`, never sent anywhere."""


class TemplateOptimization(Section):
    """One entry of `gateway.optimization.templates`: what goes differently for that template. None is as above it."""

    enabled: Literal[False] | None = None
    """`false` leaves the template alone, whatever sensors and schedules are on."""
    interval_seconds: PositiveFloat | None = None
    min_new_examples: PositiveInt | None = None
    drift_window: int | None = Field(default=None, ge=20)
    drift_min_drop: float | None = Field(default=None, gt=0, lt=1)


class OptimizationSettings(Section):
    """Section `gateway.optimization`: when the pipelines start by themselves. The gateway itself reads none of it."""

    enabled: bool = False
    """Whether Dagster's sensors and schedules are on until somebody switches them in its UI."""
    interval_seconds: PositiveFloat = 86_400.0
    """The schedule: how long a target (template x model) waits for its next run, if there is anything new by then."""
    min_new_examples: PositiveInt = 50
    """New or corrected labelled examples since the last study that are worth another one."""
    drift_window: int = Field(default=100, ge=20)
    """Live scores that are compared with those before them."""
    drift_min_drop: float = Field(default=0.05, gt=0, lt=1)
    """A fall of the mean score that is worth a study, where it is more than chance."""
    templates: dict[str, TemplateOptimization] = Field(default_factory=dict)

    def leaves_alone(self, template_id: str) -> bool:
        """Whether nothing may start an optimisation of the template by itself."""
        return template_id in self.templates and self.templates[template_id].enabled is False

    def of(self, template_id: str) -> "OptimizationSettings":
        """What holds for one template."""
        own = self.templates.get(template_id)
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True, exclude={"enabled"}))


class GatewaySettings(Section):
    """Section `gateway`."""

    addr: str = "127.0.0.1:8080"
    strategy: Annotated[str, AfterValidator(_known_strategy)] = "weighted_round_robin"
    refresh_seconds: PositiveFloat = 2.0
    fallback_threshold: float | None = Field(default=None, gt=0, lt=1)
    """A combination whose recent success rate is proven to be below this is asked last until it recovers."""
    max_body_bytes: PositiveInt = 20 * 1024 * 1024
    passthrough: bool = True
    """Whether models listed by a provider can be asked for without a template."""
    combinations: tuple[CombinationSettings, ...] = ()
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
    """Budget of one request, retries and fallbacks included."""
    connect_timeout_seconds: PositiveFloat = 5.0
    first_byte_timeout_seconds: PositiveFloat = 60.0
    """Until the first event of a stream; until a whole answer, as long as there is somebody else to ask."""
    idle_timeout_seconds: PositiveFloat = 30.0
    """Between two pieces of a stream."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Further tries of the same combination before the next one is asked."""
    client_stall_seconds: PositiveFloat = 30.0
    """How long a client may read nothing of its stream before it counts as gone."""


class StoreSettings(Section):
    """Section `stores`. Paths are relative to the configuration file; by default all lie in `data_dir`.

    Each may be `postgresql://USER:${VARIABLE}@HOST/DATABASE` instead; a URL may hold a password, so it is a secret.
    """

    traces: SecretStr | None = None
    """By default `sqlite:///DATA_DIR/traces.db`."""
    prompts: SecretStr | None = None
    """By default `file:DATA_DIR/prompts`."""
    access: SecretStr | None = None
    """Client keys and their accounts; by default `sqlite:///DATA_DIR/access.db`."""
    lake: str | None = Field(default=None, pattern=r"^s3://[^/]+(/.*)?$")
    """Where the pipelines keep what they ingested, such as s3://bucket/prefix; by default the folder DATA_DIR/lake."""
    answers: SecretStr | None = None
    """What models answered the pipelines, and what was paid, for pipelines on several machines:
    `postgresql://USER:${VARIABLE}@HOST/DATABASE`; by default `DATA_DIR/cache/answers.db`."""
    trials: SecretStr | None = None
    """Optuna's trials, in a database of their own, such as `postgresql+psycopg2://USER:PASSWORD@HOST/optuna`, for
    several processes on one study; by default a journal file beside each study."""
    durability: Literal["batched", "sync"] = "batched"
    flush_interval_seconds: PositiveFloat = 0.05


class PipelineSettings(Section):
    """Section `pipelines`: where the steps of a run are carried out."""

    executor: Literal["in_process", "multiprocess", "celery"] = "in_process"
    """In the run's own process, in a process for each step, or by Celery's workers on any machine."""
    broker: SecretStr | None = None
    """Where Celery's workers are handed steps, and hand back results, such as redis://127.0.0.1:6379/0."""
    lost_after_seconds: PositiveFloat = 30.0
    """How long a worker may not know of a step that it began before another one is given it."""

    @model_validator(mode="after")
    def _check(self) -> "PipelineSettings":
        if self.executor == "celery" and self.broker is None:
            raise ValueError("executor celery needs a broker, such as redis://127.0.0.1:6379/0")
        return self


class AccessSettings(Section):
    """Section `access`: client keys. Made with `route-switch keys create`; the first one switches them on."""

    sync_interval_seconds: PositiveFloat = 0.25
    """How soon a new or revoked key counts, and how far apart the counts of several workers may be."""


class RetentionSettings(Section):
    """How long each part is kept, and how large it may get, in days and in GB of 10^9 bytes; None is for ever."""

    trace_days: PositiveFloat | None = None
    payload_days: PositiveFloat | None = None
    feedback_days: PositiveFloat | None = None
    store_gb: PositiveFloat | None = None
    """Of the trace store: over it, the oldest payloads go, and traces once no payload is left."""
    lake_days: PositiveFloat | None = None
    """Of the lake: whole UTC days go, feedback by the day on which it was given."""
    lake_gb: PositiveFloat | None = None
    """Of the lake: over it, the oldest days go; today's stays."""
    cache_days: PositiveFloat | None = None
    """Of cached model answers, from when they were paid for."""
    cache_gb: PositiveFloat | None = None
    """Of cached model answers: over it, the oldest go."""


class PrivacySettings(Section):
    """Section `privacy`: what is kept of a request, and in which words."""

    store: StoreMode = StoreMode.FULL
    """How much is kept where neither template, key nor request asks for less."""
    redact: tuple[Literal["emails", "card_numbers", "api_keys"], ...] = ()
    """Built-in rules, applied before a payload or a feedback value is stored."""
    hook: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    """`module:function`, text -> text, applied after the rules."""
    retention: RetentionSettings = RetentionSettings()


class TelemetrySettings(Section):
    """Section `telemetry`."""

    request_log: bool = True
    """One JSON line a request on stderr, without prompt text."""
    otlp_endpoint: str | None = None
    """Base URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318; None sends no spans."""
    otlp_headers: dict[str, SecretStr] = Field(default_factory=dict)
    service_name: str = "route-switch"
    sample_ratio: float = Field(default=1.0, ge=0, le=1)


class MiproSettings(Section):
    """Section `mipro_v2`: how prompts are searched. Numbers that are left out come from `mode`."""

    mode: Literal["light", "medium", "heavy"] = "light"
    search: Literal["racing", "tpe"] = "racing"
    """`racing` looks at whoever may beat the leader, a few rows at a time; `tpe` is MIPROv2's own way."""
    look_rows: PositiveInt | None = None
    """Rows of one look of a race."""
    looks_at_once: PositiveInt = 1
    """Candidates that a race looks at at the same time; more than one for workers that join (`optimize --join`)."""
    num_candidates: PositiveInt | None = None
    num_instruction_candidates: PositiveInt | None = None
    num_revisions: int | None = Field(default=None, ge=0)
    """Instructions that are written in the middle of the search, from the leader's failures; 0 for none."""
    max_bootstrapped_demos: int | None = Field(default=None, ge=0)
    max_labeled_demos: int | None = Field(default=None, ge=0)
    wide_demos: int | None = Field(default=None, ge=0)
    """Demos of one larger set, or one for each of up to 12 labels; by default twice `max_labeled_demos`, 0 for none."""
    nearest_demos: bool = False
    """Whether a pool of demos is tried too, of which each request is shown those most like it."""
    num_trials: PositiveInt | None = None
    minibatch_size: PositiveInt | None = None
    minibatch_full_eval_steps: PositiveInt | None = None
    seed: int = 0
    max_calls: PositiveInt | None = None
    """Hard limit on model calls of one optimisation, the comparison included; None is no limit."""
    max_tokens: PositiveInt | None = None
    """The same in tokens of requests and answers together; needs a `max_tokens` wherever a model is asked."""
    max_cost_usd: PositiveFloat | None = None
    """The same in US dollars; needs that too, and the prices of all models that are asked."""
    concurrency: PositiveInt = 8
    """Calls in flight at once."""
    rate_share: float = Field(default=0.5, gt=0, le=1)
    """How much of a provider's `rate_limit` an optimisation may take."""
    evaluation_strategy: str | None = None
    """Evaluator of templates that name none; over `evaluation.default_strategy`."""
    output_formats: tuple[OutputFormat, ...] = Field(default=(OutputFormat.BARE,), min_length=1)
    """Ways to have the answer written that are tried; the live version's own is always among them."""
    prompt_model: str | None = None
    """`provider/model` that proposes instructions; None is the model that is being optimised for."""

    @model_validator(mode="after")
    def _check(self) -> "MiproSettings":
        if self.looks_at_once > 1 and self.search != "racing":
            raise ValueError("looks_at_once over 1 needs `search: racing`")
        return self


class EvaluationSettings(Section):
    """Section `evaluation`: how answers are scored and when a candidate may go live."""

    default_strategy: str = "ExactMatch"
    """Evaluator of templates that name none."""
    min_gain: float = Field(default=0.0, ge=0, lt=1)
    min_test_rows: PositiveInt = 30
    max_prompt_tokens: PositiveInt | None = None
    python_modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = ()
    """Modules whose functions a template may name as its evaluator; by default none."""
    objective: Literal["quality", "cost"] = "quality"
    """`quality` wants a proven gain; `cost` a cheaper prompt that is not worse by more than `max_loss`."""
    max_loss: float = Field(default=0.02, gt=0, lt=1)


class DatasetSettings(Section):
    """Section `dataset`: imported examples."""

    base_path: Path | None = None
    """By default `DATA_DIR/datasets`."""
    max_records: PositiveInt = 2_000
    """Examples drawn for one optimisation, at most."""

"""route-switch.yaml and RS_* variables -> one frozen Settings. What is not understood is refused, never ignored."""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.routing import STRATEGIES
from rs_gateway.yaml_text import YamlTextError, parse_yaml

CONFIG_VARIABLE = "RS_CONFIG"
"""Names the configuration file where no `--config` is given; Dagster's processes are told this way."""
DEFAULT_CONFIG = Path("route-switch.yaml")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

DIRECT_BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "mistral": "https://api.mistral.ai/v1",
    "groq": "https://api.groq.com/openai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "ollama": "http://127.0.0.1:11434/v1",
}
"""Providers that speak OpenAI's protocol themselves; they need no `base_url`."""
KEYED_PROVIDERS = frozenset({*DIRECT_BASE_URLS, "anthropic", "google", "cohere"} - {"ollama"})
"""Providers that are known to refuse calls without an API key."""
_KEY_VARIABLES: Mapping[str, tuple[str, ...]] = {"google": ("GEMINI_API_KEY", "GOOGLE_API_KEY")}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        raise ValueError(f"{name!r} is no strategy; there are: {', '.join(sorted(STRATEGIES))}")
    return name


class ProviderSettings(_Section):
    """One entry of `model_providers`."""

    kind: Literal["openai_compatible", "litellm"] | None = None
    """How it is spoken to; by default `openai_compatible` with a `base_url` or a known name, `litellm` otherwise."""
    api_key: SecretStr | None = None
    base_url: str | None = None
    models: tuple[str, ...] = ()
    """Models that clients may ask for by name without a template (pass-through)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Default request parameters, under the combination's and the request's own."""


class CombinationSettings(_Section):
    """One entry of `gateway.combinations`."""

    id: str = Field(pattern=r"^[!-~]{1,200}$")
    name: str = ""
    template_id: str
    model: str = Field(min_length=1)
    provider: str
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    fallbacks: tuple[str, ...] = ()
    enabled: bool = True
    parameters: dict[str, Any] = Field(default_factory=dict)


class GatewaySettings(_Section):
    """Section `gateway`."""

    addr: str = "127.0.0.1:8080"
    strategy: Annotated[str, AfterValidator(_known_strategy)] = "weighted_round_robin"
    refresh_seconds: PositiveFloat = 2.0
    max_body_bytes: PositiveInt = 20 * 1024 * 1024
    passthrough: bool = True
    """Whether models listed by a provider can be asked for without a template."""
    combinations: tuple[CombinationSettings, ...] = ()

    @property
    def host_and_port(self) -> tuple[str, int]:
        """`addr`, split. Checked when the settings are read."""
        host, _, port = self.addr.rpartition(":")
        return host.strip("[]") or "127.0.0.1", int(port)

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
        return self


class ApiSettings(_Section):
    """Section `api`: how providers are called. All in seconds."""

    timeout_seconds: PositiveFloat = 120.0
    """Budget of one request, retries and fallbacks included."""
    connect_timeout_seconds: PositiveFloat = 5.0
    first_byte_timeout_seconds: PositiveFloat = 60.0
    """Until the first event of a stream."""
    idle_timeout_seconds: PositiveFloat = 30.0
    """Between two pieces of a stream."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Further tries of the same combination before the next one is asked."""


class StoreSettings(_Section):
    """Section `stores`. Paths are relative to the configuration file; by default all lie in `data_dir`."""

    traces: str | None = None
    """By default `sqlite:///DATA_DIR/traces.db`."""
    prompts: str | None = None
    """By default `file:DATA_DIR/prompts`."""
    durability: Literal["batched", "sync"] = "batched"
    flush_interval_seconds: PositiveFloat = 0.05


class MiproSettings(_Section):
    """Section `mipro_v2`: how prompts are searched. Numbers that are left out come from `mode`."""

    mode: Literal["light", "medium", "heavy"] = "light"
    num_candidates: PositiveInt | None = None
    num_instruction_candidates: PositiveInt | None = None
    max_bootstrapped_demos: int | None = Field(default=None, ge=0)
    max_labeled_demos: int | None = Field(default=None, ge=0)
    num_trials: PositiveInt | None = None
    minibatch_size: PositiveInt | None = None
    minibatch_full_eval_steps: PositiveInt | None = None
    seed: int = 0
    max_calls: PositiveInt | None = None
    """Hard limit on model calls of one optimisation, the comparison included; None is no limit."""
    concurrency: PositiveInt = 8
    """Calls in flight at once."""
    prompt_model: str | None = None
    """`provider/model` that proposes instructions; None is the model that is being optimised for."""


class EvaluationSettings(_Section):
    """Section `evaluation`: how answers are scored and when a gain counts."""

    default_strategy: str = "ExactMatch"
    """Evaluator of templates that name none."""
    min_gain: float = Field(default=0.0, ge=0, lt=1)
    min_test_rows: PositiveInt = 30
    max_prompt_tokens: PositiveInt | None = None


class DatasetSettings(_Section):
    """Section `dataset`: imported examples."""

    base_path: Path | None = None
    """By default `DATA_DIR/datasets`."""
    max_records: PositiveInt = 2_000
    """Examples drawn for one optimisation, at most."""


class Settings(BaseSettings):
    """Everything configurable: RS_* variables, then route-switch.yaml, then these defaults."""

    model_config = SettingsConfigDict(env_prefix="RS_", env_nested_delimiter="__", extra="forbid", frozen=True)

    config_path: Path = DEFAULT_CONFIG
    """The file that these settings were read from; not itself a key."""
    data_dir: Path = Path("data")
    """Everything that a running system makes, relative to the configuration file."""
    model_providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    gateway: GatewaySettings = GatewaySettings()
    api: ApiSettings = ApiSettings()
    stores: StoreSettings = StoreSettings()
    mipro_v2: MiproSettings = MiproSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    dataset: DatasetSettings = DatasetSettings()

    def path(self, relative: Path | str) -> Path:
        """`relative`, seen from the configuration file's directory."""
        return self.config_path.parent.absolute() / relative

    @property
    def traces_url(self) -> str:
        """Where traces are stored."""
        return self.stores.traces or f"sqlite:///{self.data_dir / 'traces.db'}"

    @property
    def prompts_url(self) -> str:
        """Where the prompt registry is."""
        return self.stores.prompts or f"file:{self.data_dir / 'prompts'}"

    @property
    def datasets_path(self) -> Path:
        """Where imported examples are."""
        return self.path(self.dataset.base_path or self.data_dir / "datasets")

    @property
    def fixed_at_start(self) -> dict[str, object]:
        """What a running process cannot take over from a changed file."""
        return {
            "gateway.addr": self.gateway.addr,
            "gateway.max_body_bytes": self.gateway.max_body_bytes,
            "stores.traces": self.traces_url,
            "stores.prompts": self.prompts_url,
            "stores.durability": self.stores.durability,
            "stores.flush_interval_seconds": self.stores.flush_interval_seconds,
        }

    @model_validator(mode="after")
    def _providers_exist(self) -> "Settings":
        for combination in self.gateway.combinations:
            if combination.provider not in self.model_providers:
                known = ", ".join(sorted(self.model_providers)) or "none"
                raise ValueError(
                    f"combination {combination.id!r} names provider {combination.provider!r}, "
                    f"which is not in model_providers ({known})"
                )
        return self


def load_settings(path: Path | None = None) -> Settings:
    """Read the configuration.

    Args:
        path: the file; None means `$RS_CONFIG`, then `route-switch.yaml` in the current directory.

    Raises:
        ConfigurationError: the file is missing or wrong; lists every problem with its place.
    """
    chosen = path or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))
    data = _read(chosen)
    _refuse_unknown_variables(os.environ)
    _refuse_literal_keys(data)

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, _interpolate(data, "", os.environ))

    try:
        return FromFile(config_path=chosen)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise ConfigurationError(f"{chosen} cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def provider_key(name: str, provider: ProviderSettings, environment: Mapping[str, str]) -> str | None:
    """The provider's API key: as configured, else ROUTE_SWITCH_<NAME>_API_KEY, else its standard variable."""
    if provider.api_key is not None:
        return _usable_key(name, provider.api_key.get_secret_value())
    upper = _variable_name(name)
    candidates = (f"ROUTE_SWITCH_{upper}_API_KEY", *_KEY_VARIABLES.get(name, (f"{upper}_API_KEY",)))
    key = next((environment[c] for c in candidates if environment.get(c)), None)
    return None if key is None else _usable_key(name, key)


def _usable_key(name: str, key: str) -> str:
    """The key as it can stand in a header; files with Windows line ends leave a carriage return behind it."""
    stripped = key.strip()
    if not stripped.isprintable():
        raise ConfigurationError(f"The API key of {name!r} holds characters that no key has: set it again.")
    return stripped


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _variable_name(provider: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", provider.upper())


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no configuration at {path}. Name one with --config, or write a {DEFAULT_CONFIG}: "
            "README.md, 'Your own keys and prompts', has one to start from."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    try:
        data = parse_yaml(text)
    except YamlTextError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path} must hold sections such as `model_providers:` and `gateway:`.")
    if "config_path" in data:
        raise ConfigurationError(f"{path}: config_path is not a key.")
    return {str(key): value for key, value in data.items()}


def _interpolate(value: Any, where: str, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, f"{where}.{key}".strip("."), environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, f"{where}.{index}", environment) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise ConfigurationError(f"{where} needs the environment variable {match[1]}, which is not set.")
        return environment[match[1]]

    return _REFERENCE.sub(substitute, value)


def _refuse_literal_keys(data: Mapping[str, Any]) -> None:
    providers = data.get("model_providers")
    for name, provider in providers.items() if isinstance(providers, dict) else ():
        key = provider.get("api_key") if isinstance(provider, dict) else None
        if key is not None and not _REFERENCE.fullmatch(str(key)):
            raise ConfigurationError(
                f"model_providers.{name}.api_key holds the key itself. Put it into the environment and write "
                f"api_key: ${{{_variable_name(str(name))}_API_KEY}} instead, or leave the line out."
            )


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = {CONFIG_VARIABLE, *_variables(Settings, "RS_")} - {"RS_CONFIG_PATH"}
    open_ended = tuple(k for k in known if k.endswith("__*"))
    for name in environment:
        upper = name.upper()
        if not upper.startswith("RS_") or upper in known or any(upper.startswith(k[:-1]) for k in open_ended):
            continue
        close = difflib.get_close_matches(upper, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise ConfigurationError(f"The environment variable {name} is none of Route-Switch's{hint} Unset it.")


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        variable = prefix + name.upper()
        yield variable
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _variables(annotation, variable + "__")
        elif any(isinstance(a, type) and issubclass(a, BaseModel) for a in get_args(annotation)):
            yield variable + "__*"


def _explain(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(item["loc"][-1]), _siblings(item["loc"]), n=1)
        return f"{place}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "; nothing here has that name.")
    message = item["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        fields = getattr(model, "model_fields", None)
        if fields is None or part not in fields:
            continue
        annotation = fields[part].annotation
        models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = models[0] if models else model
    return list(model.model_fields)

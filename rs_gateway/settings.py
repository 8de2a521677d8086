"""route-switch.yaml and RS_* variables -> one frozen Settings. What is not understood is refused, never ignored."""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.wording import closest, did_you_mean
from rs_gateway.pipeline_sections import DatasetSettings, EvaluationSettings, MiproSettings, PipelineSettings
from rs_gateway.setting_faults import faults_of
from rs_gateway.setting_sections import (
    AccessSettings,
    ApiSettings,
    GatewaySettings,
    PrivacySettings,
    ProviderSettings,
    StoreSettings,
    TelemetrySettings,
)
from rs_gateway.store_urls import escaped, is_database, password_in, without_password
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
OWN_PROTOCOL = frozenset({"anthropic", "google", "cohere"})
"""Providers that speak a protocol of their own, wherever they are: through litellm."""
COUNTS_UNASKED = frozenset({"mistral"})
"""Providers that count tokens in every stream, and refuse to be asked for it."""
KEYED_PROVIDERS = frozenset({*DIRECT_BASE_URLS, "anthropic", "google", "cohere"} - {"ollama"})
"""Providers that are known to refuse calls without an API key."""
_ELSEWHERE: Mapping[tuple[str, ...], str] = {
    ("analytics",): "live figures are kept beside the traces, and the lake serves the rest: leave the section out",
    ("evaluation", "threshold"): "set `threshold` with the evaluator of the template, in its template.yaml",
    ("evaluation", "max_retries"): "evaluators that call a model retry as `api.max_retries` says",
    ("gateway", "combinations", "*", "prompt"): (
        "prompt texts live in the registry: `route-switch template register`, and name the template in template_id"
    ),
    ("templates",): "templates live in the registry: `route-switch template register FILE`",
}
"""Keys of the original system whose meaning has moved; refused by name, with the place where it is now."""
StoreName: TypeAlias = Literal["traces", "prompts", "access"]
_KEY_VARIABLES: Mapping[str, tuple[str, ...]] = {"google": ("GEMINI_API_KEY", "GOOGLE_API_KEY")}


class Settings(BaseSettings):
    """Everything configurable: RS_* variables, then route-switch.yaml, then these defaults."""

    model_config = SettingsConfigDict(env_prefix="RS_", env_nested_delimiter="__", extra="forbid", frozen=True)

    config_path: Path = DEFAULT_CONFIG
    """The file that these settings were read from; not itself a key."""
    data_dir: Path = Path("data")
    """Everything that a running system makes, relative to the configuration file."""
    model_providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    """Whom the gateway may ask, each under a name; a known name such as `openai` needs nothing more."""
    gateway: GatewaySettings = GatewaySettings()
    api: ApiSettings = ApiSettings()
    stores: StoreSettings = StoreSettings()
    access: AccessSettings = AccessSettings()
    privacy: PrivacySettings = PrivacySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    mipro_v2: MiproSettings = MiproSettings()
    pipelines: PipelineSettings = PipelineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    dataset: DatasetSettings = DatasetSettings()

    def path(self, relative: Path | str) -> Path:
        """`relative`, seen from the configuration file's directory."""
        return self.config_path.parent.absolute() / relative

    @property
    def traces_url(self) -> str:
        """Where traces are stored, without a password."""
        return _shown(self.stores.traces) or f"sqlite:///{self.data_dir / 'traces.db'}"

    @property
    def prompts_url(self) -> str:
        """Where the prompt registry is, without a password."""
        return _shown(self.stores.prompts) or f"file:{self.data_dir / 'prompts'}"

    @property
    def access_url(self) -> str:
        """Where client keys and their accounts are, without a password."""
        return _shown(self.stores.access) or f"sqlite:///{self.data_dir / 'access.db'}"

    def url_of(self, store: StoreName) -> str:
        """Where a store is, without a password."""
        return {"traces": self.traces_url, "prompts": self.prompts_url, "access": self.access_url}[store]

    def password_of(self, store: StoreName) -> str | None:
        """The password that a store's URL came with; None: it came without one."""
        url: SecretStr | None = getattr(self.stores, store)
        return None if url is None else password_in(url.get_secret_value())

    @property
    def default_evaluator(self) -> str:
        """Scores the answers of templates that name no evaluator."""
        return self.mipro_v2.evaluation_strategy or self.evaluation.default_strategy

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
            "stores.access": self.access_url,
            "stores.durability": self.stores.durability,
            "stores.flush_interval_seconds": self.stores.flush_interval_seconds,
            "access": self.access,
            "privacy.redact": self.privacy.redact,
            "privacy.hook": self.privacy.hook,
            "privacy.retention": self.privacy.retention,
            "telemetry": self.telemetry,
        }

    @model_validator(mode="after")
    def _providers_exist(self) -> "Settings":
        for combination in self.gateway.combinations:
            if combination.provider not in self.model_providers:
                known = ", ".join(sorted(self.model_providers)) or "none"
                meant = did_you_mean(combination.provider, self.model_providers)
                raise ValueError(
                    f"combination {combination.id!r} names provider {combination.provider!r}, "
                    f"which is not in model_providers ({known}).{meant}"
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
    _refuse_moved_keys(data)
    _refuse_literal_keys(data)
    _refuse_literal_passwords(data)

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
    except SettingsError as error:
        field = str(error).split('"')[1] if '"' in str(error) else "a section"
        raise ConfigurationError(
            f"An environment variable of {field!r} (RS_{field.upper()}...) holds a list or object that is not JSON: "
            """write it as in RS_PRIVACY__REDACT='["emails"]'."""
        ) from None
    except ValidationError as error:
        lines = faults_of(error, Settings)
        raise ConfigurationError(f"{chosen} cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def provider_key(name: str, provider: ProviderSettings, environment: Mapping[str, str]) -> str | None:
    """The provider's API key: as configured, else ROUTE_SWITCH_<NAME>_API_KEY, else its standard variable."""
    if provider.api_key is not None:
        return _usable_key(name, provider.api_key.get_secret_value())
    key = next((environment[c] for c in key_variables(name) if environment.get(c)), None)
    return None if key is None else _usable_key(name, key)


def keyless_providers(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Providers that are known to refuse calls without a key, asked at their own address, and have none."""
    return [
        name
        for name, provider in settings.model_providers.items()
        if provider.base_url is None and name in KEYED_PROVIDERS and provider_key(name, provider, environment) is None
    ]


def key_variables(name: str) -> tuple[str, ...]:
    """The environment variables that a provider's API key is looked for in, in this order."""
    upper = _variable_name(name)
    return (f"ROUTE_SWITCH_{upper}_API_KEY", *_KEY_VARIABLES.get(name, (f"{upper}_API_KEY",)))


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


def _shown(url: SecretStr | None) -> str | None:
    return None if url is None else without_password(url.get_secret_value())


def _variable_name(provider: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", provider.upper())


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no configuration at {path}. Name one with --config, or write one: `route-switch init` begins it "
            "with what it finds here."
        ) from None
    except IsADirectoryError:
        raise ConfigurationError(
            f"{path} is a directory: name the configuration file in it, as in --config {path / DEFAULT_CONFIG}."
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
            raise ConfigurationError(
                f"{where} needs the environment variable {match[1]}, which is not set: `export {match[1]}=...` before "
                "you start, or correct its name."
            )
        found = environment[match[1]]
        # A password may hold anything, and is not a place; a variable that is the whole URL is written as URLs are.
        return escaped(found) if where.startswith("stores.") and is_database(value) else found

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


def _refuse_literal_passwords(data: Mapping[str, Any]) -> None:
    stores = data.get("stores")
    for name, url in stores.items() if isinstance(stores, dict) else ():
        password = password_in(str(url))
        if password is not None and not _REFERENCE.fullmatch(password):
            raise ConfigurationError(
                f"stores.{name} holds the password itself. Put it into the environment and write "
                "postgresql://USER:${POSTGRES_PASSWORD}@HOST/DATABASE instead, or leave it out: PGPASSWORD and "
                "~/.pgpass are looked at too."
            )


def _refuse_moved_keys(data: Mapping[str, Any]) -> None:
    for path, advice in _ELSEWHERE.items():
        for place in _places(data, path):
            raise ConfigurationError(f"{place} is not read here: {advice}.")


def _places(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Where in `value` the path exists; `*` stands for every item of a list."""
    if not path:
        yield ""
    elif path[0] == "*" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from (f"{index}.{rest}".strip(".") for rest in _places(item, path[1:]))
    elif isinstance(value, dict) and path[0] in value:
        yield from (f"{path[0]}.{rest}".strip(".") for rest in _places(value[path[0]], path[1:]))


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = {CONFIG_VARIABLE, *_variables(Settings, "RS_")} - {"RS_CONFIG_PATH"}
    open_ended = tuple(k for k in known if k.endswith("__*"))
    for name in environment:
        upper = name.upper()
        if not upper.startswith("RS_") or upper in known or any(upper.startswith(k[:-1]) for k in open_ended):
            continue
        meant = closest(upper, known)
        hint = f"; did you mean {meant}?" if meant else "."
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

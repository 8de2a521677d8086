"""The configuration: what is wrong is refused with its place and the fix; nothing is silently ignored."""

from pathlib import Path
from typing import Any

import pytest

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.settings import load_settings, provider_key
from tests.running import write_configuration

MINIMAL: dict[str, Any] = {
    "model_providers": {"local": {"base_url": "http://127.0.0.1:8081/v1"}},
    "gateway": {"combinations": [{"id": "c", "template_id": "t", "model": "m", "provider": "local"}]},
}


def load(tmp_path: Path, **sections: Any) -> Any:
    return load_settings(write_configuration(tmp_path, {**MINIMAL, **sections}))


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.gateway.host_and_port == ("127.0.0.1", 8080)
    assert settings.path("data") == tmp_path / "data"


@pytest.mark.parametrize(
    ("addr", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:8080", "http://[::1]:8080"),
        ("gateway.internal:8080", "http://gateway.internal:8080"),
        (":8080", "http://127.0.0.1:8080"),
    ],
)
def test_the_address_to_listen_at_gives_the_one_to_ask(tmp_path: Path, addr: str, url: str) -> None:
    assert load(tmp_path, gateway={**MINIMAL["gateway"], "addr": addr}).gateway.url == url


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"gatway": {}}, "did you mean 'gateway'"),
        ({"api": {"timeout_second": 3}}, "did you mean 'timeout_seconds'"),
        ({"api": {"timeout_seconds": -1}}, "api.timeout_seconds"),
        ({"gateway": {"strategy": "best"}}, "'best' is no strategy"),
        ({"gateway": {"addr": "8080"}}, "not host:port"),
        (
            {"gateway": {"combinations": [{"id": "c", "template_id": "t", "model": "m", "provider": "x"}]}},
            "provider 'x'",
        ),
        (
            {"gateway": {"combinations": MINIMAL["gateway"]["combinations"] * 2}},
            "'c' is used twice",
        ),
        ({"model_providers": {"openai": {"api_key": "sk-abc"}}}, "holds the key itself"),
        ({"model_providers": {"openai": {"api_key": "${NOT_SET_ANYWHERE}"}}}, "NOT_SET_ANYWHERE"),
        ({"stores": {"access": "postgresql://rs:hunter2@db/d"}}, "stores.access holds the password itself"),
        ({"stores": {"traces": "postgresql://db/d?password=hunter2"}}, r"\$\{POSTGRES_PASSWORD\}"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load(tmp_path, **sections)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--config"):
        load_settings(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "text", ["{", "- 1", "a: b: c", "\x00", "a: 2026-02-30", "a: !!bool x", "[" * 40_000, "a: 0x_"]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "route-switch.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"route-switch\.yaml"):
        load_settings(path)


def test_an_environment_variable_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RS_GATEWAY__ADDR", "127.0.0.1:9999")
    assert load(tmp_path, gateway={"addr": "127.0.0.1:1"}).gateway.addr == "127.0.0.1:9999"


def test_a_misspelt_environment_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RS_GATEWAY__ADRR", "127.0.0.1:9999")
    with pytest.raises(ConfigurationError, match="RS_GATEWAY__ADDR"):
        load(tmp_path)


def test_keys_come_from_the_environment_ours_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k1")
    settings = load(tmp_path, model_providers={**MINIMAL["model_providers"], "openai": {"api_key": "${MY_KEY}"}})
    assert provider_key("openai", settings.model_providers["openai"], {}) == "k1"
    assert "k1" not in repr(settings)
    local = settings.model_providers["local"]
    assert provider_key("local", local, {"ROUTE_SWITCH_LOCAL_API_KEY": "a", "LOCAL_API_KEY": "b"}) == "a"
    assert provider_key("google", local, {"GEMINI_API_KEY": "g"}) == "g"
    assert provider_key("local", local, {}) is None


def test_the_data_directory_moves_every_store_that_has_no_place_of_its_own(tmp_path: Path) -> None:
    settings = load(tmp_path, data_dir="elsewhere", stores={"prompts": "file:prompts"})
    assert settings.traces_url == "sqlite:///elsewhere/traces.db"
    assert settings.prompts_url == "file:prompts"
    assert settings.datasets_path == tmp_path / "elsewhere/datasets"


def test_a_key_from_a_file_with_windows_line_ends_is_usable_and_one_with_a_break_inside_is_refused(
    tmp_path: Path,
) -> None:
    local = load(tmp_path).model_providers["local"]
    assert provider_key("local", local, {"LOCAL_API_KEY": "abc\r"}) == "abc"
    with pytest.raises(ConfigurationError, match="'local'"):
        provider_key("local", local, {"LOCAL_API_KEY": "ab\nc"})


def test_the_hint_for_a_key_names_a_variable_that_exists(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\$\{MY_LLM_API_KEY\}"):
        load(tmp_path, model_providers={"my-llm": {"api_key": "sk-abc"}})


def test_a_database_password_comes_from_the_environment_as_it_is_and_shows_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "p@ss/w?rd:%41")
    monkeypatch.setenv("DATABASE_URL", "postgres://rs:p%40ss@other/d")
    monkeypatch.setenv("RS_STORES__ACCESS", "postgresql://rs:direct@db/keys")
    settings = load(tmp_path, stores={"traces": "postgresql://rs:${DB_PASSWORD}@db/d", "prompts": "${DATABASE_URL}"})
    assert (settings.traces_url, settings.password_of("traces")) == ("postgresql://rs@db/d", "p@ss/w?rd:%41")
    assert (settings.prompts_url, settings.password_of("prompts")) == ("postgres://rs@other/d", "p@ss")
    assert (settings.access_url, settings.password_of("access")) == ("postgresql://rs@db/keys", "direct")
    shown = f"{settings!r} {settings.fixed_at_start} {settings.model_dump()}"
    assert not any(word in shown for word in ("p@ss", "p%40ss", "direct"))

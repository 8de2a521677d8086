"""`route-switch keys`."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rs_gateway.access import Access
from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.cli_keys import keys_app
from rs_gateway.domain.access import KeyNotFoundError
from rs_gateway.domain.errors import InvalidRequestError, UnauthorizedError
from tests.access_fakes import bearer, spend

HEAVY = {"dagster", "torch", "duckdb", "polars", "optuna", "litellm", "sqlite3", "pydantic", "anyio", "asyncio", "yaml"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "route-switch.yaml").write_text("data_dir: data\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, columns: int = 250) -> Result:
    return CliRunner().invoke(keys_app, list(arguments), env={"COLUMNS": str(columns)})


def ok(*arguments: str) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def made(*arguments: str) -> dict[str, Any]:
    return json.loads(ok("create", *arguments, "--json").stdout)


def listed() -> list[dict[str, Any]]:
    return json.loads(ok("list", "--json").stdout)


def access_of(folder: Path) -> Access:
    return Access(SqliteAccessStore(folder / "data/access.db"))


def test_the_key_is_printed_once_alone_on_stdout_and_lets_its_holder_in(folder: Path) -> None:
    result = ok("create", "shop")
    secret = result.stdout.strip()
    assert secret.startswith("rs-")
    assert secret not in result.stderr
    assert "shown this once" in result.stderr
    assert "first one" in result.stderr
    assert "first one" not in ok("create", "other").stderr
    assert secret not in ok("list").output + ok("list", "--json").output
    access = access_of(folder)
    assert access.admit(bearer(secret)).key_id == listed()[0]["key_id"]
    asyncio.run(access.aclose())


def test_every_option_arrives(folder: Path) -> None:
    key = made(
        *("shop", "--template", "support", "-t", "orders", "--model", "gpt", "--admin", "--requests-per-minute", "60"),
        *("--tokens-per-minute", "1000", "--concurrency", "4", "--budget-usd", "2.5", "--budget-period", "month"),
        *("--allow-unpriced", "--store", "metrics", "--expires-in", "30d"),
    )
    assert key["key"].startswith(f"rs-{key['key_id']}-")
    (shown,) = listed()
    assert {name: shown[name] for name in ("templates", "models", "admin", "store", "limits", "state")} == {
        "templates": ["orders", "support"],
        "models": ["gpt"],
        "admin": True,
        "store": "metrics",
        "limits": {
            "requests_per_minute": 60,
            "tokens_per_minute": 1000,
            "concurrency": 4,
            "budget_usd": 2.5,
            "budget_period": "month",
            "allow_unpriced": True,
        },
        "state": "active",
    }
    days = _days(shown["created_at"], shown["expires_at"])
    assert days == pytest.approx(30, abs=0.001)


def _days(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 86_400


@pytest.mark.parametrize(
    ("options", "templates", "models"),
    [
        ((), None, None),
        (("-t", "support"), ["support"], []),
        (("-m", "gpt"), [], ["gpt"]),
        (("-t", "*", "-m", "gpt"), None, ["gpt"]),
        (("--no-calls", "--admin"), [], []),
    ],
)
def test_naming_one_scope_closes_the_other(
    folder: Path, options: tuple[str, ...], templates: list[str] | None, models: list[str] | None
) -> None:
    key = made("shop", *options)
    assert (key["templates"], key["models"]) == (templates, models)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("create", "x", "--requests-per-minute", "0"), "--requests-per-minute"),
        (("create", "x", "--budget-usd", "-1"), "--budget-usd"),
        (("create", "x", "--budget-usd", "nan"), "--budget-usd"),
        (("create", "x", "--budget-usd", "1", "--budget-period", "week"), "week"),
        (("create", "x", "--budget-period", "day"), "--budget-usd"),
        (("create", "x", "--expires-in", "soon"), "soon"),
        (("create", "x", "--expires-in", "0d"), "0d"),
        (("create", "x", "--store", "some"), "some"),
        (("create", "x", "--no-calls", "--model", "gpt"), "--no-calls"),
        (("update", "x", "--concurrency", "many"), "many"),
        (("update", "x", "--budget-usd", "much"), "much"),
        (("update", "x", "--store", "some"), "some"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage_that_names_it(
    folder: Path, arguments: tuple[str, ...], named: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not (folder / "data/access.db").exists()


@pytest.mark.parametrize(
    "arguments", [("create", "  "), ("create", "x", "--budget-usd", "inf"), ("create", "x", "--template", "")]
)
def test_a_key_that_cannot_be_meant_is_not_made(folder: Path, arguments: tuple[str, ...]) -> None:
    assert isinstance(run(*arguments).exception, InvalidRequestError)
    assert listed() == []


def test_an_update_changes_what_it_names_and_nothing_else(folder: Path) -> None:
    key = made("shop", "-t", "support", "--requests-per-minute", "60", "--budget-usd", "5", "--store", "none")
    changed = json.loads(
        ok(
            *("update", key["key_id"], "--requests-per-minute", "none", "--concurrency", "3", "--json"),
            *("--store", "default", "--expires-in", "2h"),
        ).stdout
    )
    assert changed["templates"] == ["support"]
    assert (changed["limits"]["requests_per_minute"], changed["limits"]["concurrency"]) == (None, 3)
    assert changed["limits"]["budget_usd"] == 5
    assert (changed["store"], changed["admin"]) == (None, False)
    again = json.loads(ok("update", key["key_id"], "--expires-in", "never", "-m", "gpt", "--admin", "--json").stdout)
    assert (again["expires_at"], again["templates"], again["models"], again["admin"]) == (None, [], ["gpt"], True)


def test_the_list_shows_usage_and_hides_what_is_revoked(folder: Path) -> None:
    assert "There are no keys" in ok("list").stderr
    key, gone = made("shop", "--budget-usd", "5", "--budget-period", "day"), made("[red]gone[/red]")
    access = access_of(folder)
    spend(access, key["key"], tokens=1234, cost_usd=0.5)
    spend(access, key["key"], tokens=1, cost_usd=None)
    asyncio.run(access.aclose())
    ok("revoke", gone["key_id"])
    table = ok("list")
    assert "0.5000 of 5 USD/day, and 1 unpriced request" in table.stdout
    assert "2 requests, 1,235 tokens" in table.stdout
    assert "gone" not in table.stdout
    assert "1 revoked or expired" in table.stderr
    assert "[red]gone[/red] (revoked)" in ok("list", "--all").stdout
    assert key["key_id"] in run("list", columns=60).stdout
    usage = listed()[0]
    assert usage["usage"]["month"] == {"requests": 2, "tokens": 1235, "cost_usd": 0.5, "unpriced_requests": 1}
    assert usage["spent_usd"] == 0.5
    assert "unpriced_requests: 1" in ok("show", key["key_id"]).stdout
    assert json.loads(ok("show", key["key_id"], "--json").stdout) == usage


def test_a_revoked_key_lets_nobody_in_and_the_last_one_says_what_that_means(folder: Path) -> None:
    key = made("shop")
    assert "No key is left" in ok("revoke", key["key_id"]).stderr
    access = access_of(folder)
    with pytest.raises(UnauthorizedError, match="revoked"):
        access.admit(bearer(key["key"]))
    asyncio.run(access.aclose())
    assert isinstance(run("update", key["key_id"], "--admin").exception, InvalidRequestError)


@pytest.mark.parametrize("command", ["show", "revoke", "update"])
def test_an_unknown_key_id_is_named(folder: Path, command: str) -> None:
    made("shop")
    error = run(command, "nobody").exception
    assert isinstance(error, KeyNotFoundError)
    assert "'nobody'" in str(error)
    assert "`route-switch keys list`" in str(error)


@pytest.mark.parametrize("command", ["show", "revoke", "update"])
def test_asking_for_a_key_where_none_was_ever_made_says_how_to_make_one_and_makes_no_store(
    folder: Path, command: str
) -> None:
    error = run(command, "nobody").exception
    assert isinstance(error, KeyNotFoundError)
    assert "'nobody'" in str(error)
    assert "`route-switch keys create NAME`" in str(error)
    assert not (folder / "data").exists()


def test_a_list_without_a_store_is_empty_and_makes_none(folder: Path) -> None:
    assert listed() == []
    assert "`route-switch keys create NAME`" in ok("list").stderr
    assert not (folder / "data").exists()


def test_help_loads_nothing_heavy() -> None:
    code = "import sys\nimport rs_gateway.cli_keys\nprint(*{m.split('.')[0] for m in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()).isdisjoint(HEAVY)

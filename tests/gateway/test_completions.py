"""What Tab completes, through the protocol that the installed completion speaks."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rs_gateway.domain.prompts import PromptText
from tests.commands import app as every_command
from tests.running import ORIGIN, register, write_configuration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    combination = {"id": "support-mini", "template_id": "support", "model": "gpt-4o-mini", "provider": "p"}
    other = {"id": "sales-big", "template_id": "sales", "model": "gpt-4o", "provider": "p"}
    configuration = {
        "model_providers": {"p": {"base_url": "http://127.0.0.1:9/v1"}},
        "gateway": {"combinations": [combination, other]},
    }
    write_configuration(tmp_path, configuration)
    registry = register(tmp_path, instruction="One.")
    register(tmp_path, "orders", instruction="One.")
    for number in range(2, 12):
        registry.add_version("support", PromptText(f"Number {number}."), model=None, origin=ORIGIN)
    (tmp_path / "data/studies/support@x/4b77aa").mkdir(parents=True)
    (tmp_path / "data/studies/support@x/4b77aa/study.json").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(line: str, shell: str = "bash") -> list[str]:
    """What is offered for the last word of `line`."""
    environment = {
        "_ROUTE_SWITCH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    result = CliRunner().invoke(every_command, [], env=environment, prog_name="route-switch")
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("template show s", ["sales", "support"]),
        ("template show ", ["orders", "sales", "support"]),
        ("stats su", ["support"]),
        ("traces tail -t o", ["orders"]),
        ("optimize su", ["support"]),
        ("package export su", ["support"]),
        ("dataset teach support --teacher s", ["sales-big", "support-mini"]),
        ("optimize support --model g", ["gpt-4o", "gpt-4o-mini"]),
        ("template publish support 1", ["1", "10", "11"]),
        ("template diff support 1 ", [str(number) for number in range(1, 12)]),
        ("study show 4", ["4b77aa"]),
        ("template show x", []),
    ],
)
def test_names_are_completed(folder: Path, line: str, offered: list[str]) -> None:
    assert completed(f"route-switch {line}") == offered


def test_studies_that_came_with_a_package_are_completed_too(folder: Path) -> None:
    brought = folder / "data/packages/support/0a/studies/support@x/5c11bb"
    brought.mkdir(parents=True)
    (brought / "study.json").touch()
    assert completed("route-switch study show ") == ["4b77aa", "5c11bb"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_told(folder: Path, shell: str) -> None:
    assert "support" in " ".join(completed("route-switch template show su", shell))


@pytest.mark.parametrize("content", [None, "gateway: [", "stores: {prompts: 'postgresql://nobody@127.0.0.1:9/x'}"])
@pytest.mark.parametrize("line", ["template show ", "template publish support ", "study show ", "optimize x --model "])
def test_where_nothing_can_be_read_nothing_is_offered_and_nothing_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "route-switch.yaml").write_text(content)
    assert completed(f"route-switch {line}") == []

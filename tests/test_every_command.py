"""What holds for every command of `route-switch`, the next one too.

Beside it: `test_command_results.py`, what each prints with `--json`, and `test_command_errors.py`, its main error.
"""

import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest

from rs_gateway.cli import app
from rs_gateway.domain.errors import ConfigurationError
from tests.commands import COMMANDS, RUNS_UNTIL_STOPPED, invoke

WITHOUT_CONFIGURATION = {"demo", "model serve", "model fetch", "package verify"}
"""They work where there is none."""
GUIDE = Path(__file__).parent.parent / "docs/guides/command-line.md"


def options(name: str) -> set[str]:
    return {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_of_this_very_command_that_its_options_allow(name: str) -> None:
    help_text = COMMANDS[name].help or ""
    example = re.search(r"Example: `([^`]+)`", help_text)
    assert example is not None, help_text
    words = shlex.split(example[1])
    words = words[words.index("route-switch") + 1 :]
    assert words[: len(name.split())] == name.split()
    used = {word.split("=")[0] for word in words if word.startswith("-")}
    assert used <= options(name) | {option for p in COMMANDS[name].params for option in p.secondary_opts}
    assert help_text.split("\n")[0].rstrip().endswith((".", ";")), "the first line is a sentence"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_says_what_it_is(name: str) -> None:
    assert [p.name for p in COMMANDS[name].params if not p.hidden and not p.help] == []


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - RUNS_UNTIL_STOPPED))
def test_a_result_can_be_had_as_json(name: str) -> None:
    assert "--json" in options(name)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_CONFIGURATION))
def test_a_configuration_can_be_named(name: str) -> None:
    assert {"--config", "-c"} <= options(name)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_wrong_usage_ends_with_2_and_says_what_was_wrong_on_stderr(name: str) -> None:
    wrong = invoke(*name.split(), "--no-such-option")
    assert wrong.exit_code == 2
    assert wrong.stdout == ""
    assert "--no-such-option" in wrong.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_CONFIGURATION - {"init"}))
def test_the_example_without_a_configuration_ends_with_words_on_stderr_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main error of all: 1 where the configuration is missing, 2 where a file of the example already is."""
    monkeypatch.chdir(tmp_path)
    example = re.search(r"Example: `([^`]+)`", COMMANDS[name].help or "")
    assert example is not None
    words = shlex.split(example[1])
    words = words[words.index("route-switch") + 1 :]
    if "--config" not in words:
        words += ["--config", "route-switch.yaml"]
    failed = invoke(*words)
    assert failed.stdout == ""
    if failed.exit_code == 2:
        assert "does not exist" in failed.stderr
    else:
        assert failed.exit_code == 1
        assert isinstance(failed.exception, ConfigurationError)
        assert "`route-switch init`" in str(failed.exception)


def test_the_version_is_told() -> None:
    told = invoke("--version")
    assert (told.exit_code, told.stdout.strip()) == (0, version("route-switch"))


def test_the_first_help_says_how_to_begin() -> None:
    shown = " ".join(invoke("--help").stdout.split())
    assert "A self-hosted, OpenAI-compatible LLM gateway" in shown
    assert "Begin with route-switch init" in shown.replace("`", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_one_meaning_have_one_short_name(name: str) -> None:
    short = {"--model": "-m", "--config": "-c", "--output": "-o", "--reason": "-r", "--template-id": "-t"}
    for parameter in COMMANDS[name].params:
        for long in short.keys() & set(parameter.opts):
            if name != "template register":  # there it is the new template's own id
                assert short[long] in parameter.opts, (name, long)


def test_the_guide_lists_every_command_and_no_other() -> None:
    listed = re.findall(r"^\| `route-switch ([a-z -]+?)(?: [A-Z\[].*?)?` \|", GUIDE.read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_commands(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    environment = {"_ROUTE_SWITCH_COMPLETE": f"complete_{shell}", "COMP_WORDS": "route-switch temp", "COMP_CWORD": "1"}
    environment["_TYPER_COMPLETE_ARGS"] = "route-switch temp"
    environment["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    result = CliRunner().invoke(app, [], env=environment, prog_name="route-switch")
    assert "template" in result.stdout

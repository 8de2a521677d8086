"""Commands of `route-switch` in this process: what they print and how they end."""

import json
from collections.abc import Iterator
from typing import Any

import typer.main
from typer.testing import CliRunner, Result

from rs_gateway.cli import app
from rs_pipelines.cli import register

register(app)


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(_commands(typer.main.get_command(app)))
"""Every command that there is, by its name."""
RUNS_UNTIL_STOPPED = {"serve", "up", "model serve"}
"""They have no result to print: what they say is for a person, their log is JSON already."""


def invoke(*arguments: str, stdin: str | None = None, columns: int = 250) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": str(columns)})


def ok(*arguments: str, stdin: str | None = None) -> Result:
    result = invoke(*arguments, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def from_json(*arguments: str, stdin: str | None = None) -> Any:
    """What the command prints with `--json`."""
    return json.loads(ok(*arguments, "--json", stdin=stdin).stdout)


def failure(*arguments: str, stdin: str | None = None) -> str:
    """The message of a command that ends with 1: raised for `run` to print, or printed by itself."""
    result = invoke(*arguments, stdin=stdin)
    assert result.exit_code == 1, (result.output, result.exception)
    return f"{result.stderr}{result.exception}"

"""Commands of `route-switch` in this process: what they print and how they end."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from rs_gateway.cli import app
from rs_pipelines.cli import register

register(app)


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

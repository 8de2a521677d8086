"""What a fresh process loads: heavy imports wait until somebody needs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("dagster", "torch", "duckdb", "polars", "optuna", "litellm", "sentence_transformers", "xllamacpp", "psycopg")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["rs_gateway.app", "rs_gateway.server", "rs_gateway.cli", "rs_gateway.wiring"])
def test_the_gateway_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


def test_help_answers_quickly_and_loads_nothing_heavy() -> None:
    def once() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "rs_gateway", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # Of the processor, not of the clock: it is all that `--help` waits for, and tests share their machine with others.
    assert min(once() for _ in range(3)) < 1.2  # 0.5 s on an idle machine
    statement = "from importlib.metadata import entry_points\nimport typer\nfrom rs_gateway.cli import app\n"
    statement += "[p.load()(app) for p in entry_points(group='route_switch.commands')]"
    assert loaded_by(statement).isdisjoint(HEAVY)


_COMMANDS = (
    "init",
    "check",
    "template list",
    "template history nowhere",
    "gateway combinations",
    "stats",
    "stats --json",
    "traces tail",
    "traces export",
    "feedback add 01KAT5S9C6T1GQ8MHK0N5V2R7X --label x",
    "keys list",
)


def test_commands_on_the_gateways_own_stores_load_nothing_of_the_pipelines(tmp_path: Path) -> None:
    statement = "import os\nfrom typer.testing import CliRunner\nfrom importlib.metadata import entry_points\n"
    statement += (
        "from rs_gateway.cli import app\n[p.load()(app) for p in entry_points(group='route_switch.commands')]\n"
    )
    statement += f"os.chdir({str(tmp_path)!r})\n"
    statement += f"[CliRunner().invoke(app, words.split()) for words in {_COMMANDS!r}]"
    assert loaded_by(statement).isdisjoint(HEAVY)
    assert (tmp_path / "route-switch.yaml").exists()


def test_the_help_of_no_command_loads_anything_heavy() -> None:
    statement = (
        "import sys, io, contextlib\nfrom typer.testing import CliRunner\n"
        "from tests.test_every_command import COMMANDS\nfrom rs_gateway.cli import app\n"
        "bad = [n for n in COMMANDS if CliRunner().invoke(app, [*n.split(), '--help']).exit_code]\n"
        "assert not bad, bad\n"
    )
    assert loaded_by(statement).isdisjoint(HEAVY)

"""The command line, from the typer application that answers it."""

import inspect
import re
from importlib.metadata import entry_points
from typing import Any

import typer
import typer.main
from typer.cli import get_docs_for_click

from rs_gateway.cli import app

_OPENING = """# Command line

Every command with its arguments and options, as `--help` has them. What holds for all of them is in
[the guide](../guides/command-line.md).

<!-- Written by `make docs` from the commands themselves; change it there. -->
"""


def command_line_page() -> str:
    """The page, in Markdown."""
    for point in entry_points(group="route_switch.commands"):
        point.load()(app)
    root: Any = typer.main.get_command(app)
    _say_the_first_line_in_full(root)
    context = typer.Context(root, info_name="route-switch")
    text = get_docs_for_click(obj=root, ctx=context, name="route-switch", title="route-switch")
    return _OPENING + "\n" + _as_sections(text).strip() + "\n"


def _say_the_first_line_in_full(command: Any) -> None:
    """A group lists what its commands are for; by itself typer breaks that off after 45 characters."""
    for child in getattr(command, "commands", {}).values():
        child.short_help = inspect.cleandoc(child.help or "").split("\n\n")[0].replace("\n", " ")
        _say_the_first_line_in_full(child)


def _as_sections(text: str) -> str:
    """Under the page's own title, a command a section; without `--help`, which every command has."""
    lines = [line for line in text.splitlines() if not line.startswith("* `--help`")]
    shorter = re.sub(r"\*\*Options\*\*:\n\n(?!\*)", "", "\n".join(lines).removeprefix("# route-switch\n"))
    return shorter.replace("Example: `", "**Example**: `").replace("<int range>", "<int>").replace("\n\n\n", "\n\n")

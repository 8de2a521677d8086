"""Where commands print what they were asked for."""

import json
import os
import sys

from rich.console import Console, ConsoleDimensions

_UNCUT_COLUMNS = 10_000


class DataConsole(Console):
    """stdout as it is when a command prints: as wide as its terminal; in a pipe or a file nothing is cut.

    Without markup and emoji: what is printed holds names and texts of other people, and "[/red]" is one of them.
    """

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False)

    @property
    def size(self) -> ConsoleDimensions:  # pyright: ignore[reportIncompatibleMethodOverride]  # nobody sets it
        """Columns and lines; `COLUMNS` in the environment goes before what is known of the terminal."""
        columns = os.environ.get("COLUMNS", "")
        if not columns.isdigit() and self.is_terminal:
            return super().size
        return ConsoleDimensions(int(columns) if columns.isdigit() else _UNCUT_COLUMNS, 25)


def printable(text: str) -> str:
    """One line without what a terminal would obey: control characters and line breaks are spelt out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def print_json(value: object) -> None:
    """One line of JSON on stdout; what JSON has no type for, such as an enum, as its text."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


data = DataConsole()
words = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
"""What is said beside the data."""

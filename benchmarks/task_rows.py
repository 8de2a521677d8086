"""The labelled rows of a benchmark task, from a JSONL file of your own: id, split, variables, expected."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rs_pipelines.sample import Example, Split


@dataclass(frozen=True, slots=True)
class _Line:
    id: str
    split: Split
    variables: Mapping[str, str]
    expected: str


@dataclass(frozen=True, slots=True)
class TaskRows:
    """All rows of one task.

    Attributes:
        user_template: the user turn that shows a row's variables; with one variable it is that value alone.
    """

    task: str
    user_template: str
    examples: tuple[Example, ...]

    def of(self, split: Split) -> tuple[Example, ...]:
        """The rows of one side, in the file's order."""
        return tuple(example for example in self.examples if example.split is split)


def load_rows(path: Path) -> TaskRows:
    """The rows of a file; the task is named after it. Raises msgspec.DecodeError, and ValueError for an empty file."""
    lines = [msgspec.json.decode(line, type=_Line) for line in path.read_bytes().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no rows.")
    names = list(lines[0].variables)
    template = "{" + names[0] + "}" if len(names) == 1 else "\n".join(f"{name}: {{{name}}}" for name in names)
    examples = (Example(line.id, line.variables, (), line.expected, "imported", line.split) for line in lines)
    return TaskRows(path.stem, template, tuple(examples))

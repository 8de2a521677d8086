"""Score tables: what every candidate of a small search space scores on every row, so that a search can be replayed.

A table holds no text: names of kinds, prompt lengths, and scores.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from random import Random

import msgspec

from rs_pipelines.mipro.records import Candidate

SCALE = 1000
"""Scores are stored as whole thousandths."""


@dataclass(frozen=True)
class ScoreTable:
    """Every candidate's score on every row.

    Attributes:
        evaluator: name and version.
        instructions, demo_sets: kinds, such as `rewrite` or `hard-4`; the first of each is the default's.
        lengths: characters of each candidate's instruction and demos, by instruction, then demo set.
        scores: thousandths, shape (n_instructions * n_demo_sets, n_rows), in the order of `candidates`.
    """

    task: str
    model: str
    evaluator: str
    instructions: tuple[str, ...]
    demo_sets: tuple[str, ...]
    lengths: tuple[int, ...]
    scores: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """Task and model."""
        return f"{self.task} x {self.model}"

    @property
    def n_rows(self) -> int:
        """Rows that every candidate was scored on."""
        return len(self.scores[0])

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """All combinations; the default (0, 0) comes first."""
        indices = product(range(len(self.instructions)), range(len(self.demo_sets)))
        return tuple(Candidate(instruction, demo_set) for instruction, demo_set in indices)

    @cached_property
    def length_of(self) -> dict[Candidate, int]:
        """Characters of each candidate's prompt."""
        return dict(zip(self.candidates, self.lengths, strict=True))

    @cached_property
    def scores_of(self) -> dict[Candidate, tuple[float, ...]]:
        """Scores in [0, 1] of each candidate, by row."""
        scaled = (tuple(score / SCALE for score in row) for row in self.scores)
        return dict(zip(self.candidates, scaled, strict=True))


@dataclass(frozen=True, slots=True)
class Resplit:
    """Which rows a search may look at, in the order in which it does, and which judge its choice. Disjoint."""

    val: tuple[int, ...]
    test: tuple[int, ...]


def resplit(n_rows: int, *, n_val: int, seed: int) -> Resplit:
    """A random division of a table's rows."""
    rows = Random(f"resplit:{seed}").sample(range(n_rows), n_rows)
    return Resplit(tuple(rows[:n_val]), tuple(rows[n_val:]))


def load_table(path: Path) -> ScoreTable:
    """Raises msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=ScoreTable)


def save_table(table: ScoreTable, path: Path) -> None:
    """One line an attribute, one line a candidate."""
    fields = {f: msgspec.json.encode(getattr(table, f)).decode() for f in ScoreTable.__dataclass_fields__}
    rows = ",\n  ".join(msgspec.json.encode(row).decode() for row in table.scores)
    fields["scores"] = f"[\n  {rows}\n ]"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(f' "{name}": {value}' for name, value in fields.items()) + "\n}\n")

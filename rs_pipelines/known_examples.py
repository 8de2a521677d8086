"""Which examples a sample was drawn from, so that what came later can be told from what was there."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from rs_pipelines.durable_files import write_durably
from rs_pipelines.sample import Example, Target


def mark_of(example: Example) -> str:
    """Stands for one input with one expected output: a corrected label makes another one."""
    return hashlib.sha256(f"{example.example_id}\0{example.expected}".encode()).hexdigest()[:16]


class KnownExamples:
    """Marks under one folder: `<target key>/<sample_id>`, a line each. Blocking; a file is replaced as a whole."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def save(self, target: Target, sample_id: str, examples: Iterable[Example]) -> None:
        """Remember all examples that there were when the sample was drawn, those that found no room in it too."""
        lines = "\n".join(sorted({mark_of(example) for example in examples}))
        write_durably(self._root / target.key / sample_id, lines.encode())

    def load(self, target: Target, sample_id: str) -> frozenset[str] | None:
        """The marks of a sample; None when nobody kept them."""
        try:
            return frozenset((self._root / target.key / sample_id).read_text(encoding="ascii").split())
        except FileNotFoundError:
            return None

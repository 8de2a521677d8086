"""One labelled input, as files and stores of data sets have it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from rs_gateway.domain.chat import Message
from rs_pipelines.inputs import input_key
from rs_pipelines.sample import Split


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One imported input with its right output.

    Attributes:
        split: what the file says; None leaves it to the hash of the input.
        row_id: the file's own `id`; None when it has none.
        line: line in the file it was read from, from 1; 0 for rows that come from the store.
    """

    variables: Mapping[str, str]
    messages: tuple[Message, ...]
    expected: str
    split: Split | None = None
    row_id: str | None = None
    line: int = 0

    @property
    def key(self) -> str:
        """Hash of the normalised input."""
        return input_key(self.variables, self.messages)

    def encoded(self) -> bytes:
        """The row as one line of a stored file, without its end. Raises UnicodeEncodeError: half of a character."""
        content = {
            "variables": dict(sorted(self.variables.items())),
            "messages": list(self.messages),
            "expected": self.expected,
            "split": self.split,
            "id": self.row_id,
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

"""Labelled examples and the calibration sample: what a search may learn from, is judged on, and is proved on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rs_gateway.domain.chat import Message

VOUCHED_FOR = frozenset({"human", "imported"})
"""Provenances of labels that people gave."""
TEACHER = "teacher:"
"""A label that a model gave has this and the model as its source and its provenance."""


class Split(StrEnum):
    """Which side a row is on. A fixed hash of the normalised input decides, or the imported file does."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Example:
    """One input with the output that would have been right.

    Attributes:
        example_id: hash of template and normalised input; the same input always has the same id.
        messages: the client's own messages; empty for rows that have variables only.
        provenance: `human`, `imported`, `outcome`, `teacher:<model>` or `captured:<combination>`: who vouches for it.
        trace_id: the trace that it came from; None for imported rows.
    """

    example_id: str
    variables: Mapping[str, str]
    messages: tuple[Message, ...]
    expected: str
    provenance: str
    split: Split
    trace_id: str | None = None

    @property
    def is_vouched_for(self) -> bool:
        """Whether a person says that the expected output is right, and not a model or an outcome."""
        return self.provenance in VOUCHED_FOR

    @property
    def input_text(self) -> str:
        """The input for a person to read: a lone variable's value as it is, others and messages by their names."""
        if len(self.variables) == 1 and not self.messages:
            return next(iter(self.variables.values()))
        variables = [f"{name}: {value}" for name, value in self.variables.items()]
        return "\n".join([*variables, *(f"{message.get('role')}: {_content(message)}" for message in self.messages)])


@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """The examples drawn for one optimisation of one target.

    Attributes:
        sample_id: hash of the content: two samples with the same id are the same rows in the same order.
    """

    sample_id: str
    template_id: str
    model: str
    examples: tuple[Example, ...]

    def rows(self, split: Split) -> tuple[Example, ...]:
        """The rows of one side, in their fixed order."""
        return tuple(e for e in self.examples if e.split is split)


def _content(message: Message) -> str:
    """A message's text; other contents as JSON."""
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def sample_of(template_id: str, model: str, examples: tuple[Example, ...]) -> CalibrationSample:
    """A sample with its id computed."""
    content = [[e.example_id, e.expected, e.split.value, e.provenance] for e in examples]
    digest = hashlib.sha256(json.dumps([template_id, model, content], ensure_ascii=False).encode()).hexdigest()
    return CalibrationSample(digest[:16], template_id, model, examples)


@dataclass(frozen=True, slots=True)
class Target:
    """What one optimisation improves: a template for the model that it runs on.

    A prompt is optimised for its model, so both name the partition.
    """

    template_id: str
    model: str

    @property
    def key(self) -> str:
        """Partition key and directory name: letters, digits, `.`, `_`, `-` only, and unique for every target."""
        slug = "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in self.model)
        suffix = "" if slug == self.model else "-" + hashlib.sha256(self.model.encode()).hexdigest()[:6]
        return f"{self.template_id}@{slug}{suffix}"

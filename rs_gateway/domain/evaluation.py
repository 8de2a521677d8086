"""A score for one answer, and the promise that every evaluator keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rs_gateway.domain.chat import JsonObject, JsonValue, Message
from rs_gateway.domain.errors import RouteSwitchError


@dataclass(frozen=True, slots=True)
class Score:
    """How good one answer is.

    Attributes:
        value: in [0, 1]; 1 is right.
        passed: whether it counts as right.
        explanation: why, for a person; empty when there is nothing to add.
        evaluator: name and version of the evaluator, and its backend where that matters.
    """

    value: float
    passed: bool
    explanation: str
    evaluator: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge wants a model to be asked about one answer.

    Attributes:
        model: `provider/model`, as the configuration names them.
        parameters: over the provider's own options.
    """

    model: str
    messages: tuple[Message, ...]
    parameters: JsonObject = field(default_factory=JsonObject)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the judge's model said; `cut` when it ran out of tokens in the middle."""

    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, beside what was expected.

    Attributes:
        task_input: what the model was asked about, without its prompt; empty when that is not known.
        example_id: names the row in messages; empty when there is none.
        replies: of a judge to its questions about this answer, in their order; empty before it was asked.
    """

    output: str
    expected: str
    task_input: str = ""
    example_id: str = ""
    replies: tuple[Reply, ...] = ()


class Evaluator(Protocol):
    """Scores answers against what was expected. Pure but for what its own backend needs."""

    @property
    def name(self) -> str:
        """Name and version, as it stands on every score."""
        ...

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """One score for each answer, in the same order."""
        ...


@runtime_checkable
class JudgingEvaluator(Evaluator, Protocol):
    """An evaluator that needs a model's opinion.

    It asks nobody itself: whoever scores puts its questions to the models, through cache and budget, and hands each
    answer back with the replies.
    """

    @property
    def questions_per_answer(self) -> int:
        """How many questions one answer may need."""
        ...

    def questions(self, answer: Answer) -> Sequence[Question]:
        """What to ask about this answer; nothing when it can be scored without."""
        ...

    def unreadable(self, answer: Answer) -> str | None:
        """Why the replies hold no verdict; None when they do. `score` takes readable answers only."""
        ...


class UnreadableVerdictError(RouteSwitchError):
    """A judge's reply holds no verdict. The row's score is missing, which is not 0."""

    code = "verdict_unreadable"


class EvaluatorFailedError(RouteSwitchError):
    """An evaluator's own code failed, so nothing can be said about the answers."""

    code = "evaluator_failed"


def questions_per_answer(evaluator: Evaluator) -> int:
    """How many model calls scoring one answer may cost, beside the answer's own."""
    return evaluator.questions_per_answer if isinstance(evaluator, JudgingEvaluator) else 0


def evaluator_kind(spec: Mapping[str, JsonValue]) -> str | None:
    """Which evaluator a section names, without what does not count in a name; None when it names none."""
    name = spec.get("name", "Python" if "python" in spec else None)
    return "".join(c for c in name.lower() if c not in "_- ") if isinstance(name, str) else None


def names_python(spec: Mapping[str, JsonValue]) -> bool:
    """Whether a section, or a part of it, wants Python code to be loaded."""
    pending: list[JsonValue] = [dict(spec)]
    while pending:
        section = pending.pop()
        if not isinstance(section, Mapping):
            continue
        if evaluator_kind(section) == "python":
            return True
        parts = section.get("parts")
        if isinstance(parts, list | tuple):
            pending.extend(part.get("evaluator") for part in parts if isinstance(part, Mapping))
    return False

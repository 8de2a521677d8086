"""What scoring a prompt on rows will probably take, in calls, tokens and dollars, by what calls took so far."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rs_gateway.domain.chat import Message
from rs_gateway.domain.errors import InvalidRequestError
from rs_gateway.domain.evaluation import Answer, Evaluator, JudgingEvaluator
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.rendering import render_messages
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_sizes import size_bound
from rs_pipelines.sample import Example
from rs_pipelines.scoring import task_input_of
from rs_pipelines.spending import NOTHING, Booking


@dataclass(frozen=True, slots=True)
class Needed:
    """What a piece of work will probably take.

    Attributes:
        largest: the most that any of its calls can take.
    """

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0
    largest: Booking = NOTHING

    def __add__(self, other: "Needed") -> "Needed":
        largest = max(self.largest.tokens, other.largest.tokens), max(self.largest.usd, other.largest.usd)
        return Needed(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd, Booking(*largest))


def needed_for(
    text: PromptText, examples: Sequence[Example], *, template_id: str, model: CachedModel, evaluator: Evaluator
) -> Needed:
    """What scoring `text` on `examples` will probably take, a judge's calls included. Asks nobody."""
    needed = Needed()
    for asked, messages in _calls(text, examples, template_id=template_id, model=model, evaluator=evaluator):
        expected = asked.expected(messages)
        needed += Needed(1, expected.tokens, expected.usd, asked.largest(messages))
    return needed


def models_asked(
    text: PromptText, examples: Sequence[Example], *, template_id: str, model: CachedModel, evaluator: Evaluator
) -> list[CachedModel]:
    """Every model that scoring `text` on `examples` asks, a judge's included."""
    return [m for m, _ in _calls(text, examples, template_id=template_id, model=model, evaluator=evaluator)]


def input_bound(text: PromptText, examples: Sequence[Example], *, template_id: str) -> int:
    """Input tokens that asking `text` about `examples` can take at the most."""
    return sum(size_bound(messages, {}).input_tokens for _, messages in _rendered(text, examples, template_id))


def _calls(
    text: PromptText, examples: Sequence[Example], *, template_id: str, model: CachedModel, evaluator: Evaluator
) -> Iterator[tuple[CachedModel, Sequence[Message]]]:
    """Who is asked what. A judge is taken to read an answer as long as the expected one, and not the same."""
    for example, messages in _rendered(text, examples, template_id):
        yield model, messages
        if isinstance(evaluator, JudgingEvaluator):
            answer = Answer(f"{example.expected}.", example.expected, task_input_of(example), example.example_id)
            for question in evaluator.questions(answer):
                yield model.peer(question.model, question.parameters), question.messages


def _rendered(
    text: PromptText, examples: Sequence[Example], template_id: str
) -> Iterator[tuple[Example, Sequence[Message]]]:
    for example in examples:
        with suppress(InvalidRequestError):  # a row that lacks a variable is not asked about
            yield example, render_messages(text, example.variables, example.messages, template_id=template_id)

"""Scores of one prompt on a set of examples: rendered as serving renders, asked through the cache, scored in one go."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from rs_gateway.domain.answers import text_of
from rs_gateway.domain.errors import InvalidRequestError, ProviderError, RouteSwitchError
from rs_gateway.domain.evaluation import (
    Answer,
    Evaluator,
    JudgingEvaluator,
    Question,
    Reply,
    Score,
    UnreadableVerdictError,
)
from rs_gateway.domain.output_formats import read_answer
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.rendering import render_messages
from rs_pipelines.answers import ModelAnswer
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_budget import BudgetExhaustedError
from rs_pipelines.sample import Example

_T = TypeVar("_T")
WhenSpent: TypeAlias = Literal["stop", "leave out"]
"""What becomes of rows that a budget does not cover any more: BudgetExhaustedError, or missing scores."""


@dataclass(frozen=True, slots=True)
class RowScore:
    """One prompt on one example.

    Attributes:
        output: what an application would get of the answer, as the gateway reads it.
        value: in [0, 1]; None when the model could not be asked, or a judge gave no verdict. Missing is not wrong.
        passed: whether the evaluator counts it as right; None when missing.
        error: stable code and message of what kept the value away; None when there is one.
    """

    example_id: str
    value: float | None
    passed: bool | None
    output: str | None
    error: str | None
    input_tokens: int | None
    output_tokens: int | None

    @property
    def left_out(self) -> bool:
        """Whether nobody was asked, because the budget is spent."""
        return self.error is not None and self.error.startswith(f"{BudgetExhaustedError.code}:")


async def score_rows(
    text: PromptText,
    examples: Sequence[Example],
    *,
    template_id: str,
    model: CachedModel,
    evaluator: Evaluator,
    salt: int = 0,
    on_row: Callable[[int, int], None] | None = None,
    when_spent: WhenSpent = "stop",
) -> list[RowScore]:
    """One score for each example, in the same order.

    Args:
        salt: another salt is another draw of the same questions.
        on_row: called with (answers so far, examples) after every answer.

    Raises:
        BudgetExhaustedError: before the answers were complete, and rows are not to be left out; the answers that came
            are in the cache.
    """

    async def answer(example: Example) -> ModelAnswer:
        messages = render_messages(text, example.variables, example.messages, template_id=template_id)
        said = await model.answer(messages, salt=salt)
        return replace(said, text=read_answer(text.output, said.text, finish_reason=said.finish_reason).text)

    answers = await _each(answer, examples, when_spent=when_spent, on_done=on_row)
    given = [(n, a) for n, a in enumerate(answers) if isinstance(a, ModelAnswer)]
    scores = await score_answers(
        [Answer(a.text, examples[n].expected, task_input_of(examples[n]), examples[n].example_id) for n, a in given],
        evaluator=evaluator,
        model=model,
        when_spent=when_spent,
    )
    scored = {n: score for (n, _), score in zip(given, scores, strict=True)}
    return [
        _row(example, answer, scored.get(n)) for n, (example, answer) in enumerate(zip(examples, answers, strict=True))
    ]


async def score_answers(
    answers: Sequence[Answer], *, evaluator: Evaluator, model: CachedModel, when_spent: WhenSpent = "stop"
) -> list[Score | RouteSwitchError]:
    """One score for each answer, or what kept it away: only a judge may fail to give one.

    Args:
        model: finds the models that a judge asks, and pays for them.

    Raises:
        BudgetExhaustedError: before a judge was asked about all, and answers are not to be left out; its replies so far
            are in the cache.
        EvaluatorFailedError: the evaluator's own code failed.
    """
    judged: list[Answer | RouteSwitchError] = list(answers)
    if isinstance(evaluator, JudgingEvaluator):
        judged = await _judged(answers, evaluator=evaluator, model=model, when_spent=when_spent)
    readable = [answer for answer in judged if isinstance(answer, Answer)]
    scores = iter(await anyio.to_thread.run_sync(evaluator.score, readable))
    return [next(scores) if isinstance(answer, Answer) else answer for answer in judged]


def task_input_of(example: Example) -> str:
    """What the row asks about, whatever the prompt: its variables, and the client's last words."""
    words = [m for m in example.messages if m.get("role") == "user"]
    parts = [f"{name}: {value}" for name, value in example.variables.items()]
    return "\n".join([*parts, *(text_of(message.get("content")) for message in words[-1:])])


async def _judged(
    answers: Sequence[Answer], *, evaluator: JudgingEvaluator, model: CachedModel, when_spent: WhenSpent
) -> list[Answer | RouteSwitchError]:
    """Each answer with the judge's replies, or why it has no verdict."""
    questions = [evaluator.questions(answer) for answer in answers]

    async def ask(question: Question) -> ModelAnswer:
        return await model.peer(question.model, question.parameters).answer(question.messages)

    replies = iter(await _each(ask, [q for asked in questions for q in asked], when_spent=when_spent))
    judged: list[Answer | RouteSwitchError] = []
    for answer, asked in zip(answers, questions, strict=True):
        own = [next(replies) for _ in asked]
        failed = next((reply for reply in own if not isinstance(reply, ModelAnswer)), None)
        if failed is not None:
            judged.append(failed)
            continue
        given = [Reply(r.text, r.finish_reason == "length") for r in own if isinstance(r, ModelAnswer)]
        with_replies = replace(answer, replies=tuple(given))
        reason = evaluator.unreadable(with_replies)
        judged.append(with_replies if reason is None else UnreadableVerdictError(reason))
    return judged


async def _each(
    ask: Callable[[_T], Awaitable[ModelAnswer]],
    items: Sequence[_T],
    *,
    when_spent: WhenSpent,
    on_done: Callable[[int, int], None] | None = None,
) -> list[ModelAnswer | RouteSwitchError]:
    """What `ask` gives for each item, all at once. What only concerns one item takes its place; the rest is raised."""
    answers: list[ModelAnswer | RouteSwitchError | None] = [None] * len(items)
    fatal: list[RouteSwitchError] = []
    done = 0

    async def one(index: int) -> None:
        nonlocal done
        try:
            answers[index] = await ask(items[index])
        except (ProviderError, InvalidRequestError) as error:
            answers[index] = error
        except BudgetExhaustedError as error:
            if when_spent == "stop":
                fatal.append(error)  # calls under way are paid for: they go on, to be kept
            answers[index] = error
            return
        except RouteSwitchError as error:
            fatal.append(error)
            group.cancel_scope.cancel()
            return
        done += 1
        if on_done is not None:
            on_done(done, len(items))

    async with anyio.create_task_group() as group:
        for index in range(len(items)):
            group.start_soon(one, index)
    if fatal:
        raise fatal[0]
    return [answer for answer in answers if answer is not None]


def _row(example: Example, answer: ModelAnswer | RouteSwitchError, score: Score | RouteSwitchError | None) -> RowScore:
    if not isinstance(answer, ModelAnswer):
        return RowScore(example.example_id, None, None, None, f"{answer.code}: {answer}", None, None)
    value, passed, error = None, None, None
    if isinstance(score, Score):
        value, passed = score.value, score.passed
    elif score is not None:
        error = f"{score.code}: {score}"
    return RowScore(example.example_id, value, passed, answer.text, error, answer.input_tokens, answer.output_tokens)

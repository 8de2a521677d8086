"""Scores of one prompt on a set of examples: rendered as serving renders, asked through the cache, scored in one go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread

from rs_gateway.domain.errors import InvalidRequestError, ProviderError, RouteSwitchError
from rs_gateway.domain.evaluation import Answer, Evaluator
from rs_gateway.domain.output_formats import OutputFormat, read_answer
from rs_gateway.domain.prompts import PromptText, render_messages
from rs_pipelines.answers import ModelAnswer
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.sample import Example


@dataclass(frozen=True, slots=True)
class RowScore:
    """One prompt on one example.

    Attributes:
        output: what an application would get of the answer, as the gateway reads it.
        value: in [0, 1]; None when the model could not be asked. Missing is not wrong.
        passed: whether the evaluator counts it as right; None when missing.
        error: stable code and message of what kept the answer away; None when there is one.
    """

    example_id: str
    value: float | None
    passed: bool | None
    output: str | None
    error: str | None
    input_tokens: int | None
    output_tokens: int | None


async def score_rows(
    text: PromptText,
    examples: Sequence[Example],
    *,
    template_id: str,
    model: CachedModel,
    evaluator: Evaluator,
    on_row: Callable[[int, int], None] | None = None,
) -> list[RowScore]:
    """One score for each example, in the same order.

    Args:
        on_row: called with (answers so far, examples) after every answer.

    Raises:
        BudgetExhaustedError: before the answers were complete; those that came are in the cache.
    """
    answers: list[ModelAnswer | RouteSwitchError | None] = [None] * len(examples)
    fatal: list[RouteSwitchError] = []
    done = 0

    async def ask(index: int) -> None:
        nonlocal done
        example = examples[index]
        try:
            messages = render_messages(text, example.variables, example.messages, template_id=template_id)
            answers[index] = await model.answer(messages)
        except (ProviderError, InvalidRequestError) as error:
            answers[index] = error
        except RouteSwitchError as error:
            fatal.append(error)
            group.cancel_scope.cancel()
            return
        done += 1
        if on_row is not None:
            on_row(done, len(examples))

    async with anyio.create_task_group() as group:
        for index in range(len(examples)):
            group.start_soon(ask, index)
    if fatal:
        raise fatal[0]
    return await anyio.to_thread.run_sync(_score, text.output, examples, answers, evaluator)


def _score(
    output: OutputFormat,
    examples: Sequence[Example],
    answers: Sequence[ModelAnswer | RouteSwitchError | None],
    evaluator: Evaluator,
) -> list[RowScore]:
    delivered = {
        n: read_answer(output, answer.text, finish_reason=answer.finish_reason).text
        for n, answer in enumerate(answers)
        if isinstance(answer, ModelAnswer)
    }
    scores = evaluator.score([Answer(said, examples[n].expected) for n, said in delivered.items()])
    scored = dict(zip(delivered, scores, strict=True))
    rows: list[RowScore] = []
    for n, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        if isinstance(answer, ModelAnswer):
            rows.append(
                RowScore(
                    example.example_id,
                    scored[n].value,
                    scored[n].passed,
                    delivered[n],
                    None,
                    answer.input_tokens,
                    answer.output_tokens,
                )
            )
        else:
            reason = f"{answer.code}: {answer}" if answer is not None else "cancelled: no answer was waited for"
            rows.append(RowScore(example.example_id, None, None, None, reason, None, None))
    return rows

"""Scoring a prompt on rows: what serving would send, and missing is not wrong."""

from pathlib import Path

import anyio
import pytest

from rs_gateway.adapters.scripted_chat import ScriptedChat, ScriptedReply
from rs_gateway.domain.errors import ProviderRefusedError
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.rendering import render_messages
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.sample import Example, Split
from rs_pipelines.scoring import RowScore, score_rows
from rs_pipelines.spending import Allowance
from tests.pipelines.parcels import EVALUATOR, LIVE, cache_at, demo, model, parcel, tiny_model

ROWS = [parcel(n, Split.VAL) for n in range(10)]
TEXT = PromptText(LIVE.instruction, LIVE.user, (demo(90), demo(91)))


async def scored(asked: CachedModel, text: PromptText = TEXT, rows: list[Example] = ROWS) -> list[RowScore]:
    return await score_rows(text, rows, template_id="parcels", model=asked, evaluator=EVALUATOR)


def test_the_model_is_sent_exactly_what_serving_sends(tmp_path: Path) -> None:
    chat = ScriptedChat(["x"])
    anyio.run(scored, model(chat, cache_at(tmp_path), concurrency=1))
    sent = sorted(call.messages[-1]["content"] for call in chat.calls)
    expected = [render_messages(TEXT, e.variables, e.messages, template_id="parcels") for e in ROWS]
    assert sent == sorted(messages[-1]["content"] for messages in expected)
    assert chat.calls[0].messages[:-1] == expected[0][:-1]


def test_scores_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    scores = anyio.run(scored, model(ScriptedChat(tiny_model), cache_at(tmp_path)))
    assert [score.example_id for score in scores] == [row.example_id for row in ROWS]
    assert {score.value for score in scores} <= {0.0, 1.0}
    assert all(score.value == float(score.passed is True) for score in scores)


def test_a_transport_failure_is_missing_and_a_wrong_answer_is_zero(tmp_path: Path) -> None:
    refusal = ProviderRefusedError("no", provider="scripted", status=400)
    chat = ScriptedChat(lambda call: refusal if ROWS[3].expected in call.messages[-1]["content"] else "wrong")
    scores = anyio.run(scored, model(chat, cache_at(tmp_path)))
    assert [score.value for score in scores] == [0.0, 0.0, 0.0, None] + [0.0] * 6
    assert scores[3].error == "provider_refused: no"
    assert scores[3].output is None


def test_a_row_without_the_prompts_variable_is_missing(tmp_path: Path) -> None:
    bare = Example("bare", {}, ({"role": "user", "content": "hello"},), "x", "human", Split.VAL)
    scores = anyio.run(scored, model(ScriptedChat(["x"]), cache_at(tmp_path)), TEXT, [bare])
    assert scores[0].value is None
    assert "message" in (scores[0].error or "")


def test_a_spent_budget_stops_the_scoring(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    chat = ScriptedChat(["x"])
    with pytest.raises(BudgetExhaustedError):
        anyio.run(scored, model(chat, cache, budget=CallBudget(cache, "a", Allowance(calls=4))))
    assert len(chat.calls) == 4


def test_scoring_can_be_cancelled_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    chat = ScriptedChat(["x", "x", "x", "x", ScriptedReply("x", latency_s=60.0)])
    asked = model(chat, cache_at(tmp_path), concurrency=2)

    async def cancelled() -> bool:
        with anyio.CancelScope() as scope:
            await score_rows(
                TEXT,
                ROWS,
                template_id="parcels",
                model=asked,
                evaluator=EVALUATOR,
                on_row=lambda done, _: scope.cancel() if done == 4 else None,
            )
        return scope.cancelled_caught

    assert anyio.run(cancelled)
    again = ScriptedChat(["x"])
    anyio.run(scored, model(again, cache_at(tmp_path)))
    assert len(again.calls) == len(ROWS) - 4


def test_progress_is_told_for_every_row(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    async def watched() -> None:
        await score_rows(
            TEXT,
            ROWS,
            template_id="parcels",
            model=model(ScriptedChat(["x"]), cache_at(tmp_path)),
            evaluator=EVALUATOR,
            on_row=lambda done, total: seen.append((done, total)),
        )

    anyio.run(watched)
    assert seen == [(n, 10) for n in range(1, 11)]

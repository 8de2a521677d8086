"""LLMJudge: what is asked, what a verdict is worth, what it costs, and that no verdict is not a bad one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import Reply as Scripted
from rs_gateway.adapters.scripted_chat import ScriptedChat, ScriptedReply
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ConfigurationError, ProviderRefusedError, RouteSwitchError
from rs_gateway.domain.evaluation import (
    Answer,
    JudgingEvaluator,
    Reply,
    Score,
    UnreadableVerdictError,
    questions_per_answer,
)
from rs_pipelines.answers import AnswerCache
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.evaluators.llm_judge import LLMJudge
from rs_pipelines.evaluators.registry import build_evaluator
from rs_pipelines.mipro.request import StudyModels
from rs_pipelines.mipro.search import run_study
from rs_pipelines.sample import Split
from rs_pipelines.scoring import RowScore, score_answers, score_rows, task_input_of
from rs_pipelines.spending import Allowance
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import LIVE, cache_at, judged_model, parcel, request, small_plan, tiny_model

DIRECT = LLMJudge(model="vendor/judge", rubric="Is it polite?")
PAIRWISE = LLMJudge(model="vendor/judge", mode="pairwise")
ANSWER = Answer("Your parcel is late.", "The parcel comes late.", "message: where is it?", "e1")
ROWS = [parcel(n, Split.VAL) for n in range(6)]


def prompt(call: ProviderCall) -> str:
    return call.messages[-1]["content"]


def judged(
    judge: JudgingEvaluator,
    chat: ScriptedChat,
    cache: AnswerCache,
    *,
    answers: Sequence[Answer] = (ANSWER,),
    budget: CallBudget | None = None,
) -> list[Score | RouteSwitchError]:
    model = judged_model(chat, cache, budget=budget)

    async def run() -> list[Score | RouteSwitchError]:
        return await score_answers(answers, evaluator=judge, model=model)

    return anyio.run(run)


def only(scores: list[Score | RouteSwitchError]) -> Score:
    [score] = scores
    assert isinstance(score, Score)
    return score


def test_a_grade_is_a_share_of_the_scale(tmp_path: Path) -> None:
    score = only(judged(DIRECT, ScriptedChat(['Polite enough. {"score": 4}']), cache_at(tmp_path)))
    assert (score.value, score.passed, score.evaluator) == (0.75, True, DIRECT.name)
    assert "Polite enough" in score.explanation
    wide = LLMJudge(model="vendor/judge", scale=(0, 100), threshold=0.8)
    score = only(judged(wide, ScriptedChat(["score: 75"]), cache_at(tmp_path)))
    assert (score.value, score.passed) == (0.75, False)


def test_the_judge_is_asked_by_name_without_chance_and_sees_rubric_input_reference_and_answer(tmp_path: Path) -> None:
    chat = ScriptedChat(['{"score": 4}'])
    only(judged(DIRECT, chat, cache_at(tmp_path)))
    [call] = chat.calls
    assert (call.model, call.parameters) == ("judge", {"temperature": 0, "seed": 0, "max_tokens": 400})
    assert all(text in prompt(call) for text in ("Is it polite?", ANSWER.output, ANSWER.expected, "where is it?"))


@given(st.text(), st.text(), st.text())
def test_no_text_can_close_its_fence(output: str, expected: str, task_input: str) -> None:
    [question] = DIRECT.questions(Answer(output, expected, task_input))
    text = question.messages[-1]["content"]
    mark = text.rpartition("<<<")[2].partition("\n")[0]
    assert mark not in output + expected + task_input
    assert text.count(f"<<<{mark}\n") == text.count(f"\n{mark}>>>") == 1 + bool(expected) + bool(task_input)


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [("A", "B", 1.0), ("B", "A", 0.0), ("tie", "tie", 0.5), ("A", "A", 0.5), ("B", "B", 0.5), ("A", "tie", 0.5)],
)
def test_a_pairwise_verdict_counts_when_both_orders_agree(
    first: str, second: str, value: float, tmp_path: Path
) -> None:
    def script(call: ProviderCall) -> Scripted:
        answer_first = prompt(call).index(ANSWER.output) < prompt(call).index(ANSWER.expected)
        return f'{{"better": "{first if answer_first else second}"}}'

    chat = ScriptedChat(script)
    score = only(judged(PAIRWISE, chat, cache_at(tmp_path)))
    assert (score.value, len(chat.calls)) == (value, 2)
    assert score.passed is (value >= 0.5)


def test_equal_texts_are_a_tie_and_nobody_is_asked(tmp_path: Path) -> None:
    chat = ScriptedChat(["A"])
    score = only(judged(PAIRWISE, chat, cache_at(tmp_path), answers=[Answer("same", "same")]))
    assert (score.value, chat.calls) == (0.5, [])


def test_no_verdict_is_missing_and_the_others_are_scored(tmp_path: Path) -> None:
    def script(call: ProviderCall) -> Scripted:
        if "mute" in prompt(call):
            return "I would rather not say."
        if "cut" in prompt(call):
            return ScriptedReply("It meets 3", finish_reason="length")
        if "refused" in prompt(call):
            return ProviderRefusedError("no", provider="vendor", status=400)
        return '{"score": 1}'

    answers = [Answer(output, "x") for output in ("mute", "fine", "cut", "refused")]
    mute, fine, cut, refused = judged(DIRECT, ScriptedChat(script), cache_at(tmp_path), answers=answers)
    assert isinstance(mute, UnreadableVerdictError)
    assert "I would rather not say" in str(mute)
    assert isinstance(cut, UnreadableVerdictError)
    assert "max_tokens" in str(cut)
    assert isinstance(refused, ProviderRefusedError)
    assert isinstance(fine, Score)
    assert fine.value == 0


def test_a_row_without_a_verdict_keeps_its_output_and_has_no_value(tmp_path: Path) -> None:
    async def run() -> list[RowScore]:
        model = judged_model(ScriptedChat(["an answer"]), cache_at(tmp_path), judge=ScriptedChat(["hm"]))
        return await score_rows(LIVE, ROWS, template_id="parcels", model=model, evaluator=DIRECT)

    for row in anyio.run(run):
        assert (row.value, row.passed, row.output) == (None, None, "an answer")
        assert (row.error or "").startswith("verdict_unreadable: vendor/judge gave no verdict")


def test_a_judge_is_never_paid_twice_for_the_same_question(tmp_path: Path) -> None:
    chat = ScriptedChat(['{"score": 4}'])
    cache = cache_at(tmp_path)
    first = judged(DIRECT, chat, cache, answers=[ANSWER] * 3)
    assert judged(DIRECT, chat, cache) == first[:1]
    assert len(chat.calls) == 1


def test_the_judges_calls_are_booked_on_the_studys_account_and_counted(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    budget = CallBudget(cache, "study", Allowance(calls=5))
    answers = [Answer(str(n), "x") for n in range(9)]
    judge = ScriptedChat(['{"score": 4}'])
    with pytest.raises(BudgetExhaustedError):
        judged(DIRECT, judge, cache, answers=answers, budget=budget)
    assert (len(judge.calls), budget.spent.calls) == (5, 5)

    async def counted() -> int:
        model = judged_model(ScriptedChat(["x"]), cache, judge=ScriptedChat(['{"score": 4}']))
        await score_rows(LIVE, ROWS, template_id="parcels", model=model, evaluator=PAIRWISE)
        return model.calls_made

    # Every verdict is unreadable, for both are asked for a grade's form; they are paid for all the same.
    assert anyio.run(counted) == 3 * len(ROWS)


def test_a_study_with_a_judge_stays_within_its_budget_to_the_call(tmp_path: Path) -> None:
    task = ScriptedChat(tiny_model)
    judge = ScriptedChat(lambda call: '{"score": 5}' if call.parameters.get("max_tokens") == 9 else "score: 3")
    evaluator = LLMJudge(model="vendor/judge", parameters={"max_tokens": 9})

    async def run(max_calls: int, questions: int) -> int:
        cache = cache_at(tmp_path / str(max_calls))
        model = judged_model(task, cache, judge=judge)
        asked = request(replace(small_plan(max_calls=max_calls), questions_per_answer=questions))
        files = StudyFiles(tmp_path / str(max_calls) / "studies")
        record = await run_study(asked, StudyModels(model, model), evaluator=evaluator, files=files)
        return record.calls

    calls = anyio.run(run, 600, 1)
    assert calls == len(task.calls) + len(judge.calls)
    # 80 test rows, two prompts, an answer and a verdict each, a tenth for retries.
    assert calls <= 600 - 352
    with pytest.raises(ConfigurationError, match="at least 561"):
        anyio.run(run, 560, 1)


def test_parts_of_a_weighted_evaluator_may_be_judges(tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "name": "Weighted",
        "parts": [
            {"evaluator": {"name": "llm_judge", "model": "vendor/judge"}},
            {"evaluator": {"name": "exact"}},
            {"evaluator": {"name": "judge", "model": "vendor/judge", "mode": "pairwise"}, "weight": 2},
        ],
    }
    weighted = build_evaluator(spec)
    assert isinstance(weighted, JudgingEvaluator)
    assert questions_per_answer(weighted) == 3

    def script(call: ProviderCall) -> Scripted:
        if "Answer to grade" in prompt(call):
            return "score: 3"
        return '{"better": "A"}' if prompt(call).index("ours") < prompt(call).index("theirs") else "hm"

    same, other = Answer("x", "x"), Answer("ours", "theirs")
    scored, missing = judged(weighted, ScriptedChat(script), cache_at(tmp_path), answers=[same, other])
    assert isinstance(scored, Score)
    assert scored.value == pytest.approx((0.5 + 1 + 2 * 0.5) / 4)
    assert isinstance(missing, UnreadableVerdictError)


@pytest.mark.parametrize("judge", [DIRECT, PAIRWISE])
def test_an_answer_that_was_not_judged_is_not_scored(judge: LLMJudge) -> None:
    with pytest.raises(UnreadableVerdictError, match="0 replies"):
        judge.score([ANSWER])
    with pytest.raises(UnreadableVerdictError, match="no verdict"):
        judge.score([Answer("a", "b", replies=(Reply("?"),) * judge.questions_per_answer)])


def test_the_name_tells_one_judge_from_another() -> None:
    judges = [
        DIRECT,
        PAIRWISE,
        LLMJudge(model="vendor/judge"),
        LLMJudge(model="vendor/other"),
        LLMJudge(model="vendor/judge", scale=(0, 10)),
        LLMJudge(model="vendor/judge", parameters={"max_tokens": 9}),
    ]
    assert len({judge.name for judge in judges}) == len(judges)
    assert DIRECT.name.startswith("llm_judge/1 (vendor/judge, direct, rubric ")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "model"),
        ({"model": "judge"}, "provider/model"),
        ({"model": "vendor/judge", "scale": [5, 1]}, "scale"),
        ({"model": "vendor/judge", "scale": [0, float("inf")]}, "scale"),
        ({"model": "vendor/judge", "mode": "both"}, "mode"),
        ({"model": "vendor/judge", "rubric": ""}, "rubric"),
        ({"model": "vendor/judge", "prompt": "x"}, "'prompt'"),
    ],
)
def test_a_judge_that_makes_no_sense_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build_evaluator({"name": "LLMJudge", **spec})


def test_the_task_input_is_what_the_row_asks_without_the_prompt() -> None:
    assert task_input_of(ROWS[0]) == f"message: {ROWS[0].variables['message']}"

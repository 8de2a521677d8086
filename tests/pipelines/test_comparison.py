"""The comparison: both prompts on the untouched test rows, paired, with everything that is needed to check it."""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.errors import ProviderError, ProviderOverloadedError
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.comparison import Comparison, NotComparableError, run_comparison
from rs_pipelines.gate import GatePolicy
from rs_pipelines.mipro.budget import least_rows
from rs_pipelines.mipro.records import LIVE as LIVE_CANDIDATE
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.mipro.request import StudyModels
from rs_pipelines.mipro.reserve import ComparisonReserve
from rs_pipelines.mipro.search import run_study
from rs_pipelines.progress import print_comparison
from rs_pipelines.sample import Split
from rs_pipelines.scoring import score_rows
from rs_pipelines.spending import Allowance
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import (
    EVALUATOR,
    LIVE,
    cache_at,
    model,
    models,
    parcels,
    request,
    small_plan,
    tiny_model,
    version,
)


async def studied(folder: Path, max_calls: int | None = None) -> StudyRecord:
    asked = models(ScriptedChat(tiny_model), cache_at(folder))
    wanted = request(small_plan(max_calls=max_calls))
    return await run_study(wanted, asked, evaluator=EVALUATOR, files=StudyFiles(folder / "studies"))


async def compared(study: StudyRecord, asked: CachedModel) -> Comparison:
    return await run_comparison(study, parcels(), version(), model=asked, evaluator=EVALUATOR, policy=GatePolicy())


@pytest.fixture
def study(tmp_path: Path) -> StudyRecord:
    return anyio.run(studied, tmp_path)


def test_a_real_gain_is_proven_on_test_rows(study: StudyRecord, tmp_path: Path) -> None:
    chat = ScriptedChat(tiny_model)
    found = anyio.run(compared, study, model(chat, cache_at(tmp_path)))
    assert found.verdict.publish
    assert [row.example_id for row in found.rows] == [e.example_id for e in parcels().rows(Split.TEST)]
    assert len(chat.calls) == 160
    assert (found.candidate_hash, found.live_hash) == (study.best_hash, LIVE.content_hash)
    assert (found.verdict.tokens_candidate or 0) > (found.verdict.tokens_live or 0)
    assert len(found.rows_with("won")) == found.verdict.won
    assert found.rows_with("won")[0].live_output != found.rows_with("won")[0].candidate_output


def test_the_live_prompt_against_itself_publishes_nothing(study: StudyRecord, tmp_path: Path) -> None:
    same = replace(study, best=LIVE_CANDIDATE, best_text=LIVE, best_hash=LIVE.content_hash)
    chat = ScriptedChat(tiny_model)
    found = anyio.run(compared, same, model(chat, cache_at(tmp_path)))
    assert not found.verdict.publish
    assert "is the live prompt" in found.verdict.reasons[0]
    assert (found.verdict.difference, len(chat.calls)) == (0.0, 80)


def test_tokens_and_cost_of_both_prompts_are_compared_and_the_objective_decides(
    study: StudyRecord, tmp_path: Path
) -> None:
    """The candidate is better, but its demos make it dearer."""

    async def compared_for_cost() -> Comparison:
        return await run_comparison(
            study,
            parcels(),
            version(),
            model=model(ScriptedChat(tiny_model), cache_at(tmp_path)),
            evaluator=EVALUATOR,
            policy=GatePolicy(objective="cost", max_loss=0.05),
            cost_of_call=lambda n_in, n_out: None if n_in is None or n_out is None else (n_in + 4 * n_out) / 1e6,
        )

    found = anyio.run(compared_for_cost)
    verdict = found.verdict
    assert (verdict.cost_usd_candidate or 0) > (verdict.cost_usd_live or 0) > 0
    assert verdict.output_tokens_live is not None
    assert not verdict.publish
    assert "Not proven cheaper" in verdict.reasons[0]
    assert all(row.candidate_cost_usd is not None for row in found.rows)
    shown = Console(record=True, width=200)
    rows = {example.example_id: example for example in parcels().examples}
    print_comparison(shown, found, published=None, show_rows=2, examples=rows)
    text = shown.export_text()
    assert "USD per 1,000 calls" in text
    assert "Rows won (2 of" in text
    won = found.rows_with("won")[0]
    assert (won.candidate_output or "?") in text
    assert rows[won.example_id].variables["message"] in " ".join(text.split())


def test_comparing_again_costs_nothing_and_says_the_same(study: StudyRecord, tmp_path: Path) -> None:
    first = anyio.run(compared, study, model(ScriptedChat(tiny_model), cache_at(tmp_path)))
    chat = ScriptedChat(tiny_model)
    assert anyio.run(compared, study, model(chat, cache_at(tmp_path))) == first
    assert chat.calls == []


def test_the_stored_comparison_is_the_one_that_was_made(study: StudyRecord, tmp_path: Path) -> None:
    found = anyio.run(compared, study, model(ScriptedChat(tiny_model), cache_at(tmp_path)))
    files = StudyFiles(tmp_path / "studies")
    files.save_comparison(found)
    stored = files.load_comparison(found.target, found.study_id)
    assert stored == found
    assert stored is not None
    assert stored.content_digest == found.comparison_id


def test_study_and_comparison_together_stay_within_the_budget(tmp_path: Path) -> None:
    record = anyio.run(studied, tmp_path, 400)
    chat = ScriptedChat(tiny_model)
    found = anyio.run(compared, record, model(chat, cache_at(tmp_path)))
    assert len(found.rows) == 80
    assert record.calls + len(chat.calls) <= 400


def test_rows_that_the_budget_does_not_cover_are_missing_and_publish_nothing(tmp_path: Path) -> None:
    record = anyio.run(studied, tmp_path, 400)
    for _ in range(170):
        cache_at(tmp_path).charge(record.study_id, Allowance())
    chat = ScriptedChat(tiny_model)
    found = anyio.run(compared, record, model(chat, cache_at(tmp_path)))
    assert len(chat.calls) == max(0, 400 - record.calls - 170)
    assert not found.verdict.publish
    assert found.verdict.missing > 8
    reasons = " ".join(found.verdict.reasons)
    assert f"{found.verdict.missing} of 80 test rows are missing" in reasons
    assert "or the budget was spent" in reasons


@pytest.mark.parametrize("max_calls", [283, 300, 380, 450])
def test_where_calls_fail_more_is_kept_back_for_the_comparison(tmp_path: Path, max_calls: int) -> None:
    def busy(number: int) -> ProviderError | None:
        return ProviderOverloadedError("busy", provider="scripted", status=500) if number % 4 == 3 else None

    async def all_in_one() -> Comparison:
        wanted = request(small_plan(max_calls=max_calls))
        study = await run_study(wanted, asked, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "studies"))
        return await compared(study, asked.task)

    chat = ScriptedChat(tiny_model, fault=busy)
    asked = models(chat, cache_at(tmp_path))
    found = anyio.run(all_in_one)
    assert len(chat.calls) <= max_calls
    assert found.verdict.missing <= 4, "only rows that failed four times on end"


def test_a_study_of_other_inputs_is_not_compared(study: StudyRecord, tmp_path: Path) -> None:
    asked = model(ScriptedChat(tiny_model), cache_at(tmp_path))
    for stale in (
        replace(study, finished=False),
        replace(study, sample_id="other"),
        replace(study, live_hash=PromptText("other").content_hash),
    ):
        with pytest.raises(NotComparableError):
            anyio.run(compared, stale, asked)


PRICE_USD = 1e-6


def _usd(input_tokens: int | None, output_tokens: int | None) -> float:
    return PRICE_USD * ((input_tokens or 0) + (output_tokens or 0))


@pytest.mark.parametrize("more", [0, 300, 1_500, 5_000, 100_000])
@pytest.mark.parametrize("in_usd", [False, True], ids=["tokens", "usd"])
def test_whatever_covers_the_least_ends_in_a_verdict_and_is_not_exceeded(
    tmp_path: Path, more: int, in_usd: bool
) -> None:
    async def optimized() -> tuple[StudyRecord, Comparison, int]:
        cache, chat = cache_at(tmp_path), ScriptedChat(tiny_model)
        task = model(chat, cache, parameters={"max_tokens": 12}, cost=_usd)
        asked = StudyModels(task, task)
        first = parcels().rows(Split.VAL)[:10]
        await score_rows(LIVE, first, template_id="parcels", model=task, evaluator=EVALUATOR)
        limit = ComparisonReserve(request(), task=task, evaluator=EVALUATOR).least().tokens + more
        plan = (
            replace(small_plan(), max_cost_usd=limit * PRICE_USD) if in_usd else replace(small_plan(), max_tokens=limit)
        )
        study = await run_study(request(plan), asked, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "studies"))
        return study, await compared(study, task), limit

    study, found, limit = anyio.run(optimized)
    assert found.verdict.n == 80
    spent = CallBudget(cache_at(tmp_path), study.study_id).spent
    assert spent.input_tokens + spent.output_tokens == spent.booked_tokens <= limit
    assert spent.usd <= limit * PRICE_USD * (1 + 1e-9)
    assert study.ending == ("budget" if more < 100_000 else "trials")
    seen = max(len(entry.values) for entry in study.rows if entry.candidate != LIVE_CANDIDATE)
    # The least leaves out what the prompt model takes.
    assert seen >= least_rows(small_plan(), 60) or more < 300
    assert found.verdict.publish or more < 100_000


def test_an_input_is_shown_by_its_names_where_it_has_several_parts() -> None:
    row = parcels().examples[0]
    message = {"role": "user", "content": "Hello"}
    parts = {"role": "user", "content": [{"type": "text", "text": "é"}]}
    assert row.input_text == row.variables["message"]
    several = replace(row, variables={"shop": "A", "town": "B"}, messages=(message, parts))
    assert several.input_text.splitlines() == [
        "shop: A",
        "town: B",
        "user: Hello",
        'user: [{"type": "text", "text": "é"}]',
    ]

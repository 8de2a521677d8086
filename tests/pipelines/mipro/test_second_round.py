"""The second round: failures of the leader lead to new instructions, and whatever goes wrong there spoils nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, message_text
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ProviderRefusedError
from rs_pipelines.mipro.budget import PlanNumbers, SearchPolicy, StudyPlan, estimate_calls, plan_for
from rs_pipelines.mipro.demos import Screening, demo_rows
from rs_pipelines.mipro.events import LookTaken, Revising, SecondRoundReady, StudyEvent
from rs_pipelines.mipro.records import LIVE as LIVE_CANDIDATE
from rs_pipelines.mipro.records import Candidate, StudyRecord
from rs_pipelines.mipro.search import run_study
from rs_pipelines.mipro.second_round import rows_to_try, standings
from rs_pipelines.sample import Split
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import (
    EVALUATOR,
    LIVE,
    cache_at,
    chance,
    model,
    models,
    parcels,
    request,
    small_plan,
    tiny_model,
)

ROWS = demo_rows(LIVE, parcels().rows(Split.TRAIN), template_id="parcels", seed=0)
BETTER = "Mind the dash: letters, dash, digits."


def attentive(call: ProviderCall) -> Reply:
    """A model that is always right when it is told of the dash, and a proposer that finds that out from failures."""
    last = message_text(call.messages[-1])
    if "still makes mistakes" in last:
        return BETTER
    if "Mind the dash" in message_text(call.messages[0]):
        return next(word for word in last.split() if "-" in word)
    return tiny_model(call)


def weak(call: ProviderCall) -> Reply:
    """Wrong on every other row, whatever the prompt."""
    return tiny_model(call) if chance(message_text(call.messages[-1])) < 0.5 else "I think that it has a number."


def searched(
    folder: Path,
    plan: StudyPlan | None = None,
    *,
    task: Callable[[ProviderCall], Reply] = tiny_model,
    proposer: ScriptedChat | None = None,
    events: list[StudyEvent] | None = None,
) -> StudyRecord:
    async def search() -> StudyRecord:
        cache = cache_at(folder)
        asked = models(ScriptedChat(task), cache)
        if proposer is not None:
            asked = replace(asked, prompt=model(proposer, cache))
        files = StudyFiles(folder / "studies")
        seen = events if events is not None else []
        return await run_study(request(plan), asked, evaluator=EVALUATOR, files=files, on_event=seen.append)

    return anyio.run(search)


def asked_about_failures(chat: ScriptedChat) -> list[str]:
    texts = [message_text(call.messages[-1]) for call in chat.calls]
    return [text for text in texts if "still makes mistakes" in text]


@pytest.mark.parametrize("policy", ["racing", "tpe"])
def test_an_instruction_written_from_failures_can_win(tmp_path: Path, policy: SearchPolicy) -> None:
    events: list[StudyEvent] = []
    plan = replace(small_plan(search=policy, num_trials=14), num_revisions=2)
    record = searched(tmp_path, plan, task=attentive, events=events)
    assert record.instructions[record.best.instruction].source == "revised"
    assert record.best_value == 1.0
    assert [type(event) for event in events if isinstance(event, Revising | SecondRoundReady)] == [
        Revising,
        SecondRoundReady,
    ]


def test_the_proposer_sees_scores_and_five_to_ten_failures_on_train_rows_alone(tmp_path: Path) -> None:
    proposer = ScriptedChat(tiny_model)
    searched(tmp_path, task=weak, proposer=proposer)
    asked = asked_about_failures(proposer)[0]
    sample = parcels()
    shown = [e for e in sample.rows(Split.TRAIN) if e.variables["message"] in asked]
    assert 5 <= len(shown) <= 10
    assert asked.count("The model's answer: I think that it has a number.") == len(shown)
    assert asked.count("Score 0.") >= 2
    unseen = [*sample.rows(Split.VAL), *sample.rows(Split.TEST)]
    everything = "".join(message_text(message) for call in proposer.calls for message in call.messages)
    assert not [e for e in unseen if e.variables["message"] in everything or e.expected in everything]


def test_what_was_there_before_keeps_its_place_and_the_leaders_demos_come_in_another_order(tmp_path: Path) -> None:
    plan = replace(small_plan(), num_candidates=5)
    without = searched(tmp_path / "a", replace(plan, num_revisions=0))
    record = searched(tmp_path / "b", plan)
    assert record.instructions[: len(without.instructions)] == without.instructions
    assert record.demo_sets[: len(without.demo_sets)] == without.demo_sets
    assert [i.source for i in record.instructions[len(without.instructions) :]] == ["revised"]
    (added,) = record.demo_sets[len(without.demo_sets) :]
    assert added.kind == "reordered"
    assert added.demos[::-1] in {demo_set.demos for demo_set in without.demo_sets}
    assert record.second_round and not without.second_round


@pytest.mark.parametrize("junk", ["", "person", "x" * 9_000, ROWS[0].demo.user, ProviderRefusedError])
def test_with_a_proposer_that_is_of_no_use_the_search_is_not_worse_than_with_demos_alone(
    tmp_path: Path, junk: str | type[ProviderRefusedError]
) -> None:
    reply = junk if isinstance(junk, str) else junk("no", provider="scripted", status=401)
    record = searched(tmp_path / "a", proposer=ScriptedChat([reply]))
    alone = searched(tmp_path / "b", replace(small_plan(), num_instruction_candidates=1, num_revisions=0))
    assert record.finished
    assert (record.best_value or 0) >= (alone.best_value or 0)


def test_a_proposal_that_quotes_a_failure_is_refused(tmp_path: Path) -> None:
    def quoting(call: ProviderCall) -> Reply:
        asked = message_text(call.messages[-1])
        if "still makes mistakes" not in asked:
            return tiny_model(call)
        quote = asked.split("Input: ")[1].split("\n")[0]
        return f"Find the number; for example in '{quote}'."

    record = searched(tmp_path, proposer=ScriptedChat(quoting))
    assert "revised" not in {instruction.source for instruction in record.instructions}
    assert record.second_round


def test_a_model_without_failures_is_asked_for_nothing_new(tmp_path: Path) -> None:
    right = {e.variables["message"]: e.expected for e in parcels().examples}
    proposer = ScriptedChat(tiny_model)
    searched(tmp_path, task=lambda call: right.get(message_text(call.messages[-1]), "x"), proposer=proposer)
    assert asked_about_failures(proposer) == []


def test_a_budget_that_leaves_little_is_not_spent_on_a_second_round(tmp_path: Path) -> None:
    proposer = ScriptedChat(tiny_model)
    record = searched(tmp_path, small_plan(max_calls=300), proposer=proposer)
    assert asked_about_failures(proposer) == []
    assert record.ending == "budget"


def test_with_a_budget_the_second_round_comes_after_a_third_of_what_it_covers(tmp_path: Path) -> None:
    events: list[StudyEvent] = []
    record = searched(tmp_path, small_plan(max_calls=600, num_trials=100), events=events)
    second = next(n for n, event in enumerate(events) if isinstance(event, SecondRoundReady))
    before = sum(event.trial.calls for event in events[:second] if isinstance(event, LookTaken))
    assert record.ending == "budget"
    assert "revised" in {instruction.source for instruction in record.instructions}
    # 600 - 176 for the comparison - 60 for the live version - 24 screened - 3 proposals leave 337 answers.
    assert 337 / 3 <= before <= 337 / 3 + 12


def test_a_tpe_study_that_is_cancelled_in_its_second_round_goes_on_as_if_it_never_was(tmp_path: Path) -> None:
    plan = small_plan(search="tpe")
    whole = searched(tmp_path / "whole", plan)

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:

            def stopping(call: ProviderCall) -> Reply:
                if "still makes mistakes" in message_text(call.messages[-1]):
                    scope.cancel()
                return tiny_model(call)

            asked = models(ScriptedChat(stopping), cache_at(tmp_path / "cut"))
            await run_study(request(plan), asked, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "cut" / "studies"))

    anyio.run(cancelled)
    resumed = searched(tmp_path / "cut", plan)
    assert (resumed.instructions, resumed.demo_sets) == (whole.instructions, whole.demo_sets)
    assert [(t.candidate, t.value) for t in resumed.trials] == [(t.candidate, t.value) for t in whole.trials]


def test_the_estimate_holds_the_second_round() -> None:
    with_it, without = (
        estimate_calls(plan_for("medium", 60, numbers=PlanNumbers(num_revisions=n)), parcels()) for n in (2, 0)
    )
    assert (with_it.failures, without.failures) == (32, 0)
    assert with_it.study - without.study == 32 + 2 * 2


def test_who_wants_one_instruction_gets_no_second_round() -> None:
    assert plan_for("light", 60, numbers=PlanNumbers(num_instruction_candidates=1)).num_revisions == 0


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 8), st.integers(0, 99))
def test_rows_that_are_tried_are_never_demos_and_never_twice(wrong: int, tried: int, n_shown: int, seed: int) -> None:
    shown = [row.demo for row in Random(seed).sample(ROWS, n_shown)]
    screening = Screening(ROWS, ROWS[: min(wrong, tried)], ROWS[min(wrong, tried) : tried])
    rows = rows_to_try(screening, shown)
    inputs = [row.demo.user for row in rows]
    assert len(set(inputs)) == len(inputs) <= 32
    assert not set(inputs) & {demo.user for demo in shown}
    # Those that the model got wrong come first.
    failed = {row.demo.user for row in screening.wrong}
    assert sorted(inputs, key=lambda text: text not in failed) == inputs


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 3), st.integers(0, 3)),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30),
        max_size=8,
    )
)
def test_standings_name_every_instruction_that_was_seen_once_the_best_first(
    seen: dict[tuple[int, int], list[float]],
) -> None:
    results = {Candidate(*levels): dict(enumerate(values)) for levels, values in seen.items()}
    results[LIVE_CANDIDATE] = {row: float(row % 2) for row in range(30)}
    ranked = standings(results)
    assert {s.candidate.instruction for s in ranked} == {c.instruction for c in results}
    assert len({s.candidate.instruction for s in ranked}) == len(ranked)
    assert [s.score for s in ranked] == sorted((s.score for s in ranked), reverse=True)

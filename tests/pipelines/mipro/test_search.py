"""The search: finds better prompts, spends what it may, survives being killed, and is the same for the same seed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, message_text
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ConfigurationError, ProviderOverloadedError, ProviderRefusedError
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.mipro.budget import ComparisonSize
from rs_pipelines.mipro.evaluations import StudyFailedError
from rs_pipelines.mipro.events import FullEvaluation, LookTaken, StudyEvent, StudyFinished, TrialFinished
from rs_pipelines.mipro.records import LIVE as LIVE_CANDIDATE
from rs_pipelines.mipro.records import StudyRecord, decode_study, encode_study
from rs_pipelines.mipro.request import NoLabelsError, StudyRequest, row_order, study_id_of
from rs_pipelines.mipro.search import ignore_event, run_study
from rs_pipelines.sample import Split
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import (
    EVALUATOR,
    LIVE,
    cache_at,
    demo,
    model,
    models,
    parcels,
    request,
    small_plan,
    tiny_model,
    version,
)


async def study(
    folder: Path,
    chat: ScriptedChat,
    wanted: StudyRequest | None = None,
    *,
    on_event: Callable[[StudyEvent], None] = ignore_event,
) -> StudyRecord:
    asked = models(chat, cache_at(folder))
    files = StudyFiles(folder / "studies")
    return await run_study(wanted or request(), asked, evaluator=EVALUATOR, files=files, on_event=on_event)


def searched(folder: Path, wanted: StudyRequest | None = None, chat: ScriptedChat | None = None) -> StudyRecord:
    return anyio.run(study, folder, chat or ScriptedChat(tiny_model), wanted)


def course(record: StudyRecord) -> StudyRecord:
    """The record without what depends on the clock and on crashes."""
    trials = tuple(replace(trial, seconds=0.0, calls=0) for trial in record.trials)
    spent = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "booked_tokens": 0}
    measured = {name: replace(calls, answered=0, failed=0, lost=0) for name, calls in record.measured.items()}
    return replace(record, trials=trials, seconds=0.0, started_at="", measured=measured, **spent)


def test_a_better_prompt_is_found(tmp_path: Path) -> None:
    record = searched(tmp_path)
    assert record.finished
    assert record.ending == "trials"
    assert (record.best_value or 0) > (record.live_value or 0) + 0.3
    assert record.best_text == record.text_of(record.best)
    assert record.best_hash == record.text_of(record.best).content_hash


def test_the_live_version_is_trial_0_on_all_rows(tmp_path: Path) -> None:
    trial = searched(tmp_path).trials[0]
    assert (trial.number, trial.candidate, trial.kind, trial.n_rows) == (0, LIVE_CANDIDATE, "full", 60)


def test_candidates_keep_the_live_versions_user_text(tmp_path: Path) -> None:
    best = searched(tmp_path).best_text
    assert best is not None
    assert best.user == LIVE.user


def test_no_combination_is_evaluated_on_the_same_rows_twice(tmp_path: Path) -> None:
    record = searched(tmp_path)
    seen: dict[object, int] = {}
    for trial in record.trials:
        assert trial.n_rows > seen.get(trial.candidate, 0)
        assert trial.calls <= trial.n_rows - seen.get(trial.candidate, 0)
        seen[trial.candidate] = trial.n_rows


def test_only_validation_rows_are_asked_about_and_only_train_rows_are_shown(tmp_path: Path) -> None:
    chat = ScriptedChat(tiny_model)
    record = searched(tmp_path, chat=chat)
    sample = parcels()
    asked = "".join(message_text(message) for call in chat.calls for message in call.messages)
    assert not [e for e in sample.rows(Split.TEST) if e.variables["message"] in asked]
    train = {e.example_id for e in sample.rows(Split.TRAIN)}
    assert all(member.example_id in train for demo_set in record.demo_sets for member in demo_set.demos)
    assert set(record.row_order) == {e.example_id for e in sample.rows(Split.VAL)}


def test_the_record_survives_the_disk(tmp_path: Path) -> None:
    record = searched(tmp_path)
    assert decode_study(encode_study(record)) == record
    assert StudyFiles(tmp_path / "studies").latest(record.target) == record


def test_the_same_seed_makes_the_same_study_and_another_seed_another(tmp_path: Path) -> None:
    first, again = searched(tmp_path / "a"), searched(tmp_path / "b")
    assert course(first) == course(again)
    other = searched(tmp_path / "c", request(small_plan(seed=5)))
    assert other.study_id != first.study_id
    assert other.row_order != first.row_order


def test_another_study_on_the_same_rows_pays_only_for_new_prompts(tmp_path: Path) -> None:
    first = searched(tmp_path)
    second = searched(tmp_path, request(small_plan(num_trials=8)))
    assert second.study_id != first.study_id
    assert second.calls < 0.5 * first.calls


def test_a_finished_study_is_not_run_again(tmp_path: Path) -> None:
    first = searched(tmp_path)
    chat = ScriptedChat(tiny_model)
    assert searched(tmp_path, chat=chat) == first
    assert chat.calls == []


def test_calls_and_tokens_of_the_record_are_those_that_were_paid(tmp_path: Path) -> None:
    chat = ScriptedChat(tiny_model)
    record = searched(tmp_path, chat=chat)
    assert record.calls == len(chat.calls)
    assert record.input_tokens == sum(len(message_text(m).split()) for c in chat.calls for m in c.messages)


def test_events_tell_every_look_of_a_race_and_the_end(tmp_path: Path) -> None:
    events: list[StudyEvent] = []

    async def watched() -> StudyRecord:
        return await study(tmp_path, ScriptedChat(tiny_model), on_event=events.append)

    record = anyio.run(watched)
    looks = [event for event in events if isinstance(event, LookTaken)]
    assert [look.trial for look in looks] == list(record.trials[1:])
    done = [look.done for look in looks]
    assert done == sorted(done) and done[-1] <= looks[0].total == 7 * 20 + 3 * 40
    assert isinstance(events[-1], StudyFinished)


def test_events_tell_every_trial_and_the_end(tmp_path: Path) -> None:
    events: list[StudyEvent] = []

    async def watched() -> StudyRecord:
        wanted = request(small_plan(search="tpe"))
        return await study(tmp_path, ScriptedChat(tiny_model), wanted, on_event=events.append)

    record = anyio.run(watched)
    trials = [event for event in events if isinstance(event, TrialFinished)]
    assert [event.number for event in trials] == list(range(1, 8))
    assert {event.total for event in trials} == {7}
    full = [event.trial for event in events if isinstance(event, FullEvaluation)]
    assert full == [trial for trial in record.trials if trial.kind == "full"]
    assert isinstance(events[-1], StudyFinished)


def test_optunas_journal_holds_every_valid_trial(tmp_path: Path) -> None:
    record = searched(tmp_path)
    path = StudyFiles(tmp_path / "studies").journal(record.target, record.study_id)
    storage = JournalStorage(JournalFileBackend(str(path)))
    mirrored = optuna.load_study(study_name=record.study_id, storage=storage).get_trials(states=(TrialState.COMPLETE,))
    assert [trial.value for trial in mirrored] == [trial.value for trial in record.trials]


@pytest.mark.parametrize("max_calls", [283, 284, 300, 341, 420, 480])
def test_a_budget_is_obeyed_to_the_call_and_the_best_so_far_is_returned(tmp_path: Path, max_calls: int) -> None:
    chat = ScriptedChat(tiny_model)
    record = searched(tmp_path, request(small_plan(max_calls=max_calls)), chat)
    assert len(chat.calls) == record.calls == max_calls - 176  # 176: kept back for the comparison on 80 rows
    assert (record.ending, record.finished) == ("budget", True)
    assert (record.best_value or 0) >= (record.live_value or 0)
    assert record.best != LIVE_CANDIDATE, "the least that is not refused lets a race choose"


def test_a_budget_that_covers_nothing_is_refused_before_a_call(tmp_path: Path) -> None:
    chat = ScriptedChat(tiny_model)
    with pytest.raises(ConfigurationError, match="max_calls"):
        searched(tmp_path, request(small_plan(max_calls=100)), chat)
    assert chat.calls == []


def test_a_live_version_that_cannot_be_beaten_stays(tmp_path: Path) -> None:
    chat = ScriptedChat(lambda call: "X" if len(call.messages) > 2 else tiny_model(call))
    best = PromptText("Give only the parcel number.", "{message}")
    record = searched(tmp_path, request(small_plan(), live=best), chat)
    assert (record.best_value or 0) >= (record.live_value or 0) > 0
    assert record.text_of(record.best).demos == ()


def test_a_small_space_ends_when_everything_is_known(tmp_path: Path) -> None:
    plan = replace(small_plan(num_trials=50, search="tpe"), num_candidates=2, num_instruction_candidates=1)
    record = searched(tmp_path, request(plan))
    assert record.ending == "space"
    assert {len(entry.values) for entry in record.rows} == {60}


def test_live_demos_are_a_contender(tmp_path: Path) -> None:
    live = PromptText("Give only the parcel number.", "{message}", tuple(demo(n) for n in range(4)))
    record = searched(tmp_path, request(small_plan(), live=live))
    assert record.demo_sets[0].demos == live.demos
    assert (record.best_value or 0) >= (record.live_value or 0)


def test_no_labels_are_refused_with_the_remedy(tmp_path: Path) -> None:
    wanted = replace(request(), sample=parcels(train=0))
    with pytest.raises(NoLabelsError, match="/v1/feedback"):
        searched(tmp_path, wanted)


def test_transient_failures_change_nothing_but_the_bill(tmp_path: Path) -> None:
    error = ProviderOverloadedError("busy", provider="scripted", status=429)
    chat = ScriptedChat(tiny_model, fault=lambda n: error if n % 9 == 4 else None)
    shaky, calm = searched(tmp_path / "a", chat=chat), searched(tmp_path / "b")
    assert course(shaky) == course(calm)
    assert shaky.calls > calm.calls


def test_a_row_that_is_never_answered_is_missing_and_not_wrong(tmp_path: Path) -> None:
    lost = row_order(parcels().rows(Split.VAL), small_plan())[2].expected

    def refusing(call: ProviderCall) -> Reply:
        refused = lost in message_text(call.messages[-1])
        return ProviderRefusedError("no", provider="scripted", status=400) if refused else tiny_model(call)

    record = searched(tmp_path, chat=ScriptedChat(refusing))
    assert {trial.missing for trial in record.trials} == {1}
    assert record.trials[0].value == pytest.approx(sum(v or 0 for v in record.rows[0].values) / 59)


def test_a_model_that_cannot_be_reached_fails_the_study_and_says_why(tmp_path: Path) -> None:
    chat = ScriptedChat([ProviderRefusedError("bad key", provider="scripted", status=401)])
    with pytest.raises(StudyFailedError, match=r"60 of 60 rows got no answer .*bad key"):
        searched(tmp_path, chat=chat)


def test_an_outage_in_mid_study_voids_trials_and_the_study_goes_on_later(tmp_path: Path) -> None:
    """The model is away from call 150 on; a second run, with the model back, ends as an undisturbed one would."""
    error = ProviderRefusedError("away", provider="scripted", status=403)
    chat = ScriptedChat(tiny_model, fault=lambda n: error if n >= 150 else None)
    with pytest.raises(StudyFailedError, match="void trials in a row"):
        searched(tmp_path / "a", chat=chat)
    record = searched(tmp_path / "a")
    assert record.finished
    void = [trial for trial in record.trials if trial.value is None]
    assert len(void) == 3
    undisturbed = searched(tmp_path / "b")
    assert [(t.candidate, t.value) for t in record.trials if t.value is not None] == [
        (t.candidate, t.value) for t in undisturbed.trials
    ]


@pytest.mark.parametrize("stop_at", [3, 61, 75, 84, 88, 100, 130, 170, 230, 300, 340])
def test_a_study_cancelled_anywhere_goes_on_as_if_it_never_was(tmp_path: Path, stop_at: int) -> None:
    whole_chat = ScriptedChat(tiny_model)
    whole = searched(tmp_path / "whole", chat=whole_chat)

    async def cancelled() -> int:
        scope = anyio.CancelScope()

        def stopping(call: ProviderCall) -> Reply:
            if len(chat.calls) == stop_at:
                scope.cancel()
            return tiny_model(call)

        chat = ScriptedChat(stopping)
        with scope:
            await study(tmp_path / "cut", chat)
        return len(chat.calls)

    first = anyio.run(cancelled)
    second_chat = ScriptedChat(tiny_model)
    resumed = searched(tmp_path / "cut", chat=second_chat)
    assert course(resumed) == course(whole)
    assert len(whole_chat.calls) <= first + len(second_chat.calls) <= len(whole_chat.calls) + 8


@pytest.mark.parametrize("kills", [(30, 200), (90, 120, 300)], ids=str)
def test_a_study_killed_with_sigkill_goes_on_and_pays_no_row_twice(tmp_path: Path, kills: tuple[int, ...]) -> None:
    whole = searched(tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    log = folder / "calls.log"
    for after in kills:
        process = _start(folder, str(after + 25))
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < after):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait(240) == -signal.SIGKILL, "it ended before it was killed"
    assert _start(folder).wait(240) == 0
    record = StudyFiles(folder / "studies").latest(request().target)
    assert record is not None
    assert course(record) == course(whole)
    paid = log.read_text().count("\n")
    assert whole.calls <= paid <= whole.calls + 4 * len(kills)
    # What the budget counted is never less than what was paid.
    assert paid <= CallBudget(cache_at(folder), record.study_id).spent.calls


def _start(folder: Path, *hold_at: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.pipelines.mipro.interrupted_study", str(folder), *hold_at])


@pytest.mark.parametrize("damage", [b"", b'{"op_code": 0', b"no json at all\n\n"], ids=["emptied", "cut", "garbage"])
def test_a_damaged_journal_is_rebuilt_from_the_record(tmp_path: Path, damage: bytes) -> None:
    whole = searched(tmp_path / "whole")

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            chat = ScriptedChat(lambda call: (scope.cancel() if len(chat.calls) >= 230 else None, tiny_model(call))[1])
            await study(tmp_path / "cut", chat)

    anyio.run(cancelled)
    journal = StudyFiles(tmp_path / "cut" / "studies").journal(whole.target, whole.study_id)
    journal.write_bytes(b"" if not damage else journal.read_bytes() + damage)
    assert course(searched(tmp_path / "cut")) == course(whole)


def test_a_weak_proposer_does_not_spoil_the_search(tmp_path: Path) -> None:
    async def junk() -> StudyRecord:
        cache = cache_at(tmp_path)
        asked = models(ScriptedChat(tiny_model), cache)
        weak = replace(asked, prompt=model(ScriptedChat(["{}", "person", "}}{"]), cache))
        return await run_study(request(), weak, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "studies"))

    assert (anyio.run(junk).best_value or 0) > 0.6


def test_the_study_id_depends_on_everything_that_decides_its_course(tmp_path: Path) -> None:
    asked = models(ScriptedChat(tiny_model), cache_at(tmp_path))
    base = request()
    variants = [
        base,
        replace(base, sample=parcels(val=50)),
        replace(base, live=version(PromptText("Other", "{message}"))),
        replace(base, plan=small_plan(seed=1)),
        replace(base, plan=small_plan(num_trials=9)),
        replace(base, evaluator_spec={"name": "exact_match", "case_sensitive": True}),
    ]
    assert len({study_id_of(variant, asked, EVALUATOR) for variant in variants}) == len(variants)


def test_a_study_keeps_its_id_so_that_a_later_program_goes_on_with_it(tmp_path: Path) -> None:
    """What a request or a plan gets later belongs to the id only where it is not its default."""
    asked = models(ScriptedChat(tiny_model), cache_at(tmp_path))
    assert study_id_of(request(), asked, EVALUATOR) == "dcfc93b4f7466f9a"
    other = replace(request(small_plan(max_calls=420)), looks_at_once=2, comparison=ComparisonSize(prompts=3))
    assert study_id_of(other, asked, EVALUATOR) == "32053aae4e1a6f9b"


def test_a_budget_that_ends_the_race_leaves_a_leader_that_can_be_chosen(tmp_path: Path) -> None:
    """Without rows kept back for the leader, the last looks would go to many candidates and none could be chosen."""
    plan = replace(small_plan(num_trials=60), look_rows=4)
    reserved = 176  # for the comparison on 80 test rows
    record = searched(tmp_path, request(replace(plan, max_calls=reserved + 60 + 24 + 3 + 60)))
    assert record.ending == "budget"
    seen = {entry.candidate: len(entry.values) for entry in record.rows}
    assert max(n for candidate, n in seen.items() if candidate != LIVE_CANDIDATE) >= 0.3 * 60


@pytest.mark.parametrize("stop_at", [61, 75, 100, 130, 160])
def test_a_study_with_a_budget_that_is_cancelled_goes_on_as_if_it_never_was(tmp_path: Path, stop_at: int) -> None:
    wanted = request(small_plan(max_calls=420))
    whole = searched(tmp_path / "whole", wanted)

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            chat = ScriptedChat(
                lambda call: (scope.cancel() if len(chat.calls) >= stop_at else None, tiny_model(call))[1]
            )
            await study(tmp_path / "cut", chat, wanted)

    anyio.run(cancelled)
    resumed = searched(tmp_path / "cut", wanted)
    assert [t.candidate for t in resumed.trials[:-2]] == [t.candidate for t in whole.trials[: len(resumed.trials) - 2]]
    assert resumed.calls <= 420

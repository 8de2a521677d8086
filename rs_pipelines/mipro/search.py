"""MIPROv2's search: over instruction x demo set x output format, on rows in one order for every candidate.

Every evaluation runs on a prefix of one fixed order of the validation rows, so candidates are compared on common rows
and a later evaluation of a candidate pays only for rows it has not seen. The state is saved after every trial; a killed
study goes on from there, and answers that were given in between come from the cache.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import anyio.to_thread
from optuna.storages import BaseStorage

from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.mipro.budget import DRAWS_PER_PROPOSAL, REVISION_ROWS, estimate_calls, study_allowance
from rs_pipelines.mipro.choice import choice_of, weighed
from rs_pipelines.mipro.demos import build_demo_sets, demo_rows, demo_user_text
from rs_pipelines.mipro.earlier import usable_demos
from rs_pipelines.mipro.evaluations import Evaluations, Tools
from rs_pipelines.mipro.events import (
    DemoSetsBuilt,
    FullEvaluation,
    InstructionsReady,
    Proposing,
    Revising,
    SecondRoundReady,
    StudyEvent,
    StudyFinished,
    StudyOpened,
)
from rs_pipelines.mipro.formats import offered_formats, without_format
from rs_pipelines.mipro.instructions import build_instructions
from rs_pipelines.mipro.race import Race
from rs_pipelines.mipro.records import LIVE, DemoSet, Ending, Instruction, StudyRecord
from rs_pipelines.mipro.redacted import redacted_examples
from rs_pipelines.mipro.request import NoLabelsError, StudyModels, StudyRequest, row_order, study_id_of, title_of
from rs_pipelines.mipro.reserve import ComparisonReserve
from rs_pipelines.mipro.second_round import revised_record
from rs_pipelines.mipro.tpe_search import TpeSearch
from rs_pipelines.mipro.trial_log import TrialLog
from rs_pipelines.sample import Split
from rs_pipelines.studies import StudyFiles

_BEFORE_SECOND_ROUND = 1 / 3
"""Part of the search after which the leaders' scores and failures are worth learning from."""
_ROUNDS_LEFT = 3
"""How often what is left to spend must cover the second round, so that what it brings can be evaluated."""


def ignore_event(event: StudyEvent) -> None:
    """Watch nothing."""


def utc_now() -> datetime:
    """The current time."""
    return datetime.now(UTC)


async def run_study(
    request: StudyRequest,
    models: StudyModels,
    *,
    evaluator: Evaluator,
    files: StudyFiles,
    storage: BaseStorage | None = None,
    on_event: Callable[[StudyEvent], None] = ignore_event,
) -> StudyRecord:
    """Search a better prompt for the target, or go on with a search that was interrupted. Never touches test rows.

    Args:
        storage: where Optuna keeps the trials, for processes that join; None is a journal file beside the study.

    Returns:
        The finished record; its choice may be the live version itself. A spent budget ends the search early, with the
        best so far.

    Raises:
        StudyBusyError: the target is being optimised already.
        StudyFailedError: the model cannot be reached.
        NoLabelsError: no rows to learn from, to judge on or to prove a gain on.
        ConfigurationError: the budget cannot even cover the live version and the comparison.
    """
    lacking = [split.value for split in Split if not request.sample.rows(split)]
    if lacking:
        raise NoLabelsError(
            f"Template {request.target.template_id!r} has no labelled rows for {', '.join(lacking)}: send labels with "
            "POST /v1/feedback, or import some with `route-switch dataset import`."
        )
    with files.lock(request.target):
        return await _Search(request, models, evaluator, files, storage, on_event).run()


class _Search:
    def __init__(
        self,
        request: StudyRequest,
        models: StudyModels,
        evaluator: Evaluator,
        files: StudyFiles,
        storage: BaseStorage | None,
        emit: Callable[[StudyEvent], None],
    ) -> None:
        self._request, self._plan = request, request.plan
        self._evaluator, self._files, self._storage, self._emit = evaluator, files, storage, emit
        study_id = study_id_of(request, models, evaluator)
        reserve = ComparisonReserve(request, task=models.task, evaluator=evaluator)
        budget = CallBudget(
            models.task.cache,
            study_id,
            study_allowance(request.plan, request.sample, request.comparison),
            title=title_of(request.target, study_id),
        )
        self._task, self._prompt = models.task.on(budget), models.prompt.on(budget)
        rows = row_order(request.sample.rows(Split.VAL), request.plan)
        self._train = redacted_examples(request.sample.rows(Split.TRAIN), request.redactor)
        live = request.live.text
        self._base = without_format(live)
        record = StudyRecord(
            study_id=study_id,
            target=request.target,
            sample_id=request.sample.sample_id,
            live_version=request.live.number,
            live_hash=live.content_hash,
            live_text=live,
            evaluator=evaluator.name,
            evaluator_spec=request.evaluator_spec,
            plan=request.plan,
            started_at=utc_now().isoformat(timespec="seconds"),
            row_order=tuple(example.example_id for example in rows),
            instructions=(Instruction(self._base.instruction, "live"),),
            demo_sets=(DemoSet("live", "live", self._base.demos, self._base.nearest),),
            output_formats=offered_formats(live, request.sample.rows(Split.TRAIN), wanted=request.output_formats),
        )
        self._state = Evaluations(record, rows, Tools(self._task, evaluator, budget, reserve, files, emit, utc_now))

    async def run(self) -> StudyRecord:
        state = self._state
        await state.resume()
        estimate = estimate_calls(self._plan, self._request.sample, self._request.comparison).study
        record = state.record
        self._emit(StudyOpened(record.study_id, len(record.trials), estimate, record.output_formats))
        if not record.finished:
            try:
                ending = await self._search()
            except BudgetExhaustedError:
                ending = "budget"
            await self._finish(ending)
        await anyio.to_thread.run_sync(self._files.set_latest, state.record)
        self._emit(StudyFinished(state.record))
        return state.record

    async def _search(self) -> Ending:
        state = self._state
        if LIVE not in state.results:
            trial = await state.evaluate(LIVE, state.n_rows, kind="full")
            self._emit(FullEvaluation(trial, state.best_value))
        await self._prepare()
        if not state.record.second_round and self._plan.num_revisions:
            ending = await self._follow_policy(share=_BEFORE_SECOND_ROUND)
            if ending == "trials":
                return ending
            await self._second_round()
        return await self._follow_policy() or "trials"

    async def _follow_policy(self, *, share: float = 1.0) -> Ending | None:
        """Opens the log anew: the second round adds candidates."""
        log = await anyio.to_thread.run_sync(self._open_log)
        if self._plan.search == "racing":
            race = Race(self._state, log, emit=self._emit, looks_at_once=self._request.looks_at_once)
            return await race.run(share=share)
        return await TpeSearch(self._state, log, emit=self._emit).run(share=share)

    async def _second_round(self) -> None:
        """Add what is written from the leader's failures, unless that would take most of what is left to spend."""
        state, plan = self._state, self._plan
        record, left = state.record, state.answers_left
        if left is None or left >= _ROUNDS_LEFT * (REVISION_ROWS + DRAWS_PER_PROPOSAL * plan.num_revisions):
            record = await revised_record(
                record,
                state.results,
                self._train,
                base=self._base,
                task=self._task,
                prompt=self._prompt,
                evaluator=self._evaluator,
                on_failures=lambda n: self._emit(Revising(n)),
            )
        n_revised = len(record.instructions) - len(state.record.instructions)
        await state.save(replace(record, second_round=True))
        self._emit(SecondRoundReady(n_revised))

    async def _prepare(self) -> None:
        """Build demo sets and instructions, unless a crashed run has done it: they must not change in mid-study."""
        state, text, train = self._state, self._request.live.text, self._train
        template_id = self._request.target.template_id
        if len(state.record.demo_sets) == 1:
            demo_sets = await build_demo_sets(
                text,
                train,
                template_id=template_id,
                plan=self._plan,
                model=self._task,
                evaluator=self._evaluator,
                earlier=self._earlier(),
            )
            await state.save(replace(state.record, demo_sets=demo_sets))
            self._emit(DemoSetsBuilt(len(demo_sets)))
        if len(state.record.instructions) == 1:
            instructions = await build_instructions(
                self._base,
                demo_rows(text, train, template_id=template_id, seed=self._plan.seed),
                plan=self._plan,
                model=self._prompt,
                on_proposing=lambda n: self._emit(Proposing(n)),
                earlier=self._request.earlier,
                live_score=state.mean(LIVE),
            )
            await state.save(replace(state.record, instructions=instructions))
            proposed = sum(instruction.source == "proposed" for instruction in instructions)
            self._emit(InstructionsReady(len(instructions), proposed))

    def _earlier(self) -> list[PromptText]:
        """Earlier winners without the demos that this search judges on."""
        request, template_id = self._request, self._request.target.template_id
        held_out = [e for split in (Split.VAL, Split.TEST) for e in request.sample.rows(split)]
        inputs = {demo_user_text(request.live.text, e, template_id=template_id) or "" for e in held_out}
        ids = {e.example_id for e in held_out}
        return [
            usable_demos(winner, held_out=ids, inputs=inputs, redactor=request.redactor) for winner in request.earlier
        ]

    def _open_log(self) -> TrialLog:
        record = self._state.record
        return TrialLog(
            self._storage or self._files.journal(self._request.target, record.study_id),
            record.study_id,
            n_instructions=len(record.instructions),
            n_demo_sets=len(record.demo_sets),
            n_output_formats=len(record.output_formats),
            seed=self._plan.seed,
            trials=record.trials,
        )

    async def _finish(self, ending: Ending) -> None:
        state, request = self._state, self._request
        searched = replace(state.record, objective=request.objective, max_loss=request.max_loss)
        best = choice_of(searched)
        text = searched.text_of(best)
        done = replace(
            searched,
            best=best,
            weighed=weighed(searched),
            best_text=text,
            best_hash=text.content_hash,
            live_value=state.mean(LIVE),
            best_value=state.mean(best),
            ending=ending,
            finished=True,
        )
        await state.save(done)

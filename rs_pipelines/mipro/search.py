"""MIPROv2's search: Optuna over instruction x demo set x output format, on rows in one order for every candidate.

Every evaluation runs on a prefix of one fixed order of the validation rows, so candidates are compared on common rows
and a later evaluation of a candidate pays only for rows it has not seen. The state is saved after every trial; a killed
study goes on from there, and answers that were given in between come from the cache.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from statistics import fmean

import anyio.to_thread

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.answers import BudgetExhaustedError, CallBudget
from rs_pipelines.mipro.budget import estimate_calls, study_call_limit
from rs_pipelines.mipro.demos import build_demo_sets, demo_rows
from rs_pipelines.mipro.estimates import GainEstimates, final_choice
from rs_pipelines.mipro.events import (
    DemoSetsBuilt,
    FullEvaluation,
    InstructionsReady,
    Proposing,
    RowsScored,
    StudyEvent,
    StudyFinished,
    StudyOpened,
    TrialFinished,
)
from rs_pipelines.mipro.formats import offered_formats, without_format
from rs_pipelines.mipro.instructions import build_instructions
from rs_pipelines.mipro.records import (
    LIVE,
    Candidate,
    CandidateRows,
    DemoSet,
    Ending,
    Instruction,
    StudyRecord,
    TrialKind,
    TrialRecord,
)
from rs_pipelines.mipro.request import NoLabelsError, StudyModels, StudyRequest, row_order, study_id_of
from rs_pipelines.mipro.trial_log import TrialLog
from rs_pipelines.sample import Split
from rs_pipelines.scoring import score_rows
from rs_pipelines.studies import StudyFiles

_MAX_MISSING = 0.2
"""A trial with a larger share of missing rows is void."""
_MAX_VOID = 3
"""Void trials in a row after which the model counts as unreachable."""


class StudyFailedError(RouteSwitchError):
    """The model could not be asked often enough to go on; what was evaluated is kept."""

    code = "study_failed"

    def __init__(self, study_id: str, missing: int, total: int, cause: str) -> None:
        super().__init__(
            f"Study {study_id}: {missing} of {total} rows got no answer ({cause}). Run it again when the model can be "
            "reached: it goes on where it was."
        )


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
    on_event: Callable[[StudyEvent], None] = ignore_event,
    now: Callable[[], datetime] = utc_now,
) -> StudyRecord:
    """Search a better prompt for the target, or go on with a search that was interrupted. Never touches test rows.

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
        return await _Search(request, models, evaluator, files, on_event, now).run()


class _Search:
    def __init__(
        self,
        request: StudyRequest,
        models: StudyModels,
        evaluator: Evaluator,
        files: StudyFiles,
        on_event: Callable[[StudyEvent], None],
        now: Callable[[], datetime],
    ) -> None:
        self._request, self._plan = request, request.plan
        self._evaluator, self._files, self._emit, self._now = evaluator, files, on_event, now
        study_id = study_id_of(request, models, evaluator)
        limit = study_call_limit(request.plan, request.sample)
        self._budget = CallBudget(models.task.cache, study_id, limit)
        self._task, self._prompt = models.task.on(self._budget), models.prompt.on(self._budget)
        self._rows = row_order(request.sample.rows(Split.VAL), request.plan)
        self._results: dict[Candidate, dict[int, float | None]] = {}
        live = request.live.text
        self._base = without_format(live)
        self._record = StudyRecord(
            study_id=study_id,
            target=request.target,
            sample_id=request.sample.sample_id,
            live_version=request.live.number,
            live_hash=live.content_hash,
            live_text=live,
            evaluator=evaluator.name,
            plan=request.plan,
            started_at=now().isoformat(timespec="seconds"),
            row_order=tuple(example.example_id for example in self._rows),
            instructions=(Instruction(self._base.instruction, "live"),),
            demo_sets=(DemoSet("live", "live", self._base.demos),),
            output_formats=offered_formats(live, request.sample.rows(Split.TRAIN), wanted=request.output_formats),
        )
        self._resumed_at = now()
        self._last_error: str | None = None
        self._earlier_seconds = 0.0

    async def run(self) -> StudyRecord:
        stored = await anyio.to_thread.run_sync(self._files.load_study, self._request.target, self._record.study_id)
        if stored is not None:
            self._restore(stored)
        estimate = estimate_calls(self._plan, self._request.sample).study
        record = self._record
        self._emit(StudyOpened(record.study_id, len(record.trials), estimate, record.output_formats))
        if not self._record.finished:
            try:
                ending = await self._search()
            except BudgetExhaustedError:
                ending = "budget"
            await self._finish(ending)
        await anyio.to_thread.run_sync(self._files.set_latest, self._record)
        self._emit(StudyFinished(self._record))
        return self._record

    def _restore(self, stored: StudyRecord) -> None:
        self._record, self._earlier_seconds = stored, stored.seconds
        self._results = {entry.candidate: dict(enumerate(entry.values)) for entry in stored.rows}

    async def _search(self) -> Ending:
        if LIVE not in self._results:
            trial = await self._evaluate(LIVE, len(self._rows), kind="full")
            self._emit(FullEvaluation(trial, self._best_value()))
        await self._prepare()
        log = await anyio.to_thread.run_sync(self._open_log)
        void = 0
        while True:
            trials = [t for t in self._record.trials if t.value is not None and t.kind == "minibatch"]
            promising = self._most_promising()
            if promising is not None and self._full_evaluation_due(len(trials)):
                trial = await self._evaluate(promising, len(self._rows), kind="full")
                if trial.value is not None:
                    await anyio.to_thread.run_sync(log.add, promising, trial.value)
                self._emit(FullEvaluation(trial, self._best_value()))
            elif len(trials) >= self._plan.num_trials:
                return "trials"
            else:
                trial = await self._next_trial(log)
                if trial is None:
                    return "space"
                done = len(trials) + (trial.value is not None)
                self._emit(TrialFinished(done, self._plan.num_trials, trial, self._best_value()))
            void = void + 1 if trial.value is None else 0
            if void >= _MAX_VOID:
                cause = f"{void} void trials in a row; the last row: {self._last_error}"
                raise StudyFailedError(self._record.study_id, trial.missing, trial.n_rows, cause)

    async def _prepare(self) -> None:
        """Build demo sets and instructions, unless a crashed run has done it: they must not change in mid-study."""
        text, train = self._request.live.text, self._request.sample.rows(Split.TRAIN)
        template_id = self._request.target.template_id
        if len(self._record.demo_sets) == 1:
            demo_sets = await build_demo_sets(
                text, train, template_id=template_id, plan=self._plan, model=self._task, evaluator=self._evaluator
            )
            await self._save(replace(self._record, demo_sets=demo_sets))
            self._emit(DemoSetsBuilt(len(demo_sets)))
        if len(self._record.instructions) == 1:
            instructions = await build_instructions(
                self._base,
                demo_rows(text, train, template_id=template_id, seed=self._plan.seed),
                plan=self._plan,
                model=self._prompt,
                on_proposing=lambda n: self._emit(Proposing(n)),
            )
            await self._save(replace(self._record, instructions=instructions))
            proposed = sum(instruction.source == "proposed" for instruction in instructions)
            self._emit(InstructionsReady(len(instructions), proposed))

    def _open_log(self) -> TrialLog:
        return TrialLog(
            self._files.journal(self._request.target, self._record.study_id),
            self._record.study_id,
            n_instructions=len(self._record.instructions),
            n_demo_sets=len(self._record.demo_sets),
            n_output_formats=len(self._record.output_formats),
            seed=self._plan.seed,
            trials=self._record.trials,
        )

    async def _next_trial(self, log: TrialLog) -> TrialRecord | None:
        """Evaluate the sampler's proposal, or what to look at instead when that has been seen; None: all is known."""
        proposal, candidate = await anyio.to_thread.run_sync(log.propose, len(self._record.trials))
        if candidate not in self._results:
            trial = await self._evaluate(candidate, self._plan.minibatch_size, kind="minibatch")
            await anyio.to_thread.run_sync(log.tell, proposal, trial.value)
            return trial
        # A combination that was seen would cost nothing and teach nothing: take the unseen one that looks best or, when
        # there is none, show the best one its next rows.
        await anyio.to_thread.run_sync(log.tell, proposal, None)
        estimates = GainEstimates(self._results)
        unseen = [c for c in self._candidates() if c not in self._results]
        other = max(unseen, key=estimates.gain) if unseen else self._most_promising()
        if other is None:
            return None
        n_rows = min(len(self._rows), len(self._results.get(other, ())) + self._plan.minibatch_size)
        trial = await self._evaluate(other, n_rows, kind="minibatch")
        if trial.value is not None:
            await anyio.to_thread.run_sync(log.add, other, trial.value)
        return trial

    def _candidates(self) -> list[Candidate]:
        factors = (self._record.instructions, self._record.demo_sets, self._record.output_formats)
        return [Candidate(*levels) for levels in product(*(range(len(factor)) for factor in factors))]

    def _most_promising(self) -> Candidate | None:
        """The best of the candidates that were seen, but not on all rows."""
        partly = sorted(c for c, values in self._results.items() if len(values) < len(self._rows))
        return max(partly, key=GainEstimates(self._results).gain) if partly else None

    def _full_evaluation_due(self, n_trials: int) -> bool:
        """After every so many trials, and after the last."""
        steps, last = self._plan.minibatch_full_eval_steps, self._plan.num_trials
        due = n_trials // steps + (n_trials >= last and last % steps != 0)
        # Number 0 is the live version's.
        return due > sum(t.kind == "full" and t.value is not None and t.number > 0 for t in self._record.trials)

    async def _evaluate(self, candidate: Candidate, n_rows: int, *, kind: TrialKind) -> TrialRecord:
        """Score a candidate on the first `n_rows` rows, paying for those it has not seen, and save the state."""
        started, calls = self._now(), self._task.calls_made
        known = self._results.get(candidate, {})
        wanted = [row for row in range(n_rows) if known.get(row) is None]
        scores = await score_rows(
            self._record.text_of(candidate),
            [self._rows[row] for row in wanted],
            template_id=self._request.target.template_id,
            model=self._task,
            evaluator=self._evaluator,
            on_row=lambda done, total: self._emit(RowsScored(kind, done, total)),
        )
        self._last_error = next((s.error for s in reversed(scores) if s.error is not None), self._last_error)
        values = {**known, **{row: score.value for row, score in zip(wanted, scores, strict=True)}}
        present = [value for value in values.values() if value is not None]
        missing = len(values) - len(present)
        if candidate == LIVE and missing > _MAX_MISSING * len(values):
            raise StudyFailedError(self._record.study_id, missing, len(values), self._last_error or "")
        void = missing > _MAX_MISSING * len(values)
        if not void:
            self._results[candidate] = values
        trial = TrialRecord(
            number=len(self._record.trials),
            candidate=candidate,
            kind=kind,
            n_rows=len(values),
            value=None if void else fmean(present),
            missing=missing,
            seconds=(self._now() - started).total_seconds(),
            calls=self._task.calls_made - calls,
        )
        await self._save(replace(self._record, trials=(*self._record.trials, trial)))
        return trial

    def _fully_evaluated(self) -> list[Candidate]:
        return sorted(c for c, values in self._results.items() if len(values) == len(self._rows))

    def _mean(self, candidate: Candidate) -> float | None:
        present = [value for value in self._results.get(candidate, {}).values() if value is not None]
        return fmean(present) if present else None

    def _best_value(self) -> float | None:
        means = [self._mean(candidate) for candidate in self._fully_evaluated()]
        return max((mean for mean in means if mean is not None), default=None)

    async def _finish(self, ending: Ending) -> None:
        eligible = self._fully_evaluated()
        lengths = {candidate: _length(self._record.text_of(candidate)) for candidate in eligible}
        # A budget that ends before the live version is evaluated leaves nothing to choose from.
        best = final_choice(self._results, eligible=eligible, lengths=lengths) if LIVE in eligible else LIVE
        text = self._record.text_of(best)
        done = replace(
            self._record,
            best=best,
            best_text=text,
            best_hash=text.content_hash,
            live_value=self._mean(LIVE),
            best_value=self._mean(best),
            ending=ending,
            finished=True,
        )
        await self._save(done)

    async def _save(self, record: StudyRecord) -> None:
        spent = await anyio.to_thread.run_sync(lambda: self._budget.spent)
        entries = [
            CandidateRows(candidate, tuple(values[row] for row in range(len(values))))
            for candidate, values in sorted(self._results.items())
        ]
        self._record = replace(
            record,
            rows=tuple(entries),
            calls=spent.calls,
            input_tokens=spent.input_tokens,
            output_tokens=spent.output_tokens,
            seconds=self._earlier_seconds + (self._now() - self._resumed_at).total_seconds(),
        )
        await anyio.to_thread.run_sync(self._files.save_study, self._record)


def _length(text: PromptText) -> int:
    return len(text.instruction) + sum(len(demo.user) + len(demo.assistant) for demo in text.demos)

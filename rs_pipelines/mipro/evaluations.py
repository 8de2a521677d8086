"""What a study has found out so far, row by row, and the way to find out more. Every step is saved before it counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean
from typing import Protocol

import anyio.to_thread

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.evaluation import Evaluator
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.mipro.budget import planned_evaluations
from rs_pipelines.mipro.events import RowsScored, StudyEvent
from rs_pipelines.mipro.records import LIVE, Candidate, CandidateRows, StudyRecord, TrialKind, TrialRecord
from rs_pipelines.mipro.reserve import ComparisonReserve
from rs_pipelines.mipro.shared_trials import RowScores
from rs_pipelines.sample import Example, Target
from rs_pipelines.scoring import score_rows

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


class StudyStore(Protocol):
    """Where a study is kept. Blocking."""

    def load_study(self, target: Target, study_id: str) -> StudyRecord | None:
        """The study as it was last saved."""
        ...

    def save_study(self, record: StudyRecord) -> None:
        """Replace what is kept of it, as a whole."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What an evaluation is made with."""

    task: CachedModel
    evaluator: Evaluator
    budget: CallBudget
    reserve: ComparisonReserve
    store: StudyStore
    emit: Callable[[StudyEvent], None]
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Scored:
    """What one look at a candidate brought, and what it took in the process that looked."""

    values: RowScores
    seconds: float = 0.0
    calls: int = 0
    error: str | None = None


class Evaluations:
    """The state of one study. Candidates see the validation rows in one order, each a prefix of it.

    Attributes:
        record: as it was last saved.
        results: of each candidate that was looked at, position in the row order -> score; None is missing.
    """

    def __init__(self, record: StudyRecord, rows: tuple[Example, ...], tools: Tools) -> None:
        self.record, self.results = record, dict[Candidate, dict[int, float | None]]()
        self._rows, self._tools = rows, tools
        self._resumed_at = tools.now()
        self._earlier_seconds = 0.0
        self._last_error: str | None = None
        self._n_void = 0

    async def resume(self) -> None:
        """Go on from what was saved, if anything was."""
        stored = await anyio.to_thread.run_sync(self._tools.store.load_study, self.record.target, self.record.study_id)
        if stored is not None:
            self.record, self._earlier_seconds = stored, stored.seconds
            self.results = stored.results
            self._tools.task.remember(stored.measured)
            self._tools.budget.allowance = self._tools.reserve.allowance(stored)

    @property
    def n_rows(self) -> int:
        """Validation rows."""
        return len(self._rows)

    @property
    def candidates(self) -> list[Candidate]:
        """All that there are, the live version first."""
        return self.record.candidates

    @property
    def fully_evaluated(self) -> list[Candidate]:
        """Those that have seen all rows."""
        return sorted(c for c, values in self.results.items() if len(values) == self.n_rows)

    @property
    def best_value(self) -> float | None:
        """Highest mean over all rows; None as long as nobody has seen them all."""
        means = [self.mean(candidate) for candidate in self.fully_evaluated]
        return max((mean for mean in means if mean is not None), default=None)

    def mean(self, candidate: Candidate) -> float | None:
        """Over the rows that the candidate has an answer to."""
        present = [value for value in self.results.get(candidate, {}).values() if value is not None]
        return fmean(present) if present else None

    @property
    def answers_left(self) -> int | None:
        """Answers that the budget still covers; None is no limit."""
        return self._tools.reserve.answers_left(self.record)

    @property
    def share_done(self) -> float:
        """How much of what may be evaluated is, from 0 to 1: of the plan, or of the budget where that ends sooner."""
        done = sum(len(values) for candidate, values in self.results.items() if candidate != LIVE)
        planned, left = planned_evaluations(self.record.plan, self.n_rows), self.answers_left
        affordable = planned if left is None else min(planned, done + left)
        return done / affordable if affordable else 1.0

    async def evaluate(self, candidate: Candidate, n_rows: int, *, kind: TrialKind) -> TrialRecord:
        """Score a candidate on the first `n_rows` rows, paying for those it has not seen.

        Raises:
            StudyFailedError: too much got no answer.
            BudgetExhaustedError: what was answered until then is in the answer cache.
        """
        wanted = self.wanted(candidate, n_rows)
        return await self.accept(candidate, await self.score(candidate, wanted, kind=kind), kind=kind)

    def wanted(self, candidate: Candidate, n_rows: int) -> tuple[int, ...]:
        """Of the first `n_rows` rows, those that the candidate has no score on."""
        known = self.results.get(candidate, {})
        return tuple(row for row in range(n_rows) if known.get(row) is None)

    async def score(self, candidate: Candidate, rows: Sequence[int], *, kind: TrialKind) -> Scored:
        """Score a candidate on these rows. Changes nothing. Raises BudgetExhaustedError."""
        tools = self._tools
        started, calls = tools.now(), tools.task.calls_made
        scores = await score_rows(
            self.record.text_of(candidate),
            [self._rows[row] for row in rows],
            template_id=self.record.target.template_id,
            model=tools.task,
            evaluator=tools.evaluator,
            on_row=lambda done, total: tools.emit(RowsScored(kind, done, total)),
        )
        return Scored(
            values={row: score.value for row, score in zip(rows, scores, strict=True)},
            seconds=(tools.now() - started).total_seconds(),
            calls=tools.task.calls_made - calls,
            error=next((s.error for s in reversed(scores) if s.error is not None), None),
        )

    def value(self, candidate: Candidate, scored: RowScores) -> float | None:
        """Mean of what a candidate has with these scores; None when too much of it is missing."""
        values = {**self.results.get(candidate, {}), **scored}
        present = [value for value in values.values() if value is not None]
        return None if len(values) - len(present) > _MAX_MISSING * len(values) else fmean(present)

    async def accept(self, candidate: Candidate, scored: Scored, *, kind: TrialKind) -> TrialRecord:
        """Keep what a candidate scored as the study's next trial. Raises StudyFailedError."""
        record = self.record
        self._last_error = scored.error or self._last_error
        values = {**self.results.get(candidate, {}), **scored.values}
        missing = sum(value is None for value in values.values())
        value = self.value(candidate, scored.values)
        if candidate == LIVE and value is None:
            raise StudyFailedError(record.study_id, missing, len(values), self._last_error or "")
        if value is not None:
            self.results[candidate] = values
        trial = TrialRecord(
            number=len(record.trials),
            candidate=candidate,
            kind=kind,
            n_rows=len(values),
            value=value,
            missing=missing,
            seconds=scored.seconds,
            calls=scored.calls,
        )
        await self.save(replace(record, trials=(*record.trials, trial)))
        self._n_void = self._n_void + 1 if value is None else 0
        if self._n_void >= _MAX_VOID:
            cause = f"{self._n_void} void trials in a row; the last row: {self._last_error}"
            raise StudyFailedError(record.study_id, trial.missing, trial.n_rows, cause)
        return trial

    async def save(self, record: StudyRecord) -> None:
        """Keep `record`, with all results and what was paid until now."""
        tools = self._tools
        spent = await anyio.to_thread.run_sync(lambda: tools.budget.spent)
        entries = [
            CandidateRows(candidate, tuple(values[row] for row in range(len(values))))
            for candidate, values in sorted(self.results.items())
        ]
        self.record = replace(
            record,
            rows=tuple(entries),
            calls=spent.calls,
            input_tokens=spent.input_tokens,
            output_tokens=spent.output_tokens,
            usd=spent.usd,
            booked_tokens=spent.booked_tokens,
            measured=tools.task.measured,
            seconds=self._earlier_seconds + (tools.now() - self._resumed_at).total_seconds(),
        )
        await anyio.to_thread.run_sync(tools.store.save_study, self.record)
        tools.budget.allowance = tools.reserve.allowance(self.record)

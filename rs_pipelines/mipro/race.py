"""The search as a race: look by look, always at the leader or at whoever is most likely to beat it."""

from collections.abc import Callable, Sequence

import anyio.to_thread

from rs_pipelines.mipro.budget import planned_evaluations
from rs_pipelines.mipro.evaluations import Evaluations
from rs_pipelines.mipro.events import LookTaken, StudyEvent
from rs_pipelines.mipro.racing import Look, is_settled, next_looks
from rs_pipelines.mipro.records import LIVE, Ending, TrialKind, TrialRecord
from rs_pipelines.mipro.shared_trials import Assignment
from rs_pipelines.mipro.teamwork import evaluate_together
from rs_pipelines.mipro.trial_log import TrialLog


class Race:
    """May evaluate as many rows as the plan's trials would, and as the budget covers. Every look is a trial in Optuna.

    Which look comes next depends on the results alone, so a race that was killed goes on as it would have gone on.
    """

    def __init__(
        self,
        evaluations: Evaluations,
        log: TrialLog,
        *,
        emit: Callable[[StudyEvent], None],
        looks_at_once: int = 1,
    ) -> None:
        self._evaluations, self._log, self._emit = evaluations, log, emit
        self._looks_at_once = looks_at_once
        self._plan = evaluations.record.plan

    async def run(self, *, share: float = 1.0) -> Ending | None:
        """Until the rows are spent or would change nothing; None: this share of them is done.

        Raises BudgetExhaustedError, StudyFailedError.
        """
        state, plan = self._evaluations, self._plan
        total = planned_evaluations(plan, state.n_rows)
        while True:
            done = sum(len(values) for candidate, values in state.results.items() if candidate != LIVE)
            if done >= total:
                return "trials"
            if share < 1 and state.share_done >= share:
                return None
            candidates = state.candidates
            if is_settled(state.results, candidates, n_rows=state.n_rows):
                return "settled"
            covered = state.answers_left
            left = total - done if covered is None else min(total - done, covered)
            if left < 1:
                return "budget"
            looks = next_looks(
                state.results,
                candidates,
                n_rows=state.n_rows,
                step=plan.look_rows,
                left=left,
                at_once=self._looks_at_once,
            )
            if not looks:
                return "space"
            for look, trial in zip(looks, await self._evaluate(looks), strict=True):
                if trial.value is not None:
                    done += trial.n_rows - look.seen
                self._emit(LookTaken(trial, done, total))

    async def _evaluate(self, looks: Sequence[Look]) -> list[TrialRecord]:
        """The trials of these looks, in their order."""
        state = self._evaluations
        if len(looks) == 1:
            trial = await state.evaluate(looks[0].candidate, looks[0].n_rows, kind=self._kind(looks[0]))
            if trial.value is not None:
                await anyio.to_thread.run_sync(self._log.add, looks[0].candidate, trial.value)
            return [trial]
        work = [
            Assignment(look.candidate, state.wanted(look.candidate, look.n_rows), self._kind(look)) for look in looks
        ]
        scored = await evaluate_together(work, state, self._log)
        return [
            await state.accept(part.candidate, brought, kind=part.kind)
            for part, brought in zip(work, scored, strict=True)
        ]

    def _kind(self, look: Look) -> TrialKind:
        return "full" if look.n_rows == self._evaluations.n_rows else "minibatch"

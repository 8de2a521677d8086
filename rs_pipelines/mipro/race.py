"""The search as a race: look by look, always at the leader or at whoever is most likely to beat it."""

from collections.abc import Callable

import anyio.to_thread

from rs_pipelines.mipro.budget import planned_evaluations
from rs_pipelines.mipro.evaluations import Evaluations
from rs_pipelines.mipro.events import LookTaken, StudyEvent
from rs_pipelines.mipro.racing import is_settled, next_look
from rs_pipelines.mipro.records import LIVE, Ending
from rs_pipelines.mipro.trial_log import TrialLog


class Race:
    """May evaluate as many rows as the plan's trials would, and as the budget covers. Every look is a trial in Optuna.

    Which look comes next depends on the results alone, so a race that was killed goes on as it would have gone on.
    """

    def __init__(self, evaluations: Evaluations, log: TrialLog, *, emit: Callable[[StudyEvent], None]) -> None:
        self._evaluations, self._log, self._emit = evaluations, log, emit
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
            look = next_look(state.results, candidates, n_rows=state.n_rows, step=plan.look_rows, left=left)
            if look is None:
                return "space"
            kind = "full" if look.n_rows == state.n_rows else "minibatch"
            trial = await state.evaluate(look.candidate, look.n_rows, kind=kind)
            if trial.value is not None:
                await anyio.to_thread.run_sync(self._log.add, look.candidate, trial.value)
                done += trial.n_rows - look.seen
            self._emit(LookTaken(trial, done, total))

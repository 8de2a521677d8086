"""The search as MIPROv2 describes it: Optuna's TPE proposes, minibatches judge, the most promising are seen in full."""

from collections.abc import Callable

import anyio.to_thread

from rs_pipelines.mipro.estimates import GainEstimates
from rs_pipelines.mipro.evaluations import Evaluations
from rs_pipelines.mipro.events import FullEvaluation, StudyEvent, TrialFinished
from rs_pipelines.mipro.records import Candidate, Ending, TrialRecord
from rs_pipelines.mipro.trial_log import TrialLog


class TpeSearch:
    """Minibatches are prefixes of the study's row order, so that they can be compared."""

    def __init__(self, evaluations: Evaluations, log: TrialLog, *, emit: Callable[[StudyEvent], None]) -> None:
        self._evaluations, self._log, self._emit = evaluations, log, emit
        self._plan = evaluations.record.plan

    async def run(self, *, share: float = 1.0) -> Ending | None:
        """Until the plan's trials are done; None: this share of what they evaluate is.

        Raises BudgetExhaustedError, StudyFailedError.
        """
        state = self._evaluations
        while True:
            trials = [t for t in state.record.trials if t.value is not None and t.kind == "minibatch"]
            if share < 1 and len(trials) < self._plan.num_trials and state.share_done >= share:
                return None
            promising = self._most_promising()
            if promising is not None and self._full_evaluation_due(len(trials)):
                trial = await state.evaluate(promising, state.n_rows, kind="full")
                if trial.value is not None:
                    await anyio.to_thread.run_sync(self._log.add, promising, trial.value)
                self._emit(FullEvaluation(trial, state.best_value))
            elif len(trials) >= self._plan.num_trials:
                return "trials"
            else:
                trial = await self._next_trial()
                if trial is None:
                    return "space"
                done = len(trials) + (trial.value is not None)
                self._emit(TrialFinished(done, self._plan.num_trials, trial, state.best_value))

    async def _next_trial(self) -> TrialRecord | None:
        """Evaluate the sampler's proposal, or what to look at instead when that has been seen; None: all is known."""
        state, size = self._evaluations, self._plan.minibatch_size
        proposal, candidate = await anyio.to_thread.run_sync(self._log.propose, len(state.record.trials))
        if candidate not in state.results:
            trial = await state.evaluate(candidate, size, kind="minibatch")
            await anyio.to_thread.run_sync(self._log.tell, proposal, trial.value)
            return trial
        # A combination that was seen would cost nothing and teach nothing: take the unseen one that looks best or, when
        # there is none, show the best one its next rows.
        await anyio.to_thread.run_sync(self._log.tell, proposal, None)
        estimates = GainEstimates(state.results)
        unseen = [c for c in state.candidates if c not in state.results]
        other = max(unseen, key=estimates.gain) if unseen else self._most_promising()
        if other is None:
            return None
        n_rows = min(state.n_rows, len(state.results.get(other, ())) + size)
        trial = await state.evaluate(other, n_rows, kind="minibatch")
        if trial.value is not None:
            await anyio.to_thread.run_sync(self._log.add, other, trial.value)
        return trial

    def _most_promising(self) -> Candidate | None:
        """The best of the candidates that were seen, but not on all rows."""
        results, n_rows = self._evaluations.results, self._evaluations.n_rows
        partly = sorted(c for c, values in results.items() if len(values) < n_rows)
        return max(partly, key=GainEstimates(results).gain) if partly else None

    def _full_evaluation_due(self, n_trials: int) -> bool:
        """After every so many trials, and after the last."""
        steps, last = self._plan.minibatch_full_eval_steps, self._plan.num_trials
        due = n_trials // steps + (n_trials >= last and last % steps != 0)
        # Number 0 is the live version's.
        trials = self._evaluations.record.trials
        return due > sum(t.kind == "full" and t.value is not None and t.number > 0 for t in trials)

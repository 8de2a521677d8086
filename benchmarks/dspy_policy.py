"""The search of DSPy 3.4's MIPROv2, step for step, for one predictor (`_optimize_prompt_parameters`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

import optuna

from benchmarks.replays import Replay
from rs_pipelines.mipro.records import LIVE, Candidate


@dataclass(frozen=True, slots=True)
class DspyPolicy:
    """MIPROv2 with these sizes; called with a replay and a seed, it returns its choice.

    Minibatches are drawn anew for every trial, the sampler sees full evaluations as further trials, and the program
    with strictly the highest full evaluation is returned.
    """

    num_trials: int = 10
    minibatch_size: int = 35
    full_eval_steps: int = 5

    def __call__(self, replay: Replay, seed: int) -> Candidate:
        return self.search(replay, sampler_seed=seed, rng=Random(seed))

    def search(self, replay: Replay, *, sampler_seed: int, rng: Random) -> Candidate:
        """The search alone; `rng` draws the minibatches."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=sampler_seed, multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space = {
            "0_predictor_instruction": optuna.distributions.CategoricalDistribution(
                range(len(replay.table.instructions))
            ),
            "0_predictor_demos": optuna.distributions.CategoricalDistribution(range(len(replay.table.demo_sets))),
        }

        def add(candidate: Candidate, value: float) -> None:
            params = {"0_predictor_instruction": candidate.instruction, "0_predictor_demos": candidate.demo_set}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(space), value=value))

        rows = range(replay.n_rows)
        best, best_value = LIVE, _percent(replay.score(LIVE, rows))
        add(LIVE, best_value)
        averages: dict[Candidate, list[float]] = {}
        # The default's own full evaluation does not count as one here, as it does not there.
        fully_evaluated: set[Candidate] = set()
        for n_trials in range(1, self.num_trials + 1):
            trial = study.ask()
            candidate = Candidate(
                trial.suggest_categorical("0_predictor_instruction", range(len(replay.table.instructions))),
                trial.suggest_categorical("0_predictor_demos", range(len(replay.table.demo_sets))),
            )
            value = _percent(replay.score(candidate, rng.sample(rows, min(self.minibatch_size, len(rows)))))
            averages.setdefault(candidate, []).append(value)
            if n_trials % self.full_eval_steps == 0 or n_trials == self.num_trials:
                open_ones = [c for c in averages if c not in fully_evaluated]
                if not open_ones:
                    break  # DSPy raises ValueError here and loses the run
                promising = max(open_ones, key=lambda c: fmean(averages[c]))
                full_value = _percent(replay.score(promising, rows))
                add(promising, full_value)
                fully_evaluated.add(promising)
                if full_value > best_value:
                    best, best_value = promising, full_value
            study.tell(trial, value)
        return best


def _percent(scores: Sequence[float]) -> float:
    # Rounded as DSPy's Evaluate rounds: which of two is higher, and what is a tie, can hang on it.
    return round(100 * sum(scores) / len(scores), 2)

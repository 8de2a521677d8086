"""Search policies other than DSPy's, as functions of a replay and a seed."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from statistics import fmean

import optuna

from benchmarks.replays import CallsSpentError, Replay
from rs_pipelines.mipro.estimates import GainEstimates, final_choice
from rs_pipelines.mipro.racing import chosen, is_settled, next_look
from rs_pipelines.mipro.records import LIVE, Candidate


@dataclass(frozen=True, slots=True)
class RacingPolicy:
    """Ours: top-two expected improvement under an additive row-level model.

    Attributes:
        step: rows that one look adds.
        settles: whether it ends as soon as nothing is likely to be better by a point, as the product does.
    """

    step: int = 12
    settles: bool = True

    def __call__(self, replay: Replay, seed: int) -> Candidate:
        del seed  # nothing is drawn
        candidates = replay.table.candidates
        n_rows = replay.n_rows
        while replay.calls_left > 0:
            if self.settles and is_settled(replay.seen, candidates, n_rows=n_rows):
                break
            look = next_look(replay.seen, candidates, n_rows=n_rows, step=self.step, left=replay.calls_left)
            if look is None:
                break
            have = len(replay.seen.get(look.candidate, ()))
            replay.score(look.candidate, range(have, min(look.n_rows, have + replay.calls_left)))
        return chosen(replay.seen, candidates, lengths=replay.table.length_of, n_rows=n_rows)


@dataclass(frozen=True, slots=True)
class TpePolicy:
    """The search as it was before: TPE on prefixes of one row order, a full evaluation every 5 trials."""

    num_trials: int = 10
    minibatch_size: int = 35
    full_eval_steps: int = 5

    def __call__(self, replay: Replay, seed: int) -> Candidate:
        with suppress(CallsSpentError):
            self._search(replay, seed)
        return final_choice(replay.seen, eligible=_complete(replay), lengths=replay.table.length_of)

    def _search(self, replay: Replay, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        table = replay.table
        study = optuna.create_study(direction="maximize")
        space = {
            "instruction": optuna.distributions.CategoricalDistribution(tuple(range(len(table.instructions)))),
            "demo_set": optuna.distributions.CategoricalDistribution(tuple(range(len(table.demo_sets)))),
        }

        def evaluate(candidate: Candidate, n_rows: int) -> None:
            value = fmean(replay.score(candidate, range(n_rows)))
            params = {"instruction": candidate.instruction, "demo_set": candidate.demo_set}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(space), value=value))

        evaluate(LIVE, replay.n_rows)
        for number in range(1, self.num_trials + 1):
            digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
            study.sampler = optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4]), multivariate=True, n_startup_trials=4
            )
            params = study.ask(dict(space)).params
            candidate = Candidate(params["instruction"], params["demo_set"])
            n_rows = self.minibatch_size
            if candidate in replay.seen:
                unseen = [c for c in table.candidates if c not in replay.seen]
                other = max(unseen, key=GainEstimates(replay.seen).gain) if unseen else _promising(replay)
                if other is None:
                    return
                candidate = other
                n_rows = min(replay.n_rows, len(replay.seen.get(other, ())) + self.minibatch_size)
            evaluate(candidate, n_rows)
            if number % self.full_eval_steps == 0 or number == self.num_trials:
                promising = _promising(replay)
                if promising is not None:
                    evaluate(promising, replay.n_rows)


@dataclass(frozen=True, slots=True)
class HalvingPolicy:
    """Successive halving on common rows with the default kept to the end; the highest full mean is chosen."""

    first_rows: int = 8
    keep: float = 0.5

    def __call__(self, replay: Replay, seed: int) -> Candidate:
        replay.score(LIVE, range(replay.n_rows))
        pool = [c for c in replay.table.candidates if c != LIVE]
        Random(seed).shuffle(pool)
        n_rows = self.first_rows
        while pool:
            cost = sum(n_rows - len(replay.seen.get(c, ())) for c in pool)
            if cost > replay.calls_left:
                pool = pool[: max(1, len(pool) // 2)] if len(pool) > 1 else []
                continue
            means = {c: fmean(replay.score(c, range(n_rows))) for c in pool}
            pool.sort(key=lambda c: -means[c])
            if n_rows >= replay.n_rows:
                break
            pool = pool[: max(1, round(self.keep * len(pool)))]
            n_rows = min(replay.n_rows, 2 * n_rows)
        full = _complete(replay)
        return max(full, key=lambda c: (fmean(replay.seen[c].values()), c == LIVE))


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """Full evaluations of the default and of random others, as many as the budget covers; the highest mean wins."""

    def __call__(self, replay: Replay, seed: int) -> Candidate:
        pool = [c for c in replay.table.candidates if c != LIVE]
        Random(seed).shuffle(pool)
        for candidate in (LIVE, *pool):
            if replay.calls_left >= replay.n_rows:
                replay.score(candidate, range(replay.n_rows))
        return max(_complete(replay), key=lambda c: (fmean(replay.seen[c].values()), c == LIVE))


def _complete(replay: Replay) -> list[Candidate]:
    return sorted(c for c, values in replay.seen.items() if len(values) == replay.n_rows)


def _promising(replay: Replay) -> Candidate | None:
    partly = sorted(c for c, values in replay.seen.items() if len(values) < replay.n_rows)
    return max(partly, key=GainEstimates(replay.seen).gain) if partly else None

"""Policies judged on random re-splits of score tables, at the calls that a reference policy made on the same one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from benchmarks.replays import Policy, Replay
from benchmarks.score_tables import ScoreTable, resplit
from rs_pipelines.mipro.records import LIVE


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on one re-split of one table.

    Attributes:
        test: mean test score of its choice; default and reference: of the default, of the reference policy's choice.
        best: of the candidate that is best on the whole table; no policy can know it.
        best_on_test: of the candidate that happens to be best on these test rows.
        calls: unique (candidate, row) pairs that it looked at; calls_allowed: those of the reference policy.
    """

    table: str
    policy: str
    seed: int
    test: float
    default: float
    reference: float
    best: float
    best_on_test: float
    calls: int
    calls_allowed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One policy over all re-splits of one table.

    Attributes:
        diff: mean test score minus the reference policy's; diff_se: its standard error over re-splits.
        regret, reference_regret: mean distance to the best candidate of the whole table, on test rows.
        regret_on_test, reference_regret_on_test: to the one that is best on the split's own test rows.
        below, reference_below: share of choices that score below the default on test rows.
    """

    table: str
    policy: str
    n_seeds: int
    test: float
    default: float
    diff: float
    diff_se: float
    regret: float
    reference_regret: float
    regret_on_test: float
    reference_regret_on_test: float
    below: float
    reference_below: float
    calls: float


def judge(
    table: ScoreTable, policies: Mapping[str, Policy], *, reference: Policy, seeds: Sequence[int], n_val: int
) -> Iterator[Run]:
    """Runs of all policies, split by split. A policy may spend what `reference` spent on the same split."""
    whole = {candidate: fmean(scores) for candidate, scores in table.scores_of.items()}
    best = max(table.candidates, key=whole.__getitem__)
    for seed in seeds:
        split = resplit(table.n_rows, n_val=n_val, seed=seed)
        first = Replay(table, split)
        reference_test = first.test_mean(reference(first, seed))
        best_on_test = max(first.test_mean(candidate) for candidate in table.candidates)
        for name, policy in policies.items():
            replay = Replay(table, split, max_calls=first.calls)
            test = replay.test_mean(policy(replay, seed))
            yield Run(
                table=table.name,
                policy=name,
                seed=seed,
                test=test,
                default=replay.test_mean(LIVE),
                reference=reference_test,
                best=replay.test_mean(best),
                best_on_test=best_on_test,
                calls=replay.calls,
                calls_allowed=first.calls,
            )


def verdict(runs: Sequence[Run]) -> Verdict:
    """The verdict on runs of one policy on one table; at least two."""
    diffs = [run.test - run.reference for run in runs]
    return Verdict(
        table=runs[0].table,
        policy=runs[0].policy,
        n_seeds=len(runs),
        test=fmean(run.test for run in runs),
        default=fmean(run.default for run in runs),
        diff=fmean(diffs),
        diff_se=stdev(diffs) / sqrt(len(runs)),
        regret=fmean(run.best - run.test for run in runs),
        reference_regret=fmean(run.best - run.reference for run in runs),
        regret_on_test=fmean(run.best_on_test - run.test for run in runs),
        reference_regret_on_test=fmean(run.best_on_test - run.reference for run in runs),
        below=fmean(_is_below(run.test, run.default) for run in runs),
        reference_below=fmean(_is_below(run.reference, run.default) for run in runs),
        calls=fmean(run.calls for run in runs),
    )


@dataclass(frozen=True, slots=True)
class Overall:
    """One policy over several tables, each with the same weight, taken as fixed: the error is that of the re-splits."""

    pairs: int
    seeds: int
    mean_diff: float
    mean_diff_se: float
    worst_table_diff: float
    regret_ratio: float
    below_default: float
    below_default_dspy: float


def overall(verdicts: Sequence[Verdict]) -> Overall:
    """Sum up verdicts on one policy, one a table."""
    reference_regret = sum(v.reference_regret for v in verdicts)
    return Overall(
        pairs=len(verdicts),
        seeds=min(v.n_seeds for v in verdicts),
        mean_diff=fmean(v.diff for v in verdicts),
        mean_diff_se=sqrt(sum(v.diff_se**2 for v in verdicts)) / len(verdicts),
        worst_table_diff=min(v.diff for v in verdicts),
        regret_ratio=sum(v.regret for v in verdicts) / reference_regret if reference_regret > 0 else 1.0,
        below_default=fmean(v.below for v in verdicts),
        below_default_dspy=fmean(v.reference_below for v in verdicts),
    )


def _is_below(score: float, default: float) -> bool:
    # Means of the same rows in different orders differ in their last bits.
    return score < default - 1e-9

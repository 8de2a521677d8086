"""The replay part of the optimiser's benchmark: which policies are judged, on what, against whom."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.dspy_check import SearchTrace, real_searches, replayed_searches
from benchmarks.dspy_policy import DspyPolicy
from benchmarks.judging import Verdict, judge, verdict
from benchmarks.processes import BenchmarkError
from benchmarks.replay_policies import HalvingPolicy, RacingPolicy, RandomPolicy, TpePolicy
from benchmarks.replays import Policy
from benchmarks.score_tables import ScoreTable, load_table
from benchmarks.synthetic_tables import synthetic_table

OURS = "racing"
N_VAL = 100
REFERENCE = DspyPolicy(num_trials=10, minibatch_size=35, full_eval_steps=5)
"""MIPROv2's own numbers for `auto="light"` with one predictor."""
POLICIES: Mapping[str, Policy] = {
    OURS: RacingPolicy(),
    "racing to the last row": RacingPolicy(settles=False),
    "racing, looks of 4": RacingPolicy(step=4),
    "tpe on common rows": TpePolicy(),
    "halving": HalvingPolicy(),
    "random": RandomPolicy(),
}
_DEVELOPMENT_TABLES = range(50)
_DEVELOPMENT_SEEDS = 4


def replay(folder: Path, *, seeds: int) -> list[Verdict]:
    """Verdicts on all policies, table by table."""
    return [found for table in tables_in(folder) for found in _verdicts(table, range(seeds))]


def develop(*, seeds: int) -> list[Verdict]:
    """Verdicts on made-up tables: few splits of many tables, summed up as if they were one table."""
    runs = [
        replace(run, table="made-up tables")
        for number in _DEVELOPMENT_TABLES
        for run in judge(
            synthetic_table(number, n_rows=300),
            POLICIES,
            reference=REFERENCE,
            seeds=range(min(seeds, _DEVELOPMENT_SEEDS)),
            n_val=N_VAL,
        )
    ]
    return [verdict([run for run in runs if run.policy == name]) for name in POLICIES]


def check(folder: Path, *, seeds: int) -> list[tuple[SearchTrace, SearchTrace]]:
    """Searches of DSPy itself, each beside our replay of it, on the first table or a made-up one."""
    table = tables_in(folder)[0] if any(folder.glob("*.json")) else synthetic_table(_DEVELOPMENT_TABLES[-1] + 1)
    real = real_searches(table, REFERENCE, seeds=range(seeds), n_val=N_VAL)
    return list(zip(real, replayed_searches(table, REFERENCE, seeds=range(seeds), n_val=N_VAL), strict=True))


def tables_in(folder: Path) -> list[ScoreTable]:
    """All tables of a folder, by file name. Raises BenchmarkError when there is none."""
    tables = [load_table(path) for path in sorted(folder.glob("*.json"))]
    if not tables:
        raise BenchmarkError(f"{folder} holds no score tables: make one with `python -m benchmarks.table_maker`.")
    return tables


def _verdicts(table: ScoreTable, seeds: Sequence[int]) -> list[Verdict]:
    started = time.monotonic()
    runs = list(judge(table, POLICIES, reference=REFERENCE, seeds=seeds, n_val=N_VAL))
    print(f"{table.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return [verdict([run for run in runs if run.policy == name]) for name in POLICIES]

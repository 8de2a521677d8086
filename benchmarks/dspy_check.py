"""Whether our replay of DSPy's policy does what DSPy does: the same searches over one table, in its own environment."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.dspy_policy import DspyPolicy
from benchmarks.installs import install_dspy
from benchmarks.processes import BenchmarkError
from benchmarks.replays import Replay
from benchmarks.score_tables import ScoreTable, resplit
from rs_pipelines.mipro.records import Candidate


@dataclass(frozen=True, slots=True)
class SearchTrace:
    """What one search did.

    Attributes:
        evaluations: rows scored, repeated ones included; calls: different (candidate, row) pairs.
    """

    seed: int
    choice: Candidate
    evaluations: int
    calls: int


def real_searches(table: ScoreTable, policy: DspyPolicy, *, seeds: Sequence[int], n_val: int) -> list[SearchTrace]:
    """The searches as DSPy itself makes them. Raises BenchmarkError."""
    request = {
        "scores": table.scores,
        "n_demo_sets": len(table.demo_sets),
        "searches": [(seed, resplit(table.n_rows, n_val=n_val, seed=seed).val) for seed in seeds],
        "num_trials": policy.num_trials,
        "minibatch_size": policy.minibatch_size,
        "full_eval_steps": policy.full_eval_steps,
    }
    command = [str(install_dspy()), str(Path(__file__).with_name("dspy_search.py"))]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"DSPy's search failed:\n{done.stderr[-2000:]}")
    return [
        SearchTrace(answer["seed"], Candidate(*answer["choice"]), answer["evaluations"], answer["calls"])
        for answer in json.loads(done.stdout)
    ]


def replayed_searches(table: ScoreTable, policy: DspyPolicy, *, seeds: Sequence[int], n_val: int) -> list[SearchTrace]:
    """The same searches as we replay them."""
    traces: list[SearchTrace] = []
    for seed in seeds:
        replay = Replay(table, resplit(table.n_rows, n_val=n_val, seed=seed))
        choice = policy.search(replay, sampler_seed=seed, rng=Random(seed))
        traces.append(SearchTrace(seed, choice, replay.evaluations, replay.calls))
    return traces

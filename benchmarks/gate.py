"""How often does the gate publish what it should not, and what it should? Simulated comparisons, judged by the gate.

Run from the repository root: `python -m benchmarks.gate [--runs N] [--json]`. No model and no network; it takes about
a minute. Exit status 1 when a bound is broken.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rs_gateway.domain.prompts import PromptText
from rs_pipelines.gate import SIGNIFICANCE, ComparedRow, GatePolicy, judge

Scores: TypeAlias = npt.NDArray[np.float64]
"""In [0, 1], shape (runs, rows)."""
Kind: TypeAlias = Literal["binary", "graded", "continuous", "sparse"]

MAX_LOSS = 0.05
"""Of the simulated objective `cost`; the default of 0.02 takes more rows than are worth simulating."""
_LIVE, _CANDIDATE = PromptText("live"), PromptText("candidate")
_LIVE_MEAN = 0.6
_GRID = 5
_SPARSE_ROWS = 6
_STANDARD_ERRORS = 3.0
"""By which a simulated share may exceed its bound."""


@dataclass(frozen=True)
class Case:
    """Pairs of prompts of which the second is better by `gain`, on test sets of one size.

    Attributes:
        kind: `binary` scores of 0 and 1; `graded` in steps of 1/5, as of a share of five fields; `continuous`;
            `sparse`, where some 6 rows differ, by little or by everything.
        correlation: of the two prompts' scores on a row, through the row's difficulty; 0: they have nothing in common.
    """

    kind: Kind
    rows: int
    correlation: float
    gain: float = 0.0


@dataclass(frozen=True)
class Share:
    """The share of simulated comparisons that publish. `bound` is the most that may; None where more is better."""

    case: Case
    runs: int
    published: float
    bound: float | None

    @property
    def holds(self) -> bool:
        """Whether the bound holds, Monte Carlo error aside."""
        if self.bound is None:
            return True
        return self.published <= self.bound + _STANDARD_ERRORS * math.sqrt(self.bound * (1 - self.bound) / self.runs)


def same_prompt_cases(sizes: Sequence[int]) -> Iterator[Case]:
    """One prompt against itself: both scores of a row are drawn from the same distribution."""
    for rows in sizes:
        for correlation in (0.0, 0.5, 0.9):
            yield Case("binary", rows, correlation)
            yield Case("graded", rows, correlation)
        yield Case("continuous", rows, 0.5)
        yield Case("sparse", rows, 0.0)


def loss_cases(sizes: Sequence[int]) -> Iterator[Case]:
    """Candidates that are as much worse as the objective `cost` must not let pass."""
    for rows in sizes:
        yield from (Case("binary", rows, correlation, -MAX_LOSS) for correlation in (0.5, 0.9, 1.0))
        yield Case("graded", rows, 0.9, -MAX_LOSS)


def power_cases(sizes: Sequence[int], gains: Sequence[float]) -> Iterator[Case]:
    """Candidates that are better."""
    for kind in ("binary", "graded"):
        yield from (Case(kind, rows, 0.5, gain) for rows in sizes for gain in gains)


def simulate(case: Case, *, runs: int, seed: int = 0) -> Share:
    """The share of `runs` comparisons that the gate publishes: under `cost` where there is a loss, else `quality`."""
    policy = GatePolicy(objective="cost", max_loss=MAX_LOSS) if case.gain < 0 else GatePolicy()
    live, candidate = draw(case, runs=runs, rng=np.random.Generator(np.random.PCG64([seed, case.rows])))
    if case.kind == "binary":
        # The gate sees scores of 0 and 1 by their counts alone, so every pair of counts is judged once.
        won, lost = (candidate > live).sum(axis=1), (candidate < live).sum(axis=1)
        published = sum(_publishes_counts(int(w), int(n), case.rows, policy) for w, n in zip(won, lost, strict=True))
    else:
        worth = np.flatnonzero(worth_a_look(live, candidate, policy=policy))
        published = sum(publishes(live[run], candidate[run], policy=policy, seed=int(run)) for run in worth)
    bound = SIGNIFICANCE if case.gain <= 0 else None
    return Share(case, runs, published / runs, bound)


def draw(case: Case, *, runs: int, rng: np.random.Generator) -> tuple[Scores, Scores]:
    """Scores of live version and candidate."""
    shape = (runs, case.rows)
    if case.kind == "binary":
        changed = _LIVE_MEAN * (1 - _LIVE_MEAN) * (1 - case.correlation)
        won, lost = changed + max(case.gain, 0), changed + max(-case.gain, 0)
        chance = rng.random(shape)
        return (chance >= won).astype(float), ((chance < won) | (chance >= won + lost)).astype(float)
    if case.kind == "sparse":
        sizes = rng.choice([0.125, 1.0], size=shape) * rng.choice([-1, 1], size=shape)
        difference = np.where(rng.random(shape) < _SPARSE_ROWS / case.rows, sizes, 0.0)
        return np.clip(-difference, 0, 1), np.clip(difference, 0, 1)
    difficulty = math.sqrt(case.correlation) * rng.standard_normal(shape)
    live, candidate = (_score(difficulty, case.correlation, rng) for _ in range(2))
    if case.kind == "graded":
        live, candidate = np.round(live * _GRID) / _GRID, np.round(candidate * _GRID) / _GRID
    # The mean is 0.5: making every row right (or wrong) with a chance of 2 |gain| moves it by exactly `gain`.
    moved = rng.random(shape) < 2 * abs(case.gain)
    return live, np.where(moved, float(case.gain > 0), candidate)


def worth_a_look(live: Scores, candidate: Scores, *, policy: GatePolicy) -> npt.NDArray[np.bool_]:
    """Which runs may publish, shape (runs,): those a standard error or more above what must be exceeded."""
    difference = candidate - live
    floor = -policy.max_loss if policy.objective == "cost" else policy.min_gain
    above = difference.mean(axis=1) - floor
    return (above > 0) & (above >= difference.std(axis=1) / math.sqrt(live.shape[1]))


def publishes(live: Scores, candidate: Scores, *, policy: GatePolicy, seed: int) -> bool:
    """The gate's word on one comparison, shape (rows,). The candidate's calls are the cheaper ones."""
    rows = [
        ComparedRow(str(n), "", a, b, "", "", 100, 50, 10, 10)
        for n, (a, b) in enumerate(zip(live.tolist(), candidate.tolist(), strict=True))
    ]
    return judge(rows, live=_LIVE, candidate=_CANDIDATE, policy=policy, seed=seed).publish


@cache
def _publishes_counts(won: int, lost: int, rows: int, policy: GatePolicy) -> bool:
    candidate = np.ones(rows)
    candidate[:lost] = 0
    live = np.ones(rows)
    live[lost : lost + won] = 0
    if not worth_a_look(live[None], candidate[None], policy=policy)[0]:
        return False
    return publishes(live, candidate, policy=policy, seed=0)


def _score(difficulty: Scores, correlation: float, rng: np.random.Generator) -> Scores:
    luck = math.sqrt(1 - correlation) * rng.standard_normal(difficulty.shape)
    return 1 / (1 + np.exp(-2 * (difficulty + luck)))


def table_of_errors(shares: Sequence[Share]) -> str:
    """Markdown: a row for each kind and correlation, a column for each size."""
    sizes = sorted({share.case.rows for share in shares})
    lines = [
        "| scores | correlation | " + " | ".join(f"{n} rows" for n in sizes) + " |",
        "|---|---|" + "---|" * len(sizes),
    ]
    for kind, correlation in dict.fromkeys((s.case.kind, s.case.correlation) for s in shares):
        found = {s.case.rows: s for s in shares if (s.case.kind, s.case.correlation) == (kind, correlation)}
        cells = (f"{found[n].published:.1%}{'' if found[n].holds else ' BROKEN'}" if n in found else "" for n in sizes)
        lines.append(f"| {kind} | {correlation:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_of_power(shares: Sequence[Share]) -> str:
    """Markdown: a row for each kind and size, a column for each gain."""
    gains = sorted({share.case.gain for share in shares})
    lines = ["| scores | rows | " + " | ".join(f"{g:+.2f}" for g in gains) + " |", "|---|---|" + "---|" * len(gains)]
    for kind, rows in dict.fromkeys((s.case.kind, s.case.rows) for s in shares):
        found = {s.case.gain: s for s in shares if (s.case.kind, s.case.rows) == (kind, rows)}
        lines.append(f"| {kind} | {rows} | " + " | ".join(f"{found[g].published:.0%}" for g in gains) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print, and say whether every bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000, help="comparisons a case; ten times as many of 0s and 1s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    began = time.monotonic()

    def run(cases: Iterator[Case], share: float = 1.0) -> list[Share]:
        runs = max(1, round(options.runs * share))
        return [simulate(c, runs=runs * (10 if c.kind == "binary" else 1), seed=options.seed) for c in cases]

    same = run(same_prompt_cases((30, 100, 300)))
    print(f"Published with the same prompt on both sides (at most {SIGNIFICANCE:.1%}):\n\n{table_of_errors(same)}\n")
    worse = run(loss_cases((100, 300, 1000)))
    print(f"Objective cost, published although worse by {MAX_LOSS:g} (at most {SIGNIFICANCE:.1%}):\n")
    print(f"{table_of_errors(worse)}\n")
    power = run(power_cases((50, 100, 200, 400), (0.02, 0.05, 0.1, 0.15, 0.2)), 0.1)
    print(f"Published with a true gain (correlation 0.5, live score {_LIVE_MEAN} or, graded, 0.5):\n")
    print(f"{table_of_power(power)}\n\n{time.monotonic() - began:.0f} s")
    broken = [share for share in (*same, *worse) if not share.holds]
    for share in broken:
        print(f"BROKEN: {share}", file=sys.stderr)
    if options.json:
        print(json.dumps({"same_prompt": _plain(same), "worse": _plain(worse), "power": _plain(power)}))
    return 1 if broken else 0


def _plain(shares: Sequence[Share]) -> list[dict[str, str | float | None]]:
    return [
        {
            "scores": share.case.kind,
            "rows": share.case.rows,
            "correlation": share.case.correlation,
            "gain": share.case.gain,
            "runs": share.runs,
            "published": share.published,
            "bound": share.bound,
        }
        for share in shares
    ]


if __name__ == "__main__":
    sys.exit(main())

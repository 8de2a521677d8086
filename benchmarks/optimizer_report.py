"""What the optimiser's benchmark prints: Markdown tables for people, one JSON object for scripts."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.dspy_check import SearchTrace
from benchmarks.judging import Verdict, overall
from benchmarks.live_runs import LiveRun
from benchmarks.replay_suite import OURS


def replay_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One table a policy: each score table's verdict, then all together."""
    lines: list[str] = []
    for policy in dict.fromkeys(v.policy for v in verdicts):
        own = [v for v in verdicts if v.policy == policy]
        lines += [
            f"\n{policy}, {own[0].n_seeds} re-splits a table",
            "| table | default | DSPy's choice | this policy's | difference (SE) | regret, DSPy's | regret, this one's "
            "| below the default, DSPy's | this one's | calls |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {v.table} | {v.default:.3f} | {v.test - v.diff:.3f} | {v.test:.3f} | {v.diff:+.4f} ({v.diff_se:.4f}) "
            f"| {v.reference_regret:.4f} | {v.regret:.4f} | {v.reference_below:.0%} | {v.below:.0%} | {v.calls:.0f} |"
            for v in own
        ]
        total = overall(own)
        lines.append(
            f"all: difference {total.mean_diff:+.4f} (SE {total.mean_diff_se:.4f}), worst table "
            f"{total.worst_table_diff:+.4f}, regret ratio {total.regret_ratio:.2f}, below the default "
            f"{total.below_default:.1%} (DSPy's {total.below_default_dspy:.1%})"
        )
    return lines


def check_lines(pairs: Sequence[tuple[SearchTrace, SearchTrace]]) -> list[str]:
    """How many searches agree, and what the others did."""
    same = sum(real == replayed for real, replayed in pairs)
    lines = [f"DSPy itself and our replay of its policy: {same} of {len(pairs)} searches are the same"]
    lines += [f"  DSPy {real}\n  ours {replayed}" for real, replayed in pairs if real != replayed]
    return lines


def live_lines(runs: Sequence[LiveRun]) -> list[str]:
    """One line a run, then the means of each pair."""
    lines = [
        "| task | model | seed | default | ours (SE of the difference) | DSPy | calls ours / DSPy "
        "| seconds ours / DSPy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run.task} | {run.model} | {run.seed} | {run.default:.3f} | {run.ours:.3f} ({run.difference_se:.3f}) "
        f"| {run.dspy:.3f} | {run.calls_ours} / {run.calls_dspy} | {run.seconds_ours:.0f} / {run.seconds_dspy:.0f} |"
        for run in runs
    ]
    return lines


def as_json(verdicts: Sequence[Verdict] | None, runs: Sequence[LiveRun] | None) -> str:
    """One line; a part that was not run is null."""
    own = [v for v in verdicts or () if v.policy == OURS]
    names = ("task", "model", "seed", "ours", "dspy", "calls_ours", "calls_dspy")
    return json.dumps(
        {
            "replay": asdict(overall(own)) if own else None,
            "live": None if runs is None else [{name: getattr(run, name) for name in names} for run in runs],
        }
    )

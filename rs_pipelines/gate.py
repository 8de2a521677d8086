"""The gate: what the compared rows show, and whether that is proof enough to publish. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, TypeAlias

from rs_gateway.domain.prompts import PromptText
from rs_pipelines.paired_statistics import mcnemar_p_value, paired_interval

RowOutcome: TypeAlias = Literal["won", "lost", "tied", "missing"]
TestName: TypeAlias = Literal["mcnemar", "bootstrap"]

_SIGNIFICANCE = 0.025
_CHARACTERS_PER_TOKEN = 4
_ROUNDING = 1e-12
"""Sums of differences that cancel out leave about this much."""


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """What counts as a proven gain.

    Attributes:
        min_gain: the interval of the score difference must lie above it; >= 0.
        min_rows: paired test rows below which nothing is proven.
        max_missing: share of test rows that may be missing.
        max_prompt_tokens: mean input tokens of a rendered request, at most; None is no limit.
    """

    min_gain: float = 0.0
    min_rows: int = 30
    max_missing: float = 0.1
    max_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One test row under both prompts. A value is None where the model could not be asked."""

    example_id: str
    expected: str
    live_value: float | None
    candidate_value: float | None
    live_output: str | None
    candidate_output: str | None
    live_tokens: int | None
    candidate_tokens: int | None

    @property
    def outcome(self) -> RowOutcome:
        """For the candidate."""
        if self.live_value is None or self.candidate_value is None:
            return "missing"
        if self.live_value == self.candidate_value:
            return "tied"
        return "won" if self.candidate_value > self.live_value else "lost"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rows show, and whether that is enough.

    Attributes:
        n: rows with both scores; the means, interval and test stand on these.
        interval_low, interval_high: 95 % interval of the difference of the means.
        test: exact McNemar decides scores of 0 and 1, the bootstrap interval all others.
        p_value: one-sided; None for the bootstrap.
        tokens_live, tokens_candidate: mean input tokens of a request; None where the provider did not say.
        reasons: every objection, or the proof in one line when `publish`.
    """

    n: int
    missing: int
    mean_live: float
    mean_candidate: float
    difference: float
    interval_low: float
    interval_high: float
    test: TestName
    p_value: float | None
    won: int
    lost: int
    tokens_live: float | None
    tokens_candidate: float | None
    publish: bool
    reasons: tuple[str, ...]


def judge(
    rows: Sequence[ComparedRow], *, live: PromptText, candidate: PromptText, policy: GatePolicy, seed: int
) -> Verdict:
    """The gate. Pure: the same rows and texts always get the same verdict."""
    pairs = [(r.live_value, r.candidate_value) for r in rows]
    paired = [(a, b) for a, b in pairs if a is not None and b is not None]
    live_values, candidate_values = [a for a, _ in paired], [b for _, b in paired]
    low, high = paired_interval(candidate_values, live_values, seed=seed)
    binary = all(value in (0.0, 1.0) for value in (*live_values, *candidate_values))
    won = sum(b > a for a, b in paired)
    lost = sum(b < a for a, b in paired)
    verdict = Verdict(
        n=len(paired),
        missing=len(rows) - len(paired),
        mean_live=fmean(live_values) if paired else 0.0,
        mean_candidate=fmean(candidate_values) if paired else 0.0,
        difference=fmean(b - a for a, b in paired) if paired else 0.0,
        interval_low=low,
        interval_high=high,
        test="mcnemar" if binary else "bootstrap",
        p_value=mcnemar_p_value(won, lost) if binary else None,
        won=won,
        lost=lost,
        tokens_live=_mean_known(row.live_tokens for row in rows),
        tokens_candidate=_mean_known(row.candidate_tokens for row in rows),
        publish=False,
        reasons=(),
    )
    objections = [
        *_objections_to_text(verdict, live=live, candidate=candidate, policy=policy),
        *_objections_to_rows(verdict, policy=policy),
        *_objections_to_gain(verdict, policy=policy),
    ]
    if objections:
        return replace(verdict, reasons=tuple(objections))
    proof = f"McNemar p = {verdict.p_value:.2g}" if verdict.p_value is not None else "bootstrap"
    gain = f"Proven gain of {verdict.difference:+.3f} on {verdict.n} test rows, 95 % interval {_interval(verdict)}"
    return replace(verdict, publish=True, reasons=(f"{gain}, {proof}.",))


def _objections_to_text(verdict: Verdict, *, live: PromptText, candidate: PromptText, policy: GatePolicy) -> list[str]:
    objections: list[str] = []
    if candidate.content_hash == live.content_hash:
        objections.append("The candidate is the live prompt: there is nothing to publish.")
    dropped = live.placeholders - candidate.placeholders
    if dropped:
        objections.append(f"The candidate drops the variable {', '.join(sorted(dropped))}.")
    tokens = verdict.tokens_candidate
    if tokens is None:
        demos = "".join(demo.user + demo.assistant for demo in candidate.demos)
        tokens = len(candidate.instruction + (candidate.user or "") + demos) / _CHARACTERS_PER_TOKEN
    if policy.max_prompt_tokens is not None and tokens > policy.max_prompt_tokens:
        objections.append(f"The prompt takes {tokens:.0f} tokens; the limit is {policy.max_prompt_tokens}.")
    return objections


def _objections_to_rows(verdict: Verdict, *, policy: GatePolicy) -> list[str]:
    objections: list[str] = []
    total = verdict.n + verdict.missing
    if verdict.n < policy.min_rows:
        objections.append(f"Only {verdict.n} test rows have both scores; {policy.min_rows} are needed.")
    if total and verdict.missing > policy.max_missing * total:
        objections.append(
            f"{verdict.missing} of {total} test rows are missing because the model could not be asked; "
            f"at most {policy.max_missing:.0%} may be: compare again."
        )
    return objections


def _objections_to_gain(verdict: Verdict, *, policy: GatePolicy) -> list[str]:
    seen = f"{verdict.mean_live:.3f} -> {verdict.mean_candidate:.3f}, difference {verdict.difference:+.3f}"
    objections: list[str] = []
    if verdict.p_value is not None and verdict.p_value > _SIGNIFICANCE:
        objections.append(
            f"No proven gain: {seen}; {verdict.won} rows won, {verdict.lost} lost, exact McNemar p = "
            f"{verdict.p_value:.3f} (one-sided; at most {_SIGNIFICANCE} is needed)."
        )
    # For scores of 0 and 1 McNemar decides whether there is a gain; the interval only whether it is large enough.
    decided_by_interval = verdict.p_value is None or policy.min_gain > 0
    if decided_by_interval and verdict.interval_low <= policy.min_gain + _ROUNDING:
        objections.append(
            f"No proven gain: {seen}, 95 % interval {_interval(verdict)}; its lower end must be above "
            f"{policy.min_gain:g}."
        )
    return objections


def _interval(verdict: Verdict) -> str:
    return f"[{verdict.interval_low:+.3f}, {verdict.interval_high:+.3f}]"


def _mean_known(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

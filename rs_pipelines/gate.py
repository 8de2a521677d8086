"""The gate: what the compared rows show, and whether that is proof enough to publish. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, TypeAlias

from rs_gateway.domain.prompts import PromptText
from rs_pipelines.paired_statistics import guarded_low, mcnemar_p_value, paired_interval, sign_flip_p_value

RowOutcome: TypeAlias = Literal["won", "lost", "tied", "missing"]
TestName: TypeAlias = Literal["mcnemar", "sign_flip"]
Objective: TypeAlias = Literal["quality", "cost"]

SIGNIFICANCE = 0.025
"""One-sided: a prompt against itself publishes in at most this share of comparisons."""
_TEST_NAMES = {"mcnemar": "exact McNemar", "sign_flip": "sign-flip test"}
_CHARACTERS_PER_TOKEN = 4
_ROUNDING = 1e-12
"""Sums of differences that cancel out leave about this much."""


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """What counts as proof.

    Attributes:
        objective: `quality` publishes a proven gain; `cost` a prompt that is cheaper and not proven worse than allowed.
        min_gain: the interval of the score difference must lie above it; >= 0.
        min_rows: paired test rows below which nothing is proven.
        max_missing: share of test rows that may be missing.
        max_prompt_tokens: mean input tokens of a rendered request, at most; None is no limit.
        max_loss: how much worse a cheaper candidate may be, at the most, with 97.5 % confidence.
    """

    min_gain: float = 0.0
    min_rows: int = 30
    max_missing: float = 0.1
    max_prompt_tokens: int | None = None
    objective: Objective = "quality"
    max_loss: float = 0.02


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One test row under both prompts. A value is None where the model could not be asked.

    Attributes:
        live_tokens, candidate_tokens: input tokens; None where the provider did not say.
        live_cost_usd, candidate_cost_usd: of the one call; None where the price is unknown.
    """

    example_id: str
    expected: str
    live_value: float | None
    candidate_value: float | None
    live_output: str | None
    candidate_output: str | None
    live_tokens: int | None
    candidate_tokens: int | None
    live_output_tokens: int | None = None
    candidate_output_tokens: int | None = None
    live_cost_usd: float | None = None
    candidate_cost_usd: float | None = None

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
        test, p_value: exact McNemar for scores of 0 and 1, the sign-flip test for all others; one-sided.
        tokens_live, tokens_candidate: mean input tokens of a request; None where the provider did not say.
        reasons: every objection, or the proof in one line when `publish`.
        output_tokens_live, output_tokens_candidate: means, as above.
        cost_usd_live, cost_usd_candidate: mean cost of a call on the rows where both are known; None where none is.
        guarded_low: 97.5 % lower bound of the difference that decides the objective `cost`; None for `quality`.
    """

    n: int
    missing: int
    mean_live: float
    mean_candidate: float
    difference: float
    interval_low: float
    interval_high: float
    test: TestName
    p_value: float
    won: int
    lost: int
    tokens_live: float | None
    tokens_candidate: float | None
    publish: bool
    reasons: tuple[str, ...]
    output_tokens_live: float | None = None
    output_tokens_candidate: float | None = None
    cost_usd_live: float | None = None
    cost_usd_candidate: float | None = None
    guarded_low: float | None = None


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
    costs = _known_pairs((row.live_cost_usd, row.candidate_cost_usd) for row in rows)
    for_cost = policy.objective == "cost"
    verdict = Verdict(
        n=len(paired),
        missing=len(rows) - len(paired),
        mean_live=fmean(live_values) if paired else 0.0,
        mean_candidate=fmean(candidate_values) if paired else 0.0,
        difference=fmean(b - a for a, b in paired) if paired else 0.0,
        interval_low=low,
        interval_high=high,
        test="mcnemar" if binary else "sign_flip",
        p_value=mcnemar_p_value(won, lost) if binary else sign_flip_p_value(candidate_values, live_values, seed=seed),
        won=won,
        lost=lost,
        tokens_live=_mean_known(row.live_tokens for row in rows),
        tokens_candidate=_mean_known(row.candidate_tokens for row in rows),
        publish=False,
        reasons=(),
        output_tokens_live=_mean_known(row.live_output_tokens for row in rows),
        output_tokens_candidate=_mean_known(row.candidate_output_tokens for row in rows),
        cost_usd_live=fmean(a for a, _ in costs) if costs else None,
        cost_usd_candidate=fmean(b for _, b in costs) if costs else None,
        guarded_low=guarded_low(candidate_values, live_values, seed=seed) if for_cost else None,
    )
    saving = _Saving.on(rows, seed=seed) if for_cost else None
    objections = [
        *_objections_to_text(verdict, live=live, candidate=candidate, policy=policy),
        *_objections_to_rows(verdict, policy=policy),
        *(
            _objections_to_gain(verdict, policy=policy)
            if saving is None
            else _objections_to_saving(verdict, saving, policy=policy)
        ),
    ]
    if objections:
        return replace(verdict, reasons=tuple(objections))
    return replace(verdict, publish=True, reasons=(_proof(verdict, saving, policy=policy),))


def _proof(verdict: Verdict, saving: "_Saving | None", *, policy: GatePolicy) -> str:
    if saving is not None:
        return (
            f"Cheaper and not worse by more than {policy.max_loss:g}: {_change(verdict)} on {verdict.n} test rows, "
            f"{verdict.guarded_low:+.3f} at worst; {saving.words}."
        )
    scores = f"{verdict.mean_live:.3f} -> {verdict.mean_candidate:.3f}"
    gain = f"Proven gain of {verdict.difference:+.3f} on {verdict.n} test rows ({scores})"
    return f"{gain}, 95 % interval {_interval(verdict)}, {_TEST_NAMES[verdict.test]} p = {verdict.p_value:.2g}."


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
            f"{verdict.missing} of {total} test rows are missing because the model could not be asked, or the budget "
            f"was spent; at most {policy.max_missing:.0%} may be: run it again, or with a higher limit in `mipro_v2`."
        )
    return objections


def _objections_to_gain(verdict: Verdict, *, policy: GatePolicy) -> list[str]:
    objections: list[str] = []
    if verdict.p_value > SIGNIFICANCE:
        objections.append(
            f"No proven gain: {_change(verdict)}; {verdict.won} rows won, {verdict.lost} lost, "
            f"{_TEST_NAMES[verdict.test]} p = {verdict.p_value:.3f} (one-sided; at most {SIGNIFICANCE} is needed)."
        )
    # For scores of 0 and 1 McNemar decides whether there is a gain; the interval only whether it is large enough.
    # For others both must agree: the interval alone is too sure of itself where few rows differ, and by little or much.
    decided_by_interval = verdict.test != "mcnemar" or policy.min_gain > 0
    if decided_by_interval and verdict.interval_low <= policy.min_gain + _ROUNDING:
        objections.append(
            f"No proven gain: {_change(verdict)}, 95 % interval {_interval(verdict)}; its lower end must be above "
            f"{policy.min_gain:g}."
        )
    return objections


def _objections_to_saving(verdict: Verdict, saving: "_Saving", *, policy: GatePolicy) -> list[str]:
    objections: list[str] = []
    low = min(verdict.interval_low, -1.0 if verdict.guarded_low is None else verdict.guarded_low)
    if low <= -policy.max_loss:
        objections.append(
            f"It may be worse than allowed: {_change(verdict)}, {low:+.3f} at worst (97.5 % bound on {verdict.n} "
            f"rows); it must be above {-policy.max_loss:g} (`evaluation.max_loss`)."
        )
    if saving.unit is None:
        objections.append("Not proven cheaper: the provider does not say how many tokens the calls took.")
    elif not saving.proven:
        objections.append(f"Not proven cheaper: {saving.words}.")
    return objections


@dataclass(frozen=True, slots=True)
class _Saving:
    """How the mean cost of a call changes: in US dollars, or in tokens where the price is unknown or 0.

    Attributes:
        unit: None where not even tokens are known.
        proven: the whole 95 % interval of the change lies below 0.
    """

    unit: Literal["USD", "tokens"] | None
    live: float
    candidate: float
    proven: bool

    @classmethod
    def on(cls, rows: Sequence[ComparedRow], *, seed: int) -> "_Saving":
        usd = _known_pairs((row.live_cost_usd, row.candidate_cost_usd) for row in rows)
        priced = any(a or b for a, b in usd)
        pairs = usd if priced else _known_pairs(_total_tokens(row) for row in rows)
        if not pairs:
            return cls(None, 0.0, 0.0, proven=False)
        live, candidate = [a for a, _ in pairs], [b for _, b in pairs]
        _, high = paired_interval(candidate, live, seed=seed)
        return cls("USD" if priced else "tokens", fmean(live), fmean(candidate), proven=high < 0)

    @property
    def words(self) -> str:
        share = f"{self.candidate / self.live - 1:+.0%}" if self.live else "from nothing"
        if self.unit == "USD":
            return f"{1000 * self.live:.4g} -> {1000 * self.candidate:.4g} USD per 1,000 calls ({share})"
        return f"{self.live:.1f} -> {self.candidate:.1f} input and output tokens a call ({share})"


def _total_tokens(row: ComparedRow) -> tuple[int | None, int | None]:
    counts = (row.live_tokens, row.live_output_tokens, row.candidate_tokens, row.candidate_output_tokens)
    live_in, live_out, candidate_in, candidate_out = counts
    if live_in is None or live_out is None or candidate_in is None or candidate_out is None:
        return None, None
    return live_in + live_out, candidate_in + candidate_out


def _change(verdict: Verdict) -> str:
    return f"{verdict.mean_live:.3f} -> {verdict.mean_candidate:.3f}, difference {verdict.difference:+.3f}"


def _interval(verdict: Verdict) -> str:
    return f"[{verdict.interval_low:+.3f}, {verdict.interval_high:+.3f}]"


def _mean_known(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _known_pairs(pairs: Iterable[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in pairs if a is not None and b is not None]

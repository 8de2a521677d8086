"""What is known before any money is spent: the rows, what they can prove, what it will cost, whether scores mean much.

Pure: `steps.preflight` gathers what goes in.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Literal

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.evaluation import Answer, Evaluator
from rs_gateway.domain.wording import counted
from rs_pipelines.cached_model import CallCost
from rs_pipelines.examples import Gathered
from rs_pipelines.foresight import Needed
from rs_pipelines.gate import GatePolicy
from rs_pipelines.mipro.budget import CallEstimate, StudyPlan
from rs_pipelines.mipro.labels import label_shape
from rs_pipelines.power import (
    LEAST_WINS,
    least_excluded_loss,
    lowest_score,
    rows_to_exclude,
    smallest_excluded_loss,
    smallest_gain,
    smallest_mean_gain,
)
from rs_pipelines.sample import CalibrationSample, Example, Split
from rs_pipelines.scoring import RowScore
from rs_pipelines.spending import Allowance

_SANITY_ROWS = 40
_ASSUMED_SCORE = 0.5
_AGREEMENT = 0.5
"""Assumed of candidate and live version: halfway between unrelated and right wherever the live version is."""
_ASSUMED_SPREAD = 0.3
_PROPOSAL_TOKENS = (1_500, 300)
"""Input and output of one call to the prompt model: its question shows six rows, its answers are cut at 300."""


class PreflightError(RouteSwitchError):
    """An optimisation would cost money and could not prove anything."""

    code = "preflight_refused"

    def __init__(self, template_id: str, objections: Sequence[str]) -> None:
        self.objections = tuple(objections)
        lines = "".join(f"\n  - {objection}" for objection in objections)
        super().__init__(f"Optimising {template_id!r} could not end in a proof:{lines}")


@dataclass(frozen=True, slots=True)
class EvaluatorSanity:
    """Whether the evaluator tells right answers from wrong ones.

    Attributes:
        n: rows looked at.
        mean_right: mean score of the expected answer itself.
        mean_wrong: mean score of another row's expected answer; None where all rows expect the same.
        binary: every score seen is 0 or 1.
    """

    n: int
    mean_right: float
    mean_wrong: float | None
    binary: bool


@dataclass(frozen=True, slots=True)
class LiveProbe:
    """The live prompt on a few validation rows, which the search would ask in any case.

    Attributes:
        values: scores of the rows that were answered; `asked` is how many were tried, as far as the budget went.
        noise: mean difference between the scores of two draws of the same answer; None: not measured, because nothing
            was asked twice, as at temperature 0, or nothing was answered twice.
        input_tokens, output_tokens: means; None where the provider did not say.
        seconds_per_call: at the configured concurrency; None when all answers were in the cache.
        error: of the last row without an answer.
        asked_twice: how many of the rows.
    """

    asked: int
    values: tuple[float, ...]
    noise: float | None
    input_tokens: float | None
    output_tokens: float | None
    seconds_per_call: float | None
    error: str | None = None
    asked_twice: int = 0


@dataclass(frozen=True, slots=True)
class Provable:
    """What the test split can prove with 80 % probability.

    Attributes:
        smallest: the smallest gain or, under the objective `cost`, the smallest `max_loss` that an equally good
            candidate satisfies; None when not even the largest gain is proven.
        best_case: the same if the candidate loses no row; None for graded scores.
        live_score: what it was computed from.
        basis: test and assumptions, in words.
    """

    kind: Literal["gain", "loss"]
    smallest: float | None
    best_case: float | None
    live_score: float
    basis: str


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What search and comparison cost at most, answers in the cache aside. None is unknown."""

    calls: int
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """Whether what may be spent is enough.

    Attributes:
        least: what no gain can be proven without, with a margin.
        planned_calls: those of the whole plan.
        too_few_calls: why the limit on calls is refused; None where it is not.
    """

    allowance: Allowance
    least: Needed
    planned_calls: int
    too_few_calls: str | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """All of it.

    Attributes:
        usable: examples there are; `drawn` of them are in the sample.
        duplicates: labels left out because their input has a better or later one.
        by_provenance: who vouches for the usable examples; test_by_provenance: for the test rows drawn.
        val_used: validation rows that the plan uses; None where nobody asked for a plan.
        judged: whether the evaluator is a judge, which is not checked, for it would have to be paid.
        labels: how often each answer is expected in the sample, when they are a closed list.
        objections: why it is refused, each with its remedy; warnings: what to know all the same.
    """

    template_id: str
    model: str
    usable: int
    drawn: int
    duplicates: int
    by_provenance: Mapping[str, int]
    by_split: Mapping[str, int]
    test_by_provenance: Mapping[str, int]
    labels: Mapping[str, int]
    provable: Provable
    evaluator: EvaluatorSanity | None = None
    live: LiveProbe | None = None
    cost: CostEstimate | None = None
    objections: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    val_used: int | None = None
    judged: bool = False


def check_evaluator(evaluator: Evaluator, examples: Sequence[Example]) -> EvaluatorSanity:
    """Score each expected answer against itself, and against one that another row expects."""
    rows = [e.expected for e in examples[:_SANITY_ROWS]]
    others = [next((o for o in (*rows[n + 1 :], *rows[:n]) if o != expected), None) for n, expected in enumerate(rows)]
    right = [score.value for score in evaluator.score([Answer(expected, expected) for expected in rows])]
    pairs = [Answer(other, expected) for other, expected in zip(others, rows, strict=True) if other is not None]
    wrong = [score.value for score in evaluator.score(pairs)] if pairs else []
    return EvaluatorSanity(
        n=len(rows),
        mean_right=fmean(right) if right else 0.0,
        mean_wrong=fmean(wrong) if wrong else None,
        binary=all(value in (0.0, 1.0) for value in (*right, *wrong)),
    )


def probe_of(first: Sequence[RowScore], again: Sequence[RowScore], *, seconds_per_call: float | None) -> LiveProbe:
    """What two askings say; `again` holds another draw of the first rows, or nothing at temperature 0."""
    answered = [row for row in first if row.value is not None]
    pairs = [(a.value, b.value) for a, b in zip(first, again, strict=False)]
    drawn_twice = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    inputs = [row.input_tokens for row in answered if row.input_tokens is not None]
    outputs = [row.output_tokens for row in answered if row.output_tokens is not None]
    return LiveProbe(
        asked=sum(not row.left_out for row in first),
        values=tuple(row.value for row in answered if row.value is not None),
        noise=fmean(drawn_twice) if drawn_twice else None,
        input_tokens=fmean(inputs) if inputs else None,
        output_tokens=fmean(outputs) if outputs else None,
        seconds_per_call=seconds_per_call,
        error=next((row.error for row in reversed(first) if row.error is not None), None),
        asked_twice=len(again),
    )


def estimate_cost(
    estimate: CallEstimate,
    plan: StudyPlan,
    probe: LiveProbe,
    *,
    longest: float,
    cost_of_call: CallCost,
    cost_of_proposal: CallCost,
) -> CostEstimate:
    """Calls, tokens, dollars and seconds of the whole plan, at most.

    Args:
        longest: how many times as long as the live version's a request with the most demos is; all candidates are taken
            to be as long.
    """
    calls = estimate.total if plan.max_calls is None else min(estimate.total, plan.max_calls)
    seconds = None if probe.seconds_per_call is None else calls * probe.seconds_per_call
    if probe.input_tokens is None or probe.output_tokens is None:
        return CostEstimate(calls, None, None, None, seconds)
    plain, with_demos = round(probe.input_tokens), round(probe.input_tokens * longest)
    out = round(probe.output_tokens)
    compared = estimate.comparison // 2
    # (calls, input tokens of each, output tokens of each, what each costs)
    parts = [
        (estimate.live + estimate.screening + compared, plain, out, cost_of_call(plain, out)),
        (
            estimate.minibatches + estimate.full_evaluations + estimate.failures + compared,
            with_demos,
            out,
            cost_of_call(with_demos, out),
        ),
        (estimate.proposals, *_PROPOSAL_TOKENS, cost_of_proposal(*_PROPOSAL_TOKENS)),
    ]
    made = [part for part in parts if part[0]]
    # A limit on calls cuts all kinds alike.
    cut = calls / estimate.total if estimate.total else 1.0
    unpriced = any(usd is None for *_, usd in made)
    return CostEstimate(
        calls,
        input_tokens=round(cut * sum(n * tokens for n, tokens, _, _ in made)),
        output_tokens=round(cut * sum(n * tokens for n, _, tokens, _ in made)),
        usd=None if unpriced else cut * sum(n * (usd or 0.0) for n, _, _, usd in made),
        seconds=seconds,
    )


def proposals_needed(estimate: CallEstimate, *, cost_of_proposal: CallCost) -> Needed:
    """What the prompt model will take for all its proposals."""
    n, each = estimate.proposals, cost_of_proposal(*_PROPOSAL_TOKENS)
    return Needed(n, n * sum(_PROPOSAL_TOKENS), n * (each or 0.0))


def assess(
    gathered: Gathered,
    sample: CalibrationSample,
    *,
    policy: GatePolicy,
    evaluator: EvaluatorSanity | None = None,
    live: LiveProbe | None = None,
    cost: CostEstimate | None = None,
    budget: BudgetCheck | None = None,
    val_rows: int | None = None,
    judged: bool = False,
) -> Preflight:
    """Put it all together and judge whether the optimisation is worth starting.

    Args:
        val_rows: validation rows that the plan uses at most.
        judged: whether the evaluator is a judge.
    """
    shape = label_shape([e.expected for e in sample.examples])
    counts = Counter(e.expected for e in sample.examples)
    return Preflight(
        template_id=sample.template_id,
        model=sample.model,
        usable=len(gathered.examples),
        drawn=len(sample.examples),
        duplicates=gathered.duplicates,
        by_provenance=_by_provenance(gathered.examples),
        by_split={split.value: len(sample.rows(split)) for split in Split},
        test_by_provenance=_by_provenance(sample.rows(Split.TEST)),
        labels={label: counts[label] for label in shape.closed},
        provable=_provable(len(sample.rows(Split.TEST)), policy=policy, evaluator=evaluator, live=live),
        evaluator=evaluator,
        live=live,
        cost=cost,
        objections=(
            *_objections_to_rows(len(sample.rows(Split.TEST)), policy=policy, live=live),
            *_objections_to_evaluator(evaluator),
            *_objections_to_model(live),
            *_objections_to_budget(budget, cost),
        ),
        warnings=(*_warnings(evaluator, live, n_labels=len(counts)), *_warnings_of_budget(budget, cost)),
        val_used=None if val_rows is None else min(val_rows, len(sample.rows(Split.VAL))),
        judged=judged,
    )


def _provable(
    n_test: int, *, policy: GatePolicy, evaluator: EvaluatorSanity | None, live: LiveProbe | None
) -> Provable:
    values = live.values if live is not None else ()
    # A few rows that are all right do not make a prompt perfect.
    score = (sum(values) + 2 * _ASSUMED_SCORE) / (len(values) + 2)
    known = f"live score from {len(values)} rows" if values else f"a live score of {score:g} is assumed"
    noise = (live.noise if live is not None else None) or 0.0
    binary = (evaluator is None or evaluator.binary) and all(value in (0.0, 1.0) for value in values)
    agreement = _AGREEMENT
    # Noise alone changes half of `noise` to the better and half to the worse.
    own_changes = 2 * score * (1 - score)
    if own_changes > 0 and noise > 0:
        agreement = min(agreement, max(0.0, 1 - noise / own_changes))
    if binary:
        spread = math.sqrt(own_changes * (1 - agreement))
    else:
        spread = max(math.sqrt(2 * (1 - _AGREEMENT)) * (pstdev(values) if len(values) > 2 else _ASSUMED_SPREAD), noise)
    if policy.objective == "cost":
        smallest = smallest_excluded_loss(n_test, spread=spread) if n_test else None
        return Provable("loss", smallest, least_excluded_loss(n_test), score, f"normal approximation, {known}")
    if not n_test:
        return Provable("gain", None, None, score, known)
    if binary and not policy.min_gain:
        smallest = smallest_gain(n_test, live=score, agreement=agreement)
        best = smallest_gain(n_test, live=score, agreement=1.0)
        return Provable("gain", smallest, best, score, f"exact McNemar, {known}")
    mean_gain = smallest_mean_gain(n_test, spread=spread, min_gain=policy.min_gain)
    return Provable(
        "gain", mean_gain if mean_gain <= 1 - score else None, None, score, f"normal approximation, {known}"
    )


def _objections_to_rows(n_test: int, *, policy: GatePolicy, live: LiveProbe | None) -> list[str]:
    more = "Label more answers (POST /v1/feedback) or import rows with `split: test`"
    if n_test < policy.min_rows:
        return [f"The test split has {n_test} rows; `evaluation.min_test_rows` wants {policy.min_rows}. {more}."]
    if policy.objective == "cost":
        least = least_excluded_loss(n_test)
        if least < policy.max_loss:
            return []
        return [
            f"{n_test} test rows cannot rule out a loss of {policy.max_loss:g}, even without one row lost: at "
            f"least {rows_to_exclude(policy.max_loss)} are needed. {more}, or raise `evaluation.max_loss` above "
            f"{least:.3f}."
        ]
    values = live.values if live is not None else ()
    lowest = lowest_score(sum(values), len(values))
    to_win = math.floor(n_test * (1 - lowest))
    if to_win >= LEAST_WINS and 1 - lowest > policy.min_gain:
        return []
    return [
        f"The live prompt is right on {sum(values):g} of {len(values)} rows, which leaves at most {to_win} of {n_test} "
        f"test rows to win; a proof takes at least {LEAST_WINS}"
        + (f" and a gain above {policy.min_gain:g}" if policy.min_gain else "")
        + f". {more}, difficult ones above all, or aim at cost: `evaluation.objective: cost`."
    ]


def _objections_to_evaluator(evaluator: EvaluatorSanity | None) -> list[str]:
    if evaluator is None or evaluator.mean_wrong is None or evaluator.mean_right > evaluator.mean_wrong:
        return []
    return [
        f"The evaluator cannot tell right from wrong: expected answers score {evaluator.mean_right:.3f}, those of "
        f"other rows {evaluator.mean_wrong:.3f} ({evaluator.n} rows). Give the template another `evaluator`, or mend "
        "its options."
    ]


def _objections_to_model(live: LiveProbe | None) -> list[str]:
    if live is None or live.values or not live.asked:
        return []
    return [
        f"The model gave no answer to {counted(live.asked, 'row')} ({live.error}). `route-switch check --live` says "
        "how to mend that."
    ]


def _warnings(evaluator: EvaluatorSanity | None, live: LiveProbe | None, *, n_labels: int) -> list[str]:
    found: list[str] = []
    if n_labels == 1:
        found.append("All rows expect the same answer: nothing can be learnt from them.")
    if evaluator is not None and evaluator.mean_right < 1:
        found.append(
            f"The expected answers themselves score {evaluator.mean_right:.3f}, not 1: no prompt can do better."
        )
    if live is not None and live.noise is not None and live.noise > 0.05:
        found.append(
            f"The live prompt differs from itself by {live.noise:.3f}: temperature 0 would prove smaller gains."
        )
    return found


def _objections_to_budget(budget: BudgetCheck | None, cost: CostEstimate | None) -> list[str]:
    if budget is None:
        return []
    limits, least = budget.allowance, budget.least
    if budget.too_few_calls is not None:  # then nothing was asked, and what tokens and dollars it takes is not known
        return [budget.too_few_calls]
    found: list[str] = []
    if limits.tokens is not None and limits.tokens < least.tokens:
        found.append(_too_small("max_tokens", f"{limits.tokens:,}", f"{least.tokens:,} tokens", _tokens_of(cost)))
    if limits.usd is not None and limits.usd < least.usd:
        most = None if cost is None or cost.usd is None else f"{cost.usd:.4g}"
        found.append(_too_small("max_cost_usd", f"{limits.usd:.4g}", f"{least.usd:.4g} USD", most))
    return found


def _too_small(setting: str, limit: str, least: str, most: str | None) -> str:
    whole = "" if most is None else f" The whole plan takes at most about {most}."
    return (
        f"`mipro_v2.{setting}` is {limit}, but evaluating the live version, making candidates, seeing one of them "
        f"often enough to choose it, and comparing on the test rows take about {least}.{whole}"
    )


def _warnings_of_budget(budget: BudgetCheck | None, cost: CostEstimate | None) -> list[str]:
    if budget is None or cost is None:
        return []
    limits, found = budget.allowance, list[str]()
    if limits.calls is not None and budget.too_few_calls is None and limits.calls < budget.planned_calls:
        found.append(_cut_short("max_calls", limits.calls / budget.planned_calls))
    if cost.input_tokens is not None and cost.output_tokens is not None and limits.tokens is not None:
        most = cost.input_tokens + cost.output_tokens
        if budget.least.tokens <= limits.tokens < most:
            found.append(_cut_short("max_tokens", limits.tokens / most))
    if cost.usd and limits.usd is not None and budget.least.usd <= limits.usd < cost.usd:
        found.append(_cut_short("max_cost_usd", limits.usd / cost.usd))
    return found


def _cut_short(setting: str, share: float) -> str:
    return f"`mipro_v2.{setting}` covers {share:.0%} of what the plan may take: the search may end early."


def _tokens_of(cost: CostEstimate | None) -> str | None:
    if cost is None or cost.input_tokens is None or cost.output_tokens is None:
        return None
    return f"{cost.input_tokens + cost.output_tokens:,}"


def _by_provenance(examples: Sequence[Example]) -> dict[str, int]:
    return dict(sorted(Counter(e.provenance for e in examples).items()))

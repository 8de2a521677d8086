"""What is known before any money is spent: the rows, what they can prove, what it will cost, whether scores mean much.

Pure: `steps.preflight` gathers what goes in.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.wording import counted
from rs_pipelines.cost_estimate import CostEstimate
from rs_pipelines.evaluator_sanity import EvaluatorSanity
from rs_pipelines.examples import Gathered
from rs_pipelines.foresight import Needed
from rs_pipelines.gate import GatePolicy
from rs_pipelines.live_probe import LiveProbe
from rs_pipelines.mipro.labels import label_shape
from rs_pipelines.power import LEAST_WINS, least_excluded_loss, lowest_score, rows_to_exclude
from rs_pipelines.provable import Provable, provable
from rs_pipelines.sample import CalibrationSample, Example, Split
from rs_pipelines.spending import Allowance


class PreflightError(RouteSwitchError):
    """An optimisation would cost money and could not prove anything."""

    code = "preflight_refused"

    def __init__(self, template_id: str, objections: Sequence[str]) -> None:
        self.objections = tuple(objections)
        lines = "".join(f"\n  - {objection}" for objection in objections)
        super().__init__(f"Optimising {template_id!r} could not end in a proof:{lines}")


class SilentModelError(PreflightError):
    """Nothing stands against the optimisation but that this model answers nothing."""


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
    warnings: tuple[str, ...] = ()
    val_used: int | None = None
    judged: bool = False

    @property
    def refusal(self) -> PreflightError | None:
        """What the objections amount to; None where there are none."""
        if not self.objections:
            return None
        is_silent = self.objections == tuple(_objections_to_model(self.live))
        return (SilentModelError if is_silent else PreflightError)(self.template_id, self.objections)


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
        provable=provable(len(sample.rows(Split.TEST)), policy=policy, evaluator=evaluator, live=live),
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

"""Which model for a template: quality with its interval, cost and latency, from scores on the same test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, quantiles

from rs_pipelines.paired_statistics import paired_interval


@dataclass(frozen=True, slots=True)
class Tried:
    """A model with the prompt that was tuned for it, on the shared test rows.

    Attributes:
        prompt_hash: content hash of that prompt; is_live: whether it is the live version, because nothing better was
            found or nothing was searched.
        values: score of each test row in [0, 1], None where there was no answer; the same rows for every model.
        usd_per_1000_calls: None where the price is unknown; input_tokens, output_tokens: of an average call.
        latencies_s: of calls made one after the other, past the answer cache.
    """

    model: str
    prompt_hash: str
    is_live: bool
    values: tuple[float | None, ...]
    usd_per_1000_calls: float | None
    input_tokens: float | None
    output_tokens: float | None
    latencies_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """What is said of one model.

    Attributes:
        mean: over the rows that it answered; low, high: 95 % interval of it.
        behind: mean difference from the best model, on rows that both answered; 0 for the best. behind_low: the lower
            end of its 95 % interval, paired by rows.
        within_bound: whether that is above the quality bound.
        on_front: whether no other model is at least as good and as cheap, and better in one of them.
        p50_s, p95_s: latency; None when nothing was timed.
    """

    model: str
    prompt_hash: str
    is_live: bool
    answered: int
    mean: float
    low: float
    high: float
    behind: float
    behind_low: float
    within_bound: bool
    on_front: bool
    usd_per_1000_calls: float | None
    input_tokens: float | None
    output_tokens: float | None
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class BestModel:
    """The whole comparison.

    Attributes:
        quality_bound: how much worse than the best a model may be, at the worst, and still count.
        models: the best first.
        cheapest_within_bound: None only when the costs of those within it are unknown.
        cost_basis: `usd`, or `tokens` where a price is missing.
        transfer: model that a prompt was tuned for -> model that it ran on -> mean score; None where it did not run on
            all rows.
        unfinished: model whose budget ended too early -> why, and what to do. Of these, `models` has those whose own
            prompt has run on all rows.
        failed: model that answered too little to be tuned, or no test row at all -> why. None of them is in `models`.
        test_by_provenance: who vouches for the test rows; left_out_by_provenance: for those that not every model may be
            judged by, such as a teacher's labels when its own model is among them.
    """

    template_id: str
    n_test: int
    quality_bound: float
    best: str
    cheapest_within_bound: str | None
    cost_basis: str
    models: tuple[Ranked, ...]
    transfer: Mapping[str, Mapping[str, float | None]]
    model_calls: int
    unfinished: Mapping[str, str] = field(default_factory=dict[str, str])
    failed: Mapping[str, str] = field(default_factory=dict[str, str])
    test_by_provenance: Mapping[str, int] = field(default_factory=dict[str, int])
    left_out_by_provenance: Mapping[str, int] = field(default_factory=dict[str, int])


def rank(
    tried: Sequence[Tried],
    *,
    template_id: str,
    quality_bound: float,
    transfer: Mapping[str, Mapping[str, float | None]],
    model_calls: int,
    seed: int,
) -> BestModel:
    """Put the models side by side.

    Args:
        tried: at least one, all on the same rows.

    Raises:
        ValueError: a model answered no row at all.
    """
    means = {one.model: _mean(one.values) for one in tried}
    best = max(tried, key=lambda one: means[one.model])
    basis = "usd" if all(one.usd_per_1000_calls is not None for one in tried) else "tokens"
    costs = {one.model: _cost(one, basis) for one in tried}
    ranked = sorted(
        (_ranked(one, best, tried, means, costs, bound=quality_bound, seed=seed) for one in tried),
        key=lambda one: (-one.mean, costs[one.model] if costs[one.model] is not None else float("inf"), one.model),
    )
    within = [(cost, one.model) for one in ranked if one.within_bound and (cost := costs[one.model]) is not None]
    return BestModel(
        template_id=template_id,
        n_test=len(best.values),
        quality_bound=quality_bound,
        best=best.model,
        cheapest_within_bound=min(within)[1] if within else None,
        cost_basis=basis,
        models=tuple(ranked),
        transfer=transfer,
        model_calls=model_calls,
    )


def _ranked(
    one: Tried,
    best: Tried,
    tried: Sequence[Tried],
    means: Mapping[str, float],
    costs: Mapping[str, float | None],
    *,
    bound: float,
    seed: int,
) -> Ranked:
    present = [value for value in one.values if value is not None]
    low, high = paired_interval(present, [0.0] * len(present), seed=seed)
    pairs = [(a, b) for a, b in zip(one.values, best.values, strict=True) if a is not None and b is not None]
    behind, behind_low = 0.0, 0.0
    if one is not best:
        own, others = [a for a, _ in pairs], [b for _, b in pairs]
        behind = fmean(a - b for a, b in pairs) if pairs else -1.0
        behind_low, _ = paired_interval(own, others, seed=seed)
    p50_s, p95_s = _percentiles(one.latencies_s)
    return Ranked(
        model=one.model,
        prompt_hash=one.prompt_hash,
        is_live=one.is_live,
        answered=len(present),
        mean=means[one.model],
        low=max(0.0, low),
        high=min(1.0, high),
        behind=behind,
        behind_low=behind_low,
        within_bound=behind_low > -bound,
        on_front=not any(_dominates(other, one, means, costs) for other in tried),
        usd_per_1000_calls=one.usd_per_1000_calls,
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        p50_s=p50_s,
        p95_s=p95_s,
    )


def _dominates(other: Tried, one: Tried, means: Mapping[str, float], costs: Mapping[str, float | None]) -> bool:
    theirs, mine = costs[other.model], costs[one.model]
    if theirs is None or mine is None:
        return False
    better, cheaper = means[other.model] - means[one.model], mine - theirs
    return better >= 0 and cheaper >= 0 and (better > 0 or cheaper > 0)


def _mean(values: Sequence[float | None]) -> float:
    present = [value for value in values if value is not None]
    if not present:
        raise ValueError("no test row was answered")
    return fmean(present)


def _cost(one: Tried, basis: str) -> float | None:
    if basis == "usd":
        return one.usd_per_1000_calls
    if one.input_tokens is None or one.output_tokens is None:
        return None
    return one.input_tokens + one.output_tokens


def _percentiles(latencies_s: Sequence[float]) -> tuple[float | None, float | None]:
    if len(latencies_s) < 2:  # a percentile of one value is that value
        only = latencies_s[0] if latencies_s else None
        return only, only
    cuts = quantiles(latencies_s, n=20, method="inclusive")
    return cuts[9], cuts[18]

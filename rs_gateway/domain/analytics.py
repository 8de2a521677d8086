"""What the live figures say over a window of time, as a whole and by what answered."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rs_gateway.domain.sketch import Sketch
from rs_gateway.domain.stats import MINUTE_S, Figures, StatsKey, StatsRow
from rs_gateway.domain.traces import Outcome

WINDOWS: Mapping[str, int | None] = {"5m": 300, "1h": 3_600, "24h": 86_400, "all": None}
"""Every window that can be asked for, in seconds; None is since the store began."""

_ANSWERED = (Outcome.COMPLETE, Outcome.TRUNCATED, Outcome.CONTENT_FILTERED)
_FAILED = (Outcome.PROVIDER_CUT, Outcome.PROVIDER_ERROR)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of durations, in seconds; all None when there were none. p50 to p99 are within the sketch's error."""

    p50: float | None
    p95: float | None
    p99: float | None
    mean: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Sums over the requests whose usage is known or estimated.

    Attributes:
        cached_input, cache_write: those of `input`; reasoning: those of `output`.
    """

    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What can be said of some requests.

    Attributes:
        success_rate: answered requests among those that a provider answered or failed at; None when there were none.
            What was rejected before a provider saw it, or cancelled by its client, says nothing about either.
        cost_usd: of the requests with a known price; None when no price was known.
        unpriced_requests: requests that got something from a provider at a price that is unknown.
        usage_estimated_requests, usage_unknown_requests: their tokens were estimated, or are missing from the sums.
        unparsable_answers: requests with an answer that was not in its version's output format.
        retries, fallbacks: further attempts on the same combination, and moves to another one.
    """

    requests: int
    outcomes: Mapping[str, int]
    error_classes: Mapping[str, int]
    success_rate: float | None
    latency_s: Percentiles
    time_to_first_token_s: Percentiles
    tokens: Tokens
    cost_usd: float | None
    unpriced_requests: int
    usage_estimated_requests: int
    usage_unknown_requests: int
    unparsable_answers: int
    retries: int
    fallbacks: int


Group = TypeVar("Group", bound=tuple[object, ...])


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One window: everything, and the same by what it consists of. Each list begins with the most requests.

    Attributes:
        templates: (template_id,); versions: (template_id, version); combinations: (combination_id, template_id);
            models: (provider, model); endpoints: (endpoint,). None: requests that were never matched to one.
    """

    overall: Summary
    templates: Sequence[tuple[tuple[str | None], Summary]]
    versions: Sequence[tuple[tuple[str | None, int | None], Summary]]
    combinations: Sequence[tuple[tuple[str | None, str | None], Summary]]
    models: Sequence[tuple[tuple[str | None, str | None], Summary]]
    endpoints: Sequence[tuple[tuple[str], Summary]]


def since(window: str, *, now_s: float) -> int | None:
    """Where a window of `WINDOWS` begins, on the whole minute at or before it; None: with the store."""
    length_s = WINDOWS[window]
    return None if length_s is None else int((now_s - length_s) // MINUTE_S) * MINUTE_S


def break_down(rows: Sequence[StatsRow]) -> Breakdown:
    """Everything about the requests that `rows` count."""
    # Many minutes of few keys: each minute is added up once, the keys once for every way to group them.
    by_key: dict[StatsKey, Figures] = {}
    for row in rows:
        by_key.setdefault(row.key, Figures()).merge(row.figures)
    return Breakdown(
        overall=summarise(by_key.values()),
        templates=_grouped(by_key, lambda key: (key.template_id,)),
        versions=_grouped(by_key, lambda key: (key.template_id, key.version)),
        combinations=_grouped(by_key, lambda key: (key.combination_id, key.template_id)),
        models=_grouped(by_key, lambda key: (key.provider, key.model)),
        endpoints=_grouped(by_key, lambda key: (key.endpoint,)),
    )


def summarise(parts: Iterable[Figures]) -> Summary:
    """All of these figures together."""
    whole = Figures()
    for part in parts:
        whole.merge(part)
    answered = sum(whole.outcomes.get(outcome, 0) for outcome in _ANSWERED)
    judged = answered + sum(whole.outcomes.get(outcome, 0) for outcome in _FAILED)
    return Summary(
        requests=whole.requests,
        outcomes=dict(sorted(whole.outcomes.items())),
        error_classes=dict(sorted(whole.errors.items())),
        success_rate=answered / judged if judged else None,
        latency_s=_percentiles(whole.latency),
        time_to_first_token_s=_percentiles(whole.first_token),
        tokens=Tokens(
            input=whole.input_tokens,
            output=whole.output_tokens,
            cached_input=whole.cached_input_tokens,
            cache_write=whole.cache_write_tokens,
            reasoning=whole.reasoning_tokens,
        ),
        cost_usd=whole.cost_usd if whole.priced else None,
        unpriced_requests=whole.unpriced,
        usage_estimated_requests=whole.usage_estimated,
        usage_unknown_requests=whole.usage_unknown,
        unparsable_answers=whole.unparsable,
        retries=whole.retries,
        fallbacks=whole.fallbacks,
    )


def _grouped(by_key: Mapping[StatsKey, Figures], group_of: Callable[[StatsKey], Group]) -> list[tuple[Group, Summary]]:
    groups: dict[Group, list[Figures]] = {}
    for key, figures in by_key.items():
        groups.setdefault(group_of(key), []).append(figures)
    summaries = [(group, summarise(parts)) for group, parts in groups.items()]
    return sorted(summaries, key=lambda item: (-item[1].requests, [str(part) for part in item[0]]))


def _percentiles(sketch: Sketch) -> Percentiles:
    p50, p95, p99 = sketch.quantiles((0.5, 0.95, 0.99))
    return Percentiles(p50, p95, p99, sketch.mean(), sketch.max_s if sketch.count else None)

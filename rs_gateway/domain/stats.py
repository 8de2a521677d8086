"""Live figures: what is counted of every request, whatever is stored of it, added up by minute, by hour and in all."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from rs_gateway.domain.sketch import Sketch
from rs_gateway.domain.traces import Attempt, Outcome, Trace, UsageSource

MINUTE_S, HOUR_S, ALL_TIME = 60, 3_600, 0
"""The periods over which figures are kept, in seconds; `ALL_TIME` is one period without an end that starts at 0."""
KEPT_S = 25 * HOUR_S
"""How long the figures of a minute or an hour are kept; those of all time stay."""

_MOST_TOKENS = 10**12
_NOTHING_DELIVERED = (Outcome.REJECTED, Outcome.PROVIDER_ERROR)

StatsParts: TypeAlias = tuple[str | None, int | None, str | None, str | None, str | None, str]


class StatsKey(NamedTuple):
    """What figures are kept apart by. None: the request was never matched to one."""

    template_id: str | None
    version: int | None
    combination_id: str | None
    provider: str | None
    model: str | None
    endpoint: str


@dataclass(slots=True)
class Figures:
    """The figures of some requests. Changed in place; the owner sees to it that one thread does.

    Attributes:
        outcomes, errors: outcome, stable error code -> requests that ended with it.
        retries: further attempts on the same combination; fallbacks: moves to another one.
        cached_input_tokens, cache_write_tokens: those of `input_tokens`; reasoning_tokens: those of `output_tokens`.
        usage_estimated, usage_unknown: requests whose tokens were estimated, or are in no sum.
        unparsable: requests with an answer that was not in its version's output format.
        cost_usd: of the `priced` requests; `unpriced` got something from a provider at a price that is unknown.
        latency: until the last byte, of every request; first_token: of streams that began.
    """

    requests: int = 0
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    errors: dict[str, int] = field(default_factory=dict[str, int])
    retries: int = 0
    fallbacks: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: int = 0
    usage_unknown: int = 0
    unparsable: int = 0
    cost_usd: float = 0.0
    priced: int = 0
    unpriced: int = 0
    latency: Sketch = field(default_factory=Sketch)
    first_token: Sketch = field(default_factory=Sketch)

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> "Figures":
        """The figures of these requests."""
        # Comprehensions, because every request of a busy gateway passes here.
        usages = [trace.usage for trace in traces]
        sources = Counter([usage.source for usage in usages])
        costs = [cost for trace in traces if (cost := trace.cost_usd) is not None]
        figures = cls(
            requests=len(traces),
            outcomes={outcome.value: n for outcome, n in Counter([trace.outcome for trace in traces]).items()},
            errors=dict(Counter([code for trace in traces if (code := trace.error_code) is not None])),
            input_tokens=_sum([usage.input_tokens for usage in usages]),
            output_tokens=_sum([usage.output_tokens for usage in usages]),
            cached_input_tokens=_sum([usage.cached_input_tokens for usage in usages]),
            cache_write_tokens=_sum([usage.cache_write_tokens for usage in usages]),
            reasoning_tokens=_sum([usage.reasoning_tokens for usage in usages]),
            usage_estimated=sources[UsageSource.ESTIMATED],
            usage_unknown=sources[UsageSource.UNKNOWN],
            unparsable=sum([trace.parsed is False for trace in traces]),
            cost_usd=sum(costs),
            priced=len(costs),
        )
        if len(costs) < len(traces):
            figures.unpriced = sum(t.cost_usd is None and t.outcome not in _NOTHING_DELIVERED for t in traces)
        figures.latency.add_all([trace.latency_s for trace in traces])
        figures.first_token.add_all(
            [first_s for trace in traces if (first_s := trace.time_to_first_token_s) is not None]
        )
        for attempts in [attempts for trace in traces if len(attempts := trace.attempts) > 1]:
            figures._count_attempts(attempts)
        return figures

    def _count_attempts(self, attempts: tuple[Attempt, ...]) -> None:
        for before, after in itertools.pairwise(attempts):
            if before.combination_id == after.combination_id:
                self.retries += 1
            else:
                self.fallbacks += 1

    def merge(self, other: "Figures") -> None:
        """Count all that `other` counted."""
        self.requests += other.requests
        for mine, others in ((self.outcomes, other.outcomes), (self.errors, other.errors)):
            for name, n in others.items():
                mine[name] = mine.get(name, 0) + n
        self.retries += other.retries
        self.fallbacks += other.fallbacks
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.usage_estimated += other.usage_estimated
        self.usage_unknown += other.usage_unknown
        self.unparsable += other.unparsable
        self.cost_usd += other.cost_usd
        self.priced += other.priced
        self.unpriced += other.unpriced
        self.latency.merge(other.latency)
        self.first_token.merge(other.first_token)


@dataclass(frozen=True, slots=True)
class StatsRow:
    """The figures of one key over one period.

    Attributes:
        period_s: `MINUTE_S`, `HOUR_S` or `ALL_TIME`.
        start_s: where the period begins, in seconds since the epoch, UTC.
    """

    period_s: int
    start_s: int
    key: StatsKey
    figures: Figures


class StatsReader(Protocol):
    """Where live figures are read; as fresh as the last commit of every process that shares the store."""

    def stats(self, *, since_s: int | None, template_id: str | None = None) -> list[StatsRow]:
        """Rows that together count every request once that ended at or after `since_s`; None: all there ever were.

        Args:
            since_s: seconds since the epoch, a whole minute, not more than `KEPT_S` ago.
            template_id: only this template's.
        """
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class TemplateFigures(Protocol):
    """All that a store counts of one template, as rows of every period: minutes, hours and all time."""

    def read(self, template_id: str) -> list[StatsRow]:
        """Every row of a template. Raises SchemaTooNewError, StoreError."""
        ...

    def replace(self, template_id: str, rows: Sequence[StatsRow]) -> None:
        """Make these rows all that is counted of a template, in one transaction. Gateways may be writing.

        Raises:
            SchemaTooNewError, StoreError: the store cannot be written; nothing was changed.
        """
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class Tally:
    """The requests of one batch, added up key by key before anything is written."""

    def __init__(self) -> None:
        self._traces: list[Trace] = []

    def add(self, trace: Trace) -> None:
        """Count a request."""
        self._traces.append(trace)

    def merge(self, other: "Tally") -> None:
        """Count all that `other` counted."""
        self._traces.extend(other._traces)

    def rows(self) -> Iterator[StatsRow]:
        """What to add to the stored figures: of each minute, of each hour and of all time, each key once.

        A request counts in the minute in which it ended. Raises ValueError, OverflowError: one has no such minute.
        """
        groups: defaultdict[tuple[float, StatsParts], list[Trace]] = defaultdict(list)
        for trace in self._traces:
            ended_in = (trace.started_at + trace.latency_s) // MINUTE_S
            parts = (
                trace.template_id,
                trace.version,
                trace.combination_id,
                trace.provider,
                trace.model,
                trace.endpoint,
            )
            groups[ended_in, parts].append(trace)
        sums: dict[tuple[int, int, StatsKey], Figures] = {}
        for (ended_in, parts), traces in groups.items():
            figures, key, minute_s = Figures.of(traces), StatsKey(*parts), int(ended_in) * MINUTE_S
            for period_s in (MINUTE_S, HOUR_S, ALL_TIME):
                start_s = minute_s // period_s * period_s if period_s else 0
                sums.setdefault((period_s, start_s, key), Figures()).merge(figures)
        for (period_s, start_s, key), figures in sums.items():
            yield StatsRow(period_s, start_s, key, figures)


def _sum(counts: Iterable[int | None]) -> int:
    # A provider that reports absurd counts must not make the sums unusable for good.
    return min(sum(filter(None, counts)), _MOST_TOKENS)


def hour_after(second: int) -> int:
    """The first whole hour at or after `second`: from there on, hours stand for minutes."""
    return -(-second // HOUR_S) * HOUR_S

"""Live figures in Prometheus' text formats.

The figures of all time are the counters: every worker shows the same ones, whichever of them is scraped, and a restart
does not reset them. Only what begins with `route_switch_trace` is the answering process' own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rs_gateway.domain.ports import StoreHealth
from rs_gateway.domain.sketch import Sketch
from rs_gateway.domain.stats import Figures, StatsKey, StatsRow

_LABELS = ("template", "version", "combination", "provider", "model", "endpoint")
_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class Readings:
    """What is shown.

    Attributes:
        rows: the figures of all time; None when they cannot be read now.
        health: of the answering process' own trace writer.
        version: of this program.
    """

    rows: Sequence[StatsRow] | None
    health: StoreHealth
    version: str


def exposition(readings: Readings, *, accept: str) -> tuple[bytes, str]:
    """The body and its content type, in the format that the scraper's `accept` header asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(_Readings(readings)), content_type


class _Readings(Collector):
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        yield from _process(self._readings)
        rows = [(_labels(row.key), row.figures) for row in self._readings.rows or ()]
        yield from _requests(rows)
        yield from _usage(rows)
        yield _histogram(
            "request_duration_seconds", "Until the last byte.", [(labels, f.latency) for labels, f in rows]
        )
        yield _histogram(
            "time_to_first_token_seconds",
            "Until the first byte of a stream.",
            [(labels, f.first_token) for labels, f in rows],
        )


def _process(readings: Readings) -> Iterator[Metric]:
    build = GaugeMetricFamily("route_switch_build_info", "Which version answers.", labels=["version"])
    build.add_metric([readings.version], 1)
    yield build
    works = readings.health.ok and readings.rows is not None
    yield GaugeMetricFamily("route_switch_trace_store_up", "1: the trace store can be written and read.", value=works)
    yield GaugeMetricFamily(
        "route_switch_trace_queue_rows", "Records that wait for their commit.", value=readings.health.queued
    )
    yield CounterMetricFamily(
        "route_switch_traces_dropped", "Traces that could not be stored.", value=readings.health.dropped
    )


def _requests(rows: Iterable[tuple[list[str], Figures]]) -> Iterator[Metric]:
    requests = _counter("requests", "Requests that ended.", "outcome")
    errors = _counter("errors", "Requests that ended with this error.", "code")
    retries = _counter("retries", "Further attempts on the same combination.")
    fallbacks = _counter("fallbacks", "Moves from the chosen combination to another one.")
    unparsable = _counter("unparsable_answers", "Requests with an answer that was not in its version's output format.")
    for labels, figures in rows:
        for outcome, n in sorted(figures.outcomes.items()):
            requests.add_metric([*labels, outcome], n)
        for code, n in sorted(figures.errors.items()):
            errors.add_metric([*labels, code], n)
        retries.add_metric(labels, figures.retries)
        fallbacks.add_metric(labels, figures.fallbacks)
        unparsable.add_metric(labels, figures.unparsable)
    yield from (requests, errors, retries, fallbacks, unparsable)


def _usage(rows: Iterable[tuple[list[str], Figures]]) -> Iterator[Metric]:
    tokens = _counter("tokens", "Cached and cache_write are part of input, reasoning of output.", "direction")
    cost = _counter("cost_usd", "US dollars, of the requests whose price is known.")
    unpriced = _counter("unpriced_requests", "Answered requests whose price is unknown.")
    estimated = _counter("usage_estimated_requests", "Requests whose tokens were estimated.")
    for labels, figures in rows:
        tokens.add_metric([*labels, "input"], figures.input_tokens)
        tokens.add_metric([*labels, "output"], figures.output_tokens)
        tokens.add_metric([*labels, "cached_input"], figures.cached_input_tokens)
        tokens.add_metric([*labels, "cache_write"], figures.cache_write_tokens)
        tokens.add_metric([*labels, "reasoning"], figures.reasoning_tokens)
        cost.add_metric(labels, figures.cost_usd)
        unpriced.add_metric(labels, figures.unpriced)
        estimated.add_metric(labels, figures.usage_estimated)
    yield from (tokens, cost, unpriced, estimated)


def _counter(name: str, documentation: str, *more_labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"route_switch_{name}", documentation, labels=[*_LABELS, *more_labels])


def _histogram(name: str, documentation: str, sketches: Iterable[tuple[list[str], Sketch]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"route_switch_{name}", documentation, labels=_LABELS)
    for labels, sketch in sketches:
        bounds = [str(bound_s) for bound_s in _BOUNDS_S]
        buckets = [*zip(bounds, sketch.cumulative(_BOUNDS_S), strict=True), ("+Inf", sketch.count)]
        family.add_metric(labels, buckets, sketch.sum_s)
    return family


def _labels(key: StatsKey) -> list[str]:
    return ["" if part is None else str(part) for part in key]

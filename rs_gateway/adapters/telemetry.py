"""Spans for OpenTelemetry, one a request, made from its finished trace. The only place that spells `gen_ai.*`.

Importing this module needs the extra `telemetry`; it raises ConfigurationError without it.
Names: OpenTelemetry's semantic conventions for generative AI 0.1 (status: Development), span `gen_ai.client.inference`.
"""

import logging
import random
import re
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import structlog

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.traces import Attempt, Outcome, Trace

try:
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
except ImportError as error:
    raise ConfigurationError(
        "telemetry.otlp_endpoint is set, but OpenTelemetry is not installed: pip install 'route-switch[telemetry]'."
    ) from error

log = structlog.get_logger()

_TRACES_PATH = "/v1/traces"
_AS_IN = "write it as `http://127.0.0.1:4318`."
_EXPORT_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 5.0
_MAX_WAITING = 8192
_BATCH = 512

_OPERATIONS = {"chat.completions": "chat", "responses": "chat", "messages": "chat", "embeddings": "embeddings"}
_PROVIDERS = {"google": "gcp.gemini", "gemini": "gcp.gemini", "mistral": "mistral_ai"}
_NO_PROVIDER = "route_switch"
"""The attribute is required; a request that was refused here was answered by us."""
_FAILED = frozenset({Outcome.PROVIDER_ERROR, Outcome.PROVIDER_CUT, Outcome.REJECTED})
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)

_Value = str | int | float | bool | Sequence[str]


class Telemetry:
    """An observer of traces that sends them as spans, in batches, from a thread of its own.

    A collector that is slow or away costs spans (`lost`), never a request; the log says once that it is away and once
    that it is back. No text of a prompt, an answer or an end user is in a span.

    Args:
        endpoint: base address of an OTLP/HTTP collector (`http://127.0.0.1:4318`), or its whole address for traces.
        headers: sent with every batch; may hold a key.
        sample_ratio: part of the requests that get a span, in [0, 1]. A client that sends `traceparent` has decided
            already: its sampled flag counts.
        flush_interval_s: how long spans wait to be sent together.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str],
        service_name: str = "route-switch",
        sample_ratio: float = 1.0,
        flush_interval_s: float = 2.0,
    ) -> None:
        """Start the thread; nothing is sent yet. Raises ConfigurationError: the endpoint is no HTTP address."""
        self._exporter = _Watched(_traces_address(endpoint), headers)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=_MAX_WAITING,
            schedule_delay_millis=flush_interval_s * 1000,
            max_export_batch_size=_BATCH,
        )
        self._sample_ratio = sample_ratio
        self._resource = Resource({"service.name": service_name})
        self._scope = InstrumentationScope("route_switch")

    @property
    def lost(self) -> int:
        """Spans that no collector took, since the start."""
        return self._exporter.lost

    def __call__(self, trace: Trace) -> None:
        """Queue the span of one request that has ended. Never waits for the collector and never raises."""
        parent = None if trace.traceparent is None else _parent_of(trace.traceparent)
        if parent is None:
            if random.random() >= self._sample_ratio:
                return
            trace_id = random.getrandbits(128) or 1
        elif parent.trace_flags & TraceFlags.SAMPLED:
            trace_id = parent.trace_id
        else:
            return
        self._processor.on_end(self._span(trace, parent, trace_id))

    def close(self) -> None:
        """Send what waits. Gives up after five seconds when the collector does not take it; call it from a thread."""
        flushing = threading.Thread(target=self._processor.shutdown, name="telemetry-flush", daemon=True)
        flushing.start()
        flushing.join(_CLOSE_TIMEOUT_S)
        self._exporter.shutdown()

    def _span(self, trace: Trace, parent: SpanContext | None, trace_id: int) -> ReadableSpan:
        # Built directly: a tracer's own spans take locks and copies for a life that ours never live.
        start_ns = round(trace.started_at * 1e6) * 1000  # a float of today's seconds is exact to the microsecond
        end_ns = start_ns + round(trace.latency_s * 1e9)
        operation = _OPERATIONS.get(trace.endpoint, trace.endpoint)
        return ReadableSpan(
            name=operation if trace.model is None else f"{operation} {trace.model}",
            context=SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=_SAMPLED),
            parent=parent,
            resource=self._resource,
            attributes=_attributes(trace, operation),
            events=[_attempt_failed(attempt, end_ns) for attempt in trace.attempts if attempt.error_code is not None],
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR, trace.error_code) if trace.outcome in _FAILED else _UNSET,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )


_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


def _attributes(trace: Trace, operation: str) -> dict[str, _Value]:
    usage, provider = trace.usage, trace.provider
    attributes: dict[str, _Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _NO_PROVIDER if provider is None else _PROVIDERS.get(provider, provider),
        "gen_ai.prompt.name": trace.template_id,
        "gen_ai.prompt.version": None if trace.version is None else str(trace.version),
        "gen_ai.request.model": trace.model,
        "gen_ai.request.stream": True if trace.stream else None,
        "gen_ai.response.model": trace.response_model,
        "gen_ai.response.time_to_first_chunk": trace.time_to_first_token_s,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.cache_write.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "route_switch.trace_id": trace.trace_id,
        "route_switch.outcome": trace.outcome.value,
        "route_switch.key_id": trace.key_id,
        "route_switch.template_id": trace.template_id,
        "route_switch.version": trace.version,
        "route_switch.combination_id": trace.combination_id,
        "route_switch.provider": provider,
        "route_switch.attempts": len(trace.attempts),
        "route_switch.usage_source": usage.source.value,
        "route_switch.cost_usd": trace.cost_usd,
    }
    if trace.attempts and operation == "chat":
        # The conventions ask for `error` where a reason was due and none came.
        attributes["gen_ai.response.finish_reasons"] = (trace.finish_reason or "error",)
    if trace.outcome in _FAILED:
        attributes["error.type"] = trace.error_code or trace.outcome.value
    return {name: value for name, value in attributes.items() if value is not None}


def _attempt_failed(attempt: Attempt, end_ns: int) -> Event:
    """One failed attempt. Of attempts only durations are known, so the event stands at the end of its span."""
    attributes: dict[str, _Value | None] = {
        "error.type": attempt.error_code,
        "http.response.status_code": attempt.status,
        "gen_ai.provider.name": _PROVIDERS.get(attempt.provider, attempt.provider),
        "gen_ai.request.model": attempt.model,
        "route_switch.combination_id": attempt.combination_id,
        "route_switch.version": attempt.version,
        "route_switch.latency_s": attempt.latency_s,
    }
    present = {name: value for name, value in attributes.items() if value is not None}
    return Event("route_switch.attempt_failed", attributes=present, timestamp=end_ns)


def _parent_of(traceparent: str) -> SpanContext | None:
    """The client's span, by W3C Trace Context level 1; None when the header is malformed, which restarts the trace."""
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    parent = SpanContext(
        int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=TraceFlags(int(found[4], 16))
    )
    return parent if parent.is_valid else None


def _traces_address(endpoint: str) -> str:
    """Raises ConfigurationError. Of the address, which may hold a password, its words are the scheme at most."""
    scheme, separator, _ = endpoint.partition("://")
    if scheme not in ("http", "https"):
        fault = f"begins with '{scheme}://'" if separator and scheme.isalnum() else "has no http:// in front"
        raise ConfigurationError(f"telemetry.otlp_endpoint {fault}: {_AS_IN}")
    parts = urlsplit(endpoint)
    if not parts.hostname:
        raise ConfigurationError(f"telemetry.otlp_endpoint names no host: {_AS_IN}")
    try:
        parts.port  # noqa: B018  # it is read for its error
    except ValueError:
        raise ConfigurationError(f"telemetry.otlp_endpoint has a port that is no number to 65535: {_AS_IN}") from None
    return parts._replace(path=_TRACES_PATH).geturl() if parts.path in ("", "/") else endpoint


class _Watched(SpanExporter):
    """The exporter, which counts what is lost and says once that the collector is away, and once that it is back."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self._exporter = trace_exporter.OTLPSpanExporter(
            endpoint=address, headers=dict(headers), timeout=_EXPORT_TIMEOUT_S
        )
        self._complaints = _Complaints()
        self._failing, self._closed = False, False
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch, trying again for a few seconds. Raises nothing."""
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        self.lost += len(spans) * failed
        if failed and not self._failing:
            log.warning("telemetry_failing", reason=self._complaints.last)
        elif self._failing and not failed:
            log.info("telemetry_recovered", lost=self.lost)
        self._failing = failed
        return result

    def shutdown(self) -> None:
        """Send nothing any more and break off what waits to be tried again."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()
            self._complaints.release()


class _Complaints(logging.Filter):
    """Keeps what the exporter logs from the log, which would get a line for each retry, and remembers the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self._logger = logging.getLogger(trace_exporter.__name__)
        self._logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        self.last = record.getMessage()
        return False

    def release(self) -> None:
        """Let it log for itself again."""
        self._logger.removeFilter(self)

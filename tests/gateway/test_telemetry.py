"""Spans, as a collector on loopback receives them."""

import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from rs_gateway.adapters.telemetry import Telemetry
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.traces import Attempt, Outcome, Trace, Usage, UsageSource
from tests.fakes import eventually
from tests.gateway.test_request_log import TRACE as FULL

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACE = replace(
    FULL,
    response_model="gpt-4o-mini-2024-07-18",
    usage=Usage(120, 80, UsageSource.PROVIDER, cached_input_tokens=100, reasoning_tokens=30, cache_write_tokens=7),
    attempts=(
        Attempt("orders-large", "mistral", "large", 2, "provider_overloaded", 503, 0.1),
        Attempt("orders-mini", "openai", "gpt-4o-mini", 3, None, 200, 0.4),
    ),
)


class Collector:
    """An OTLP/HTTP collector that keeps what it gets and answers with `status`; while not `open` it stalls."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.service_names: set[str] = set()
        self.status = 200
        self.open = threading.Event()
        self.open.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.open.wait()
                collector.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                if collector.status == 200:
                    collector.keep(body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def keep(self, body: bytes) -> None:
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.service_names.add(_plain(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Generator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@contextmanager
def sending(endpoint: str, **options: Any) -> Generator[Telemetry]:
    settings: dict[str, Any] = {"headers": {}, "flush_interval_s": 0.01, **options}
    telemetry = Telemetry(endpoint, **settings)
    try:
        yield telemetry
    finally:
        telemetry.close()


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(member) for member in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _plain(attributes: Any) -> dict[str, Any]:
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: _value(pair.value) for pair in pairs}


def _only_span(collector: Collector, trace: Trace) -> Span:
    with sending(collector.url) as telemetry:
        telemetry(trace)
    (span,) = collector.spans
    return span


def test_a_request_becomes_one_span_by_the_conventions_for_generative_ai(collector: Collector) -> None:
    span = _only_span(collector, TRACE)
    assert span.name == "chat gpt-4o-mini"
    assert span.kind == Span.SPAN_KIND_CLIENT
    assert span.start_time_unix_nano == 1_732_413_812_250_000_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 500_000_000
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert _plain(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.prompt.name": "orders",
        "gen_ai.prompt.version": "3",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.time_to_first_chunk": 0.125,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 80,
        "gen_ai.usage.cache_read.input_tokens": 100,
        "gen_ai.usage.cache_write.input_tokens": 7,
        "gen_ai.usage.reasoning.output_tokens": 30,
        "route_switch.trace_id": "01JD0000000000000000000000",
        "route_switch.outcome": "complete",
        "route_switch.key_id": "k1",
        "route_switch.template_id": "orders",
        "route_switch.version": 3,
        "route_switch.combination_id": "orders-mini",
        "route_switch.provider": "openai",
        "route_switch.attempts": 2,
        "route_switch.usage_source": "provider",
        "route_switch.cost_usd": 0.0021,
    }


def test_nothing_that_was_said_is_in_a_span(collector: Collector) -> None:
    _only_span(collector, TRACE)
    assert b"SECRET" not in collector.bodies[0]


def test_a_failed_attempt_is_an_event_of_the_span(collector: Collector) -> None:
    (event,) = _only_span(collector, TRACE).events
    assert event.name == "route_switch.attempt_failed"
    assert _plain(event.attributes) == {
        "error.type": "provider_overloaded",
        "http.response.status_code": 503,
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "large",
        "route_switch.combination_id": "orders-large",
        "route_switch.version": 2,
        "route_switch.latency_s": 0.1,
    }


def test_a_stream_that_broke_off_is_an_error_with_its_code(collector: Collector) -> None:
    cut = replace(TRACE, outcome=Outcome.PROVIDER_CUT, error_code="provider_cut", finish_reason=None)
    span = _only_span(collector, cut)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "provider_cut")
    attributes = _plain(span.attributes)
    assert attributes["error.type"] == "provider_cut"
    assert attributes["gen_ai.response.finish_reasons"] == ["error"]


def test_a_refused_request_has_a_span_without_a_model(collector: Collector) -> None:
    refused = Trace("t", 1.0, "SECRET", Outcome.REJECTED, False, 0.001, Usage.unknown(), error_code="model_not_found")
    span = _only_span(collector, refused)
    assert span.name == "chat"
    attributes = _plain(span.attributes)
    assert attributes["gen_ai.provider.name"] == "route_switch"
    assert attributes["error.type"] == "model_not_found"
    assert not [name for name in attributes if "model" in name or "tokens" in name or "finish" in name]


def test_a_client_that_hung_up_is_no_error_of_ours(collector: Collector) -> None:
    gone = replace(TRACE, outcome=Outcome.CLIENT_CANCELLED, error_code="client_cancelled", endpoint="embeddings")
    span = _only_span(collector, gone)
    assert span.name == "embeddings gpt-4o-mini"
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert "error.type" not in _plain(span.attributes)


def test_a_span_hangs_below_the_clients_own(collector: Collector) -> None:
    span = _only_span(collector, replace(TRACE, traceparent=f"00-{TRACE_ID}-{SPAN_ID}-01"))
    assert span.trace_id.hex() == TRACE_ID
    assert span.parent_span_id.hex() == SPAN_ID
    assert span.span_id.hex() not in (SPAN_ID, "0" * 16)


@pytest.mark.parametrize(
    "traceparent",
    [
        *("", "nonsense", f"00-{TRACE_ID}-{SPAN_ID}", f"ff-{TRACE_ID}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-01-x"),
        *(f"00-{'0' * 32}-{SPAN_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01", f"00-{TRACE_ID.upper()}-{SPAN_ID}-01"),
    ],
)
def test_a_malformed_parent_is_ignored(collector: Collector, traceparent: str) -> None:
    span = _only_span(collector, replace(TRACE, traceparent=traceparent))
    assert span.parent_span_id == b""
    assert span.trace_id.hex() not in (TRACE_ID, "0" * 32)


def test_the_clients_sampling_decision_counts_and_the_ratio_decides_for_the_rest(collector: Collector) -> None:
    with sending(collector.url, sample_ratio=0.0) as telemetry:
        telemetry(replace(TRACE, traceparent=f"00-{TRACE_ID}-{SPAN_ID}-00"))
        telemetry(replace(TRACE, traceparent=f"cc-{TRACE_ID}-{SPAN_ID}-01-later"))
        telemetry(TRACE)
    assert [span.parent_span_id.hex() for span in collector.spans] == [SPAN_ID]


def test_headers_and_service_name_go_with_every_batch_to_the_standard_path(collector: Collector) -> None:
    with sending(collector.url + "/", headers={"x-team": "orders"}, service_name="edge") as telemetry:
        telemetry(TRACE)
    ((path, headers),) = collector.requests
    assert (path, headers["x-team"], headers["content-type"]) == ("/v1/traces", "orders", "application/x-protobuf")
    assert collector.service_names == {"edge"}


def test_a_whole_address_is_used_as_it_is(collector: Collector) -> None:
    with sending(collector.url + "/otlp/v1/traces") as telemetry:
        telemetry(TRACE)
    assert collector.requests[0][0] == "/otlp/v1/traces"


def test_spans_are_sent_while_the_gateway_runs_and_the_rest_when_it_stops(collector: Collector) -> None:
    with sending(collector.url) as telemetry:
        telemetry(TRACE)
        eventually(lambda: len(collector.spans) == 1)
    with sending(collector.url, flush_interval_s=600) as telemetry:
        for _ in range(700):
            telemetry(TRACE)
    assert len(collector.spans) == 701
    assert len({span.span_id for span in collector.spans}) == 701
    assert telemetry.lost == 0


def test_a_collector_that_is_away_costs_spans_and_says_so_once(
    collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.status = 400
    with sending(collector.url) as telemetry:
        telemetry(TRACE)
        eventually(lambda: telemetry.lost == 1)
        telemetry(TRACE)
        eventually(lambda: telemetry.lost == 2)
        collector.status = 200
        telemetry(TRACE)
        eventually(lambda: len(collector.spans) == 1)
    said = capsys.readouterr().out
    assert said.count("telemetry_failing") == 1
    assert "code: 400" in said
    assert said.count("telemetry_recovered") == 1


@pytest.mark.parametrize("how", ["closed", "stalled"])
def test_a_dead_collector_holds_up_neither_requests_nor_the_end(collector: Collector, how: str) -> None:
    collector.open.clear()
    if how == "closed":
        collector.close()
    began = time.perf_counter()
    with sending(collector.url) as telemetry:
        for _ in range(20_000):
            telemetry(TRACE)
        queued_s = time.perf_counter() - began
    assert queued_s < 20
    assert time.perf_counter() - began - queued_s < 15


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://h:4317", "http://", ""])
def test_an_endpoint_that_is_no_http_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="otlp_endpoint"):
        Telemetry(endpoint, headers={})


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys\n"
        "sys.modules['opentelemetry.exporter.otlp.proto.http'] = None\n"
        "from rs_gateway.domain.errors import ConfigurationError\n"
        "try:\n    import rs_gateway.adapters.telemetry\n"
        "except ConfigurationError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=400)
    assert "pip install 'route-switch[telemetry]'" in done.stdout, done.stderr

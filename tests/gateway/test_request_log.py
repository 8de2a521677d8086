"""The request log: one line a request, nothing of what was said, and nothing that holds a request up."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from rs_gateway.adapters.request_log import RequestLog
from rs_gateway.domain.traces import Attempt, Outcome, Trace, TracePayload, Usage, UsageSource
from tests.fakes import eventually

TRACE = Trace(
    trace_id="01JD0000000000000000000000",
    started_at=1_732_413_812.25,
    request_model="SECRET model",
    outcome=Outcome.COMPLETE,
    stream=True,
    latency_s=0.5,
    usage=Usage(120, 80, UsageSource.PROVIDER),
    template_id="orders",
    version=3,
    combination_id="orders-mini",
    provider="openai",
    model="gpt-4o-mini",
    response_model="SECRET",
    finish_reason="stop",
    time_to_first_token_s=0.125,
    cost_usd=0.0021,
    end_user="SECRET",
    key_id="k1",
    attempts=(Attempt("orders-mini", "openai", "gpt-4o-mini", 3, None, 200, 0.4),),
    payload=TracePayload(
        ({"role": "user", "content": "SECRET"},),
        {"v": "SECRET"},
        {"user": "SECRET"},
        ({"role": "user", "content": "SECRET"},),
        {"role": "assistant", "content": "SECRET"},
    ),
)


class Sink:
    """Keeps whole lines; while `broken` nobody reads, while not `open` it blocks."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []
        self.n_writes = 0
        self.broken = False
        self.open = threading.Event()
        self.open.set()

    def __call__(self, lines: bytes) -> None:
        self.n_writes += 1
        if self.broken:
            raise BrokenPipeError
        self.open.wait()
        assert lines.endswith(b"\n")
        self.lines += [json.loads(line) for line in lines.splitlines()]


def test_a_request_leaves_one_line_with_everything_but_what_was_said() -> None:
    sink = Sink()
    log = RequestLog(sink)
    log(TRACE)
    log.close()
    assert sink.lines == [
        {
            "event": "chat_completed",
            "level": "info",
            "timestamp": "2024-11-24T02:03:32.750000Z",
            "trace_id": "01JD0000000000000000000000",
            "key_id": "k1",
            "template_id": "orders",
            "version": 3,
            "combination_id": "orders-mini",
            "provider": "openai",
            "model": "gpt-4o-mini",
            "outcome": "complete",
            "error_code": None,
            "finish_reason": "stop",
            "stream": True,
            "attempts": 1,
            "latency_s": 0.5,
            "time_to_first_token_s": 0.125,
            "input_tokens": 120,
            "output_tokens": 80,
            "cost_usd": 0.0021,
        }
    ]
    assert "SECRET" not in json.dumps(sink.lines)


def test_the_event_names_the_endpoint_and_a_providers_failure_is_a_warning() -> None:
    sink = Sink()
    log = RequestLog(sink)
    for endpoint in ("embeddings", "responses", "messages", "another"):
        log(replace(TRACE, endpoint=endpoint))
    log(replace(TRACE, outcome=Outcome.PROVIDER_CUT, error_code="provider_cut"))
    log.close()
    assert [line["event"] for line in sink.lines] == [
        *("embeddings_completed", "responses_completed", "messages_completed", "request_completed", "chat_completed")
    ]
    assert [line["level"] for line in sink.lines] == ["info"] * 4 + ["warning"]


def test_lines_are_written_together_and_without_being_asked() -> None:
    sink = Sink()
    log = RequestLog(sink, flush_interval_s=0.05)
    for _ in range(500):
        log(TRACE)
    eventually(lambda: len(sink.lines) == 500)
    assert sink.n_writes < 100
    log.close()
    assert len(sink.lines) == 500


def test_a_reader_that_stalls_delays_nobody_and_what_it_misses_is_counted() -> None:
    sink = Sink()
    sink.open.clear()
    log = RequestLog(sink, flush_interval_s=0.001, max_waiting=10)
    log(TRACE)
    eventually(lambda: sink.n_writes == 1)
    began = time.perf_counter()
    for _ in range(1_000):
        log(TRACE)
    assert time.perf_counter() - began < 5
    assert log.dropped == 990
    sink.open.set()
    log.close()
    assert len([line for line in sink.lines if line["event"] == "chat_completed"]) == 11
    told = [line for line in sink.lines if line["event"] == "request_log_dropped"]
    assert [line["lines"] for line in told] == [990]


def test_a_reader_that_is_gone_raises_nothing_and_one_that_returns_is_told() -> None:
    sink = Sink()
    sink.broken = True
    log = RequestLog(sink, flush_interval_s=0.001)
    log(TRACE)
    eventually(lambda: log.dropped == 1)
    sink.broken = False
    log(TRACE)
    log.close()
    assert [line["event"] for line in sink.lines] == ["chat_completed", "request_log_dropped"]
    assert sink.lines[1]["lines"] == 1
    assert log.dropped == 1


def test_closing_does_not_wait_for_ever_for_a_reader() -> None:
    sink = Sink()
    sink.open.clear()
    log = RequestLog(sink, flush_interval_s=0.001)
    log(TRACE)
    began = time.perf_counter()
    log.close()
    assert time.perf_counter() - began < 10
    log(TRACE)
    assert log.dropped == 1
    sink.open.set()


def test_a_line_that_cannot_be_written_as_json_is_counted() -> None:
    log = RequestLog(Sink())
    log(replace(TRACE, finish_reason="\ud800"))
    log.close()
    assert log.dropped == 1


@pytest.mark.skipif(sys.platform == "win32", reason="pipes that do not block are POSIX's")
def test_on_stderr_every_line_arrives_whole_even_when_the_pipe_is_slow_and_does_not_block() -> None:
    program = (
        "import os, time\n"
        "from rs_gateway.adapters.request_log import RequestLog\n"
        "from rs_gateway.stderr_lines import write_lines\n"
        "from tests.gateway.test_request_log import TRACE\n"
        "os.set_blocking(2, False)\n"
        "log = RequestLog(write_lines, flush_interval_s=0.001)\n"
        "for _ in range(2000): log(TRACE)\n"
        "log.close()\n"
    )
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", program], stderr=writing) as process, os.fdopen(reading, "rb") as pipe:
        os.close(writing)
        lines = pipe.read().splitlines()
        assert process.wait() == 0
    assert len(lines) == 2000
    assert all(json.loads(line)["event"] == "chat_completed" for line in lines)

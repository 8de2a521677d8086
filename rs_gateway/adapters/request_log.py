"""One structured line a request, for operators: who asked for what and how it went, never what was said."""

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from rs_gateway.domain.traces import Outcome, Trace

_EVENTS = {
    "chat.completions": "chat_completed",
    "embeddings": "embeddings_completed",
    "responses": "responses_completed",
    "messages": "messages_completed",
}
_PROVIDERS_FAULT = frozenset({Outcome.PROVIDER_ERROR, Outcome.PROVIDER_CUT})
_CLOSE_TIMEOUT_S = 2.0


class _Line(msgspec.Struct):
    event: str
    level: str
    timestamp: datetime
    trace_id: str
    key_id: str | None
    template_id: str | None
    version: int | None
    combination_id: str | None
    provider: str | None
    model: str | None
    outcome: str
    error_code: str | None
    finish_reason: str | None
    stream: bool
    attempts: int
    latency_s: float
    time_to_first_token_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


_encode = msgspec.json.Encoder().encode


class RequestLog:
    """An observer of traces. Calling it only queues a line; a thread of its own writes, so that a log which nobody
    reads holds up no request. What finds no room, or cannot be written, is dropped and counted.

    Args:
        write: gets whole lines; may block, and may raise OSError.
        flush_interval_s: how long lines wait to be written together.
        max_waiting: how many lines may wait.
    """

    def __init__(
        self, write: Callable[[bytes], None], *, flush_interval_s: float = 0.1, max_waiting: int = 10_000
    ) -> None:
        self._write, self._flush_interval_s, self._max_waiting = write, flush_interval_s, max_waiting
        self._waiting: deque[bytes] = deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._refused, self._unwritten, self._reported = 0, 0, 0
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def __call__(self, trace: Trace) -> None:
        """Queue the line of one request that has ended. Never blocks and never raises."""
        if len(self._waiting) >= self._max_waiting or self._closing.is_set():
            self._refused += 1
            return
        try:
            line = _line(trace)
        except (ValueError, OverflowError, OSError):  # half a character, or a time that no calendar has
            self._refused += 1
            return
        self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._refused + self._unwritten

    def close(self) -> None:
        """Write what waits. Gives up after two seconds when nobody reads it; call it from a thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(self._flush_interval_s)  # for more lines to share the write
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        dropped = self.dropped
        if dropped > self._reported:
            lines.append(
                _encode({"event": "request_log_dropped", "level": "warning", "lines": dropped - self._reported})
            )
        if not lines:
            return
        try:
            self._write(b"\n".join([*lines, b""]))
        except OSError:
            self._unwritten += len(lines) - (dropped > self._reported)
        else:
            self._reported = dropped


def _line(trace: Trace) -> bytes:
    usage = trace.usage
    return _encode(
        _Line(
            _EVENTS.get(trace.endpoint, "request_completed"),
            "warning" if trace.outcome in _PROVIDERS_FAULT else "info",
            datetime.fromtimestamp(trace.started_at + trace.latency_s, UTC),
            trace.trace_id,
            trace.key_id,
            trace.template_id,
            trace.version,
            trace.combination_id,
            trace.provider,
            trace.model,
            trace.outcome.value,
            trace.error_code,
            trace.finish_reason,
            trace.stream,
            len(trace.attempts),
            trace.latency_s,
            trace.time_to_first_token_s,
            usage.input_tokens,
            usage.output_tokens,
            trace.cost_usd,
        )
    )

"""Traces and feedback as rows: which columns they have, in which order, and what a cell holds."""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.traces import Outcome, StoreMode, Trace, UsageSource

PAYLOAD_COLUMNS = ("request_messages", "variables", "parameters", "rendered_messages", "response")
TRACE_COLUMNS = (
    *("seq", "trace_id", "started_at", "template_id", "version", "combination_id", "provider", "model"),
    *("request_model", "response_model", "outcome", "error_code", "finish_reason", "stream", "latency_s"),
    *("time_to_first_token_s", "input_tokens", "output_tokens", "usage_source", "cost_usd", "end_user", "key_id"),
    *("endpoint", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens", "parsed"),
    *("decision", "attempts", *PAYLOAD_COLUMNS),
)
"""What a reader's trace rows hold. `stream` is 0 or 1, `parsed` too unless it is None; decision, attempts and the
payload's five are JSON text."""
FEEDBACK_COLUMNS = ("seq", "feedback_id", "trace_id", "kind", "value", "source", "created_at")
SCORE_COLUMNS = ("seq", "template_id", "combination_id", "value")

WRITTEN_TRACE_COLUMNS = TRACE_COLUMNS[1 : -len(PAYLOAD_COLUMNS)]
WRITTEN_PAYLOAD_COLUMNS = ("trace_id", *PAYLOAD_COLUMNS)
WRITTEN_FEEDBACK_COLUMNS = FEEDBACK_COLUMNS[1:]
"""What `rows_of` fills, in its order: all but the sequence number, which the database draws."""

ENCODING_ERRORS = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What one record can do wrong by itself: a value that has no JSON or no column type, a text that is no Unicode."""

_OUTCOMES = {outcome: outcome.value for outcome in Outcome}
_USAGE_SOURCES = {source: source.value for source in UsageSource}

Record: TypeAlias = Trace | Feedback
Row: TypeAlias = tuple[object, ...]
Rows: TypeAlias = tuple[Row | None, Row | None]


def rows_of(record: Record) -> Rows:
    """A trace's row and its payload's, as far as its `store` mode keeps them; or a feedback's row and None.

    Raises:
        ENCODING_ERRORS: the record holds something that no row can; see `not_storable`.
    """
    return (_feedback_row(record), None) if isinstance(record, Feedback) else _trace_rows(record)


def not_storable(record: Record, error: Exception) -> StoreError:
    """The verdict on a record that can never be stored, and why."""
    return StoreError(f"{type(record).__name__} {record.trace_id} cannot be stored: {error}")


def _feedback_row(feedback: Feedback) -> Row:
    value = _json(feedback.value)
    return feedback.feedback_id, feedback.trace_id, feedback.kind.value, value, feedback.source, feedback.created_at


def _trace_rows(trace: Trace) -> Rows:
    if trace.store is StoreMode.NONE:
        return None, None
    usage, payload = trace.usage, trace.payload
    # One flat tuple and no detour through `Enum.value`: this runs for every request of a busy gateway.
    row = (
        trace.trace_id,
        trace.started_at,
        trace.template_id,
        trace.version,
        trace.combination_id,
        trace.provider,
        trace.model,
        trace.request_model,
        trace.response_model,
        _OUTCOMES[trace.outcome],
        trace.error_code,
        trace.finish_reason,
        1 if trace.stream else 0,
        trace.latency_s,
        trace.time_to_first_token_s,
        usage.input_tokens,
        usage.output_tokens,
        _USAGE_SOURCES[usage.source],
        trace.cost_usd,
        trace.end_user,
        trace.key_id,
        trace.endpoint,
        usage.cached_input_tokens,
        usage.reasoning_tokens,
        usage.cache_write_tokens,
        None if trace.parsed is None else int(trace.parsed),
        None if trace.decision is None else _json(trace.decision),
        _json(trace.attempts),
    )
    if payload is None or trace.store is not StoreMode.FULL:
        return row, None
    return row, (
        trace.trace_id,
        _json(payload.request_messages),
        _json(payload.variables),
        _json(payload.parameters),
        _json(payload.rendered_messages),
        None if payload.response is None else _json(payload.response),
    )


def _as_dict(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


_encoder = msgspec.json.Encoder(enc_hook=_as_dict)


def _json(value: object) -> str:
    return _encoder.encode(value).decode()

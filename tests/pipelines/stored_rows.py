"""A trace store in memory, as the pipelines read it."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rs_gateway.domain.ports import NewestPositions, StoredRows
from rs_pipelines.lake_schema import FEEDBACK_SCHEMA, TRACE_SCHEMA

TRACE_COLUMNS = tuple(name for name in TRACE_SCHEMA if name != "dt")
FEEDBACK_COLUMNS = tuple(name for name in FEEDBACK_SCHEMA if name != "dt")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


class FakeTraceReader:
    """Keeps TraceReader's promise over two lists that tests append to."""

    def __init__(self) -> None:
        self.trace_rows: list[Mapping[str, object]] = []
        self.feedback_rows: list[Mapping[str, object]] = []

    def add_trace(self, **columns: Any) -> str:
        """Commit one complete trace of template `orders` on model `small`, with these columns changed; its trace id."""
        sequence = len(self.trace_rows) + 1
        text = columns.pop("text", f"message {sequence}")
        answer = columns.pop("answer", f"answer {sequence}")
        row: dict[str, object] = {
            "seq": sequence,
            "trace_id": f"T{sequence:06d}",
            "started_at": NOON + sequence,
            "template_id": "orders",
            "version": 1,
            "combination_id": "orders-small",
            "provider": "local",
            "model": "small",
            "request_model": "orders",
            "response_model": "small",
            "outcome": "complete",
            "error_code": None,
            "finish_reason": "stop",
            "stream": 0,
            "latency_s": 0.25,
            "time_to_first_token_s": None,
            "input_tokens": 12,
            "output_tokens": 3,
            "usage_source": "provider",
            "cost_usd": None,
            "end_user": None,
            "key_id": None,
            "endpoint": "chat.completions",
            "cached_input_tokens": None,
            "reasoning_tokens": None,
            "cache_write_tokens": None,
            "parsed": None,
            "decision": '{"combination":"orders-small"}',
            "attempts": "[]",
            "request_messages": "[]",
            "variables": json.dumps({"message": text}),
            "parameters": "{}",
            "rendered_messages": "[]",
            "response": json.dumps({"role": "assistant", "content": answer}),
        }
        assert columns.keys() <= row.keys()
        self.trace_rows.append(row | columns)
        return str((row | columns)["trace_id"])

    def add_feedback(
        self, trace_id: str, kind: str, value: object, *, source: str = "human", created_at: float | None = None
    ) -> None:
        """Commit one piece of feedback."""
        sequence = len(self.feedback_rows) + 1
        self.feedback_rows.append(
            {
                "seq": sequence,
                "feedback_id": f"F{sequence:06d}",
                "trace_id": trace_id,
                "kind": kind,
                "value": json.dumps(value),
                "source": source,
                "created_at": NOON + sequence if created_at is None else created_at,
            }
        )

    def traces(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader."""
        return _page(self.trace_rows, TRACE_COLUMNS, after, limit)

    def trace(self, trace_id: str) -> Mapping[str, object] | None:
        """See TraceReader."""
        return next((row for row in self.trace_rows if row["trace_id"] == trace_id), None)

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader."""
        return _page(self.feedback_rows, FEEDBACK_COLUMNS, after, limit)

    def newest_positions(self) -> NewestPositions:
        """See TraceReader."""
        return NewestPositions(_newest(self.trace_rows), _newest(self.feedback_rows))

    def close(self) -> None:
        """See TraceReader."""


def _page(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], after: int, limit: int) -> StoredRows:
    found = [row for row in rows if row["seq"] > after][:limit]
    return StoredRows(columns, [tuple(row[c] for c in columns) for row in found], found[-1]["seq"] if found else after)


def _newest(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((row["seq"] for row in rows), default=0)

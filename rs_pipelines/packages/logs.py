"""The newest traces of one template with what was said about them, redacted, for people to read."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rs_gateway.adapters.trace_rows import PAYLOAD_COLUMNS
from rs_gateway.domain.ports import StoredRows, TraceReader
from rs_gateway.domain.redaction import Redactor
from rs_pipelines.packages.format import Watch, unwatched

_PAGE = 10_000
_FIRST_SPAN = 4_096
_JSON_COLUMNS = ("decision", "attempts", *PAYLOAD_COLUMNS)
_LEFT_OUT = ("seq", "key_id")
"""They mean nothing elsewhere."""


@dataclass(frozen=True, slots=True)
class RecentLogs:
    """Traces, oldest first, as lines of JSON; each with its `feedback`."""

    lines: list[str]
    n_feedback: int


def recent_logs(
    reader: TraceReader, template_id: str, *, limit: int, redactor: Redactor | None, watch: Watch = unwatched
) -> RecentLogs:
    """At most `limit` traces that were committed when this was called. The gateway may be writing.

    Raises:
        StoreError, RedactionError.
    """
    newest = reader.newest_positions()
    found = _newest_traces(reader, template_id, limit=limit, upto=newest.traces, watch=watch)
    said = _feedback(reader, {str(trace["trace_id"]) for trace in found}, upto=newest.feedback)
    lines = [_line(trace, said.get(str(trace["trace_id"]), []), redactor) for trace in found]
    return RecentLogs(lines, sum(map(len, said.values())))


def _newest_traces(
    reader: TraceReader, template_id: str, *, limit: int, upto: int, watch: Watch
) -> list[dict[str, Any]]:
    """Looks back over ever longer stretches of positions, each once."""
    found: list[dict[str, Any]] = []
    end, span = upto, _FIRST_SPAN
    while end > 0 and len(found) < limit:
        watch("traces", len(found), limit)
        start = max(0, end - span)
        stretch = [row for row in _pages(reader.traces, after=start, upto=end) if row["template_id"] == template_id]
        found = stretch[-(limit - len(found)) :] + found
        end, span = start, span * 4
    return found


def _feedback(reader: TraceReader, trace_ids: set[str], *, upto: int) -> dict[str, list[dict[str, Any]]]:
    said: dict[str, list[dict[str, Any]]] = {}
    if trace_ids:
        for row in _pages(reader.feedback, after=0, upto=upto):
            if row["trace_id"] in trace_ids:
                said.setdefault(str(row["trace_id"]), []).append(row)
    return said


def _pages(read: Callable[..., StoredRows], *, after: int, upto: int) -> Iterator[dict[str, Any]]:
    while after < upto:
        page = read(after=after, limit=min(_PAGE, upto - after))
        if page.last_sequence <= after:
            return
        # A page may go further than asked for.
        rows: Iterator[dict[str, Any]] = (dict(zip(page.columns, row, strict=True)) for row in page.rows)
        yield from (row for row in rows if row["seq"] <= upto)
        after = page.last_sequence


def _line(trace: Mapping[str, Any], feedback: list[dict[str, Any]], redactor: Redactor | None) -> str:
    shown = {name: _parsed(cell) if name in _JSON_COLUMNS else cell for name, cell in trace.items()}
    said = [
        {name: row[name] for name in ("kind", "source", "created_at")} | {"value": _parsed(row["value"])}
        for row in feedback
    ]
    if redactor is not None:
        for name in (*PAYLOAD_COLUMNS, "end_user"):
            shown[name] = redactor.value(shown[name])
        for row in said:
            row["value"], row["source"] = redactor.value(row["value"]), redactor.value(row["source"])
    content = {name: cell for name, cell in shown.items() if name not in _LEFT_OUT and cell is not None}
    return json.dumps({**content, "feedback": said}, ensure_ascii=False)


def _parsed(cell: object) -> Any:
    return json.loads(cell) if isinstance(cell, str) else cell

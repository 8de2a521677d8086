"""Feedback in bulk: JSON lines, every fault named before anything is stored, the same line never stored twice."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import anyio
from pydantic import ValidationError

from rs_gateway.api.schemas import FeedbackBody
from rs_gateway.domain.errors import InvalidRequestError, RouteSwitchError
from rs_gateway.domain.feedback import Feedback, FeedbackKind, check_value
from rs_gateway.domain.ports import TraceReader, TraceStore

_PAGE_ROWS = 10_000
_AT_ONCE = 200
"""Rows that wait for one group commit together."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one line cannot be stored; `line` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class FeedbackLines:
    """What a file holds: the lines that are well, those that the store has already, and why others are not well."""

    new: tuple[Feedback, ...]
    known: int
    problems: tuple[Problem, ...]


def read_feedback(lines: Iterable[str], reader: TraceReader, *, source: str, now_s: float) -> FeedbackLines:
    """Read `{"trace_id", "kind", "value", "source"?}`, a line each. Empty lines do not count. Raises StoreError.

    The id of a feedback is a hash of what its line says, so that an interrupted import can simply be repeated.

    Args:
        source: of lines that name none.
    """
    known_ids = _feedback_ids(reader)
    new: dict[str, Feedback] = {}
    known, problems = 0, list[Problem]()
    known_traces: dict[str, bool] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            feedback = _feedback(line, source=source, now_s=now_s)
        except InvalidRequestError as error:
            problems.append(Problem(number, str(error)))
            continue
        trace_id = feedback.trace_id
        if trace_id not in known_traces:
            known_traces[trace_id] = trace_id.isascii() and reader.trace(trace_id) is not None
        if not known_traces[trace_id]:
            problems.append(Problem(number, f"the store holds no trace {trace_id[:100]!r}"))
        elif feedback.feedback_id in known_ids or feedback.feedback_id in new:
            known += 1
        else:
            new[feedback.feedback_id] = feedback
    return FeedbackLines(tuple(new.values()), known, tuple(problems))


Progress: TypeAlias = Callable[[int, int], None]


async def store_feedback(feedback: Sequence[Feedback], store: TraceStore, *, on_stored: Progress) -> None:
    """Store all of it; cancelled, what came before stays stored. Raises TraceNotFoundError, StoreError."""
    done = 0
    for begin in range(0, len(feedback), _AT_ONCE):
        batch = feedback[begin : begin + _AT_ONCE]
        try:
            async with anyio.create_task_group() as group:
                for item in batch:
                    group.start_soon(store.add_feedback, item)
        except* RouteSwitchError as failed:
            raise failed.exceptions[0] from None
        done += len(batch)
        on_stored(done, len(feedback))


def _feedback_ids(reader: TraceReader) -> set[str]:
    found: set[str] = set()
    after = 0
    while (page := reader.feedback(after=after, limit=_PAGE_ROWS)).rows:
        place = page.columns.index("feedback_id")
        found.update(str(row[place]) for row in page.rows)
        after = page.last_sequence
    return found


def _feedback(line: str, *, source: str, now_s: float) -> Feedback:
    try:
        body = FeedbackBody.model_validate({"source": source, **_object(line)})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg']}" for e in error.errors())
        raise InvalidRequestError(faults) from None
    kind = FeedbackKind(body.kind)
    value = check_value(kind, body.value)
    said = json.dumps([body.trace_id, body.kind, value, body.source])
    feedback_id = hashlib.sha256(said.encode()).hexdigest()[:26]
    return Feedback(feedback_id, body.trace_id, kind, value, body.source, now_s)


def _object(line: str) -> dict[str, object]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidRequestError('a line is an object: {"trace_id": ..., "kind": ..., "value": ...}')
    return content

"""A trace or feedback on its way to the disk, and the verdict for whoever waits for it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from rs_gateway.adapters.trace_rows import Record, Rows
from rs_gateway.domain.chat import JsonValue
from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.traces import Trace

Verdict: TypeAlias = RouteSwitchError | None
"""None: stored. Otherwise why it was not."""


@dataclass(slots=True, eq=False)
class QueuedRecord:
    """A record on its way to the disk.

    Attributes:
        n_bytes: about how much memory it holds while it waits.
        rows: filled when it is first written; None again when the record turned out to be unstorable. A trace without
            a row of its own (`StoreMode.NONE`) is only counted.
        verdict: filled when it is decided.
        missed: it is feedback, and the last write found no trace for it.
        retry_at, refuse_after: when such feedback is written again, and when it is refused instead; seconds of
            `time.monotonic`.
    """

    record: Record
    waiter: "asyncio.Future[Verdict] | None" = None
    n_bytes: int = field(init=False)
    rows: Rows | None = None
    verdict: Verdict = None
    missed: bool = False
    retry_at: float = 0.0
    refuse_after: float | None = None

    def __post_init__(self) -> None:
        self.n_bytes = _estimated_bytes(self.record)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the verdict."""
        return self.waiter is not None


def deliver_verdicts(items: Iterable[QueuedRecord]) -> None:
    """Hand every waiter its verdict, in its own event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[QueuedRecord]] = defaultdict(list)
    for item in items:
        if item.waiter is not None:
            loops[item.waiter.get_loop()].append(item)
    for loop, waiting in loops.items():
        verdicts = [(item.waiter, item.verdict) for item in waiting if item.waiter is not None]
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, verdicts)


def _resolve(verdicts: Iterable[tuple["asyncio.Future[Verdict]", Verdict]]) -> None:
    for waiter, verdict in verdicts:
        if not waiter.done():
            waiter.set_result(verdict)


def _estimated_bytes(record: Record) -> int:
    """The length of its texts, and something for each value."""
    total, payload = 500, record.payload if isinstance(record, Trace) else None
    if payload is None:
        return total
    if payload.n_bytes is not None:
        return total + payload.n_bytes
    stack: list[JsonValue] = [payload.rendered_messages, payload.parameters, payload.response, payload.variables]
    while stack:
        value = stack.pop()
        total += 50
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, list | tuple):
            stack.extend(value)
    return total

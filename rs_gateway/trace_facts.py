"""Stored traces as facts for people and scripts: parsed, found again, and picked out."""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from rs_gateway.data_console import printable

if TYPE_CHECKING:
    from rs_gateway.domain.ports import TraceReader
    from rs_gateway.settings import Settings

Facts: TypeAlias = dict[str, Any]
"""One trace by column name; decision, attempts and payload as what their JSON says."""

PAYLOAD = ("request_messages", "variables", "parameters", "rendered_messages", "response")
"""What was said; None where it is not kept."""
_PARSED = frozenset({"decision", "attempts", *PAYLOAD})
_PAGE_ROWS = 1_000
_ULID_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which traces; None leaves open.

    Attributes:
        since_s, until_s: seconds since the epoch; a request counts when it began, `until_s` itself does not.
    """

    template_id: str | None = None
    outcome: str | None = None
    since_s: float | None = None
    until_s: float | None = None

    def admits(self, row: Mapping[str, Any]) -> bool:
        """Whether a trace, by column name, is one of them."""
        return (
            self.template_id in (None, row["template_id"])
            and self.outcome in (None, row["outcome"])
            and (self.since_s is None or row["started_at"] >= self.since_s)
            and (self.until_s is None or row["started_at"] < self.until_s)
        )


def facts_of(row: Mapping[str, object]) -> Facts:
    """A row of a reader, its JSON columns parsed."""
    facts = {name: json.loads(v) if name in _PARSED and isinstance(v, str) else v for name, v in row.items()}
    return {**facts, "stream": bool(facts["stream"])}


def without_payload(facts: Facts) -> Facts:
    """The same without what was said."""
    return {name: value for name, value in facts.items() if name not in PAYLOAD}


@dataclass(frozen=True, slots=True)
class Page:
    """Some traces in commit order, and the store's position after them, to go on from."""

    traces: list[Facts]
    position: int


def pages(reader: "TraceReader", wanted: Wanted, *, after: int = 0) -> Iterator[Page]:
    """What was committed after a position, page by page; a page may hold none that is wanted. Raises StoreError."""
    while True:
        page = reader.traces(after=after, limit=_PAGE_ROWS)
        if not page.rows:
            return
        after = page.last_sequence
        named = (dict(zip(page.columns, row, strict=True)) for row in page.rows)
        yield Page([facts_of(row) for row in named if wanted.admits(row)], after)


def newest(reader: "TraceReader", wanted: Wanted, *, n: int) -> Page:
    """The `n` traces that were committed last. Raises StoreError."""
    end = reader.newest_positions().traces
    span = max(n, 1)
    while True:
        # Positions need not be dense, nor need the newest be wanted: look back further until there are enough.
        position = max(end - span, 0)
        at_beginning = position == 0
        found = deque[Facts](maxlen=n)
        for page in pages(reader, wanted, after=position):
            found.extend(page.traces)
            position = page.position
        if len(found) == n or at_beginning:
            return Page(list(found), position)
        span *= 8


def why_not_found(trace_id: str, settings: "Settings") -> str:
    """Why the store may hold no trace of that id, and what to do."""
    shown = printable(trace_id[:100])
    began_at = _began_at(trace_id)
    if began_at is None:
        return f"{shown!r} is no trace id: take the `x-route-switch-trace-id` header of the answer that you mean."
    days = settings.privacy.retention.trace_days
    kept = "for ever here" if days is None else f"for {days:g} days here (privacy.retention.trace_days)"
    return (
        f"The store {settings.traces_url} holds no trace {shown!r}, a request of {utc(began_at)}. Traces are kept "
        f"{kept}; with the store mode `none` (of the template, the key, the request or privacy.store, which is "
        f"{settings.privacy.store.value}) there is none; and one that has just ended takes a moment. Of a gateway "
        "with another store, name the configuration: --config FILE."
    )


def utc(at_s: float) -> str:
    """An instant, in seconds since the epoch, for a person."""
    try:
        at = datetime.fromtimestamp(at_s, UTC)
    except (ValueError, OverflowError):  # a clock that was wrong by ages
        return f"{at_s:g} s after 1970, which is no date"
    return at.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")


def _began_at(trace_id: str) -> float | None:
    """When a request with this id began, in seconds since the epoch; None when it is no trace id."""
    if len(trace_id) != 26 or any(c not in _ULID_DIGITS for c in trace_id) or trace_id[0] > "7":
        return None
    milliseconds = 0
    for digit in trace_id[:10]:
        milliseconds = milliseconds * 32 + _ULID_DIGITS.index(digit)
    return milliseconds / 1000 if milliseconds < 253_402_300_800_000 else None

"""Fakes that keep the ports' promises in memory; `tests/contracts` runs the same suites on them as on the adapters."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from rs_gateway.adapters.trace_rows import FEEDBACK_COLUMNS, TRACE_COLUMNS
from rs_gateway.domain.errors import RegistryError, StoreError, TraceNotFoundError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.ports import NewestPositions, RegistryState, StoredRows, StoreHealth
from rs_gateway.domain.prompts import (
    ANY_MODEL,
    Origin,
    PromptTemplate,
    PromptText,
    PromptVersion,
    check_template_id,
    check_text,
    check_variables,
)
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate, make_live, number_drafts, set_weight
from rs_gateway.domain.stats import ALL_TIME, MINUTE_S, StatsRow, Tally
from rs_gateway.domain.traces import StoreMode, Trace


def eventually(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; fail when it does not within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.005)


class MemoryTraceStore:
    """TraceStore and TraceReader in one: what is appended can be read at once, and until the object is gone."""

    def __init__(self) -> None:
        self.stored: list[Trace] = []
        """Every trace that has a row, in commit order."""
        self.counted: list[Trace] = []
        """Every trace, those without a row too."""
        self.remarks: list[Feedback] = []
        """All feedback, in commit order."""
        self._dropped = 0
        self._closed = False

    def append(self, trace: Trace) -> None:
        if self._closed:
            self._dropped += 1
        elif trace.store is StoreMode.NONE:
            self.counted.append(trace)
        elif all(trace.trace_id != known.trace_id for known in self.stored):
            self.stored.append(trace)
            self.counted.append(trace)

    async def committed(self, trace: Trace) -> bool:
        self.append(trace)
        return not self._closed

    async def add_feedback(self, feedback: Feedback) -> None:
        if self._closed:
            raise StoreError("The trace store is closed.")
        if all(feedback.trace_id != trace.trace_id for trace in self.stored):
            raise TraceNotFoundError(feedback.trace_id)
        if all(feedback.feedback_id != known.feedback_id for known in self.remarks):
            self.remarks.append(feedback)

    def health(self) -> StoreHealth:
        return StoreHealth(ok=True, queued=0, dropped=self._dropped, error=None)

    def traces(self, *, after: int, limit: int) -> StoredRows:
        return _page(TRACE_COLUMNS, [_trace_fields(trace) for trace in self.stored], after, limit)

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        fields: list[dict[str, object]] = [
            {**asdict(remark), "kind": remark.kind.value, "value": json.dumps(remark.value)} for remark in self.remarks
        ]
        return _page(FEEDBACK_COLUMNS, fields, after, limit)

    def newest_positions(self) -> NewestPositions:
        return NewestPositions(len(self.stored), len(self.remarks))

    def trace(self, trace_id: str) -> Mapping[str, object] | None:
        page = self.traces(after=0, limit=len(self.stored))
        rows = (dict(zip(page.columns, row, strict=True)) for row in page.rows)
        return next((row for row in rows if row["trace_id"] == trace_id), None)

    def stats(self, *, since_s: int | None, template_id: str | None = None) -> list[StatsRow]:
        tally = Tally()
        for trace in self.counted:
            if template_id is None or trace.template_id == template_id:
                tally.add(trace)
        if since_s is None:
            return [row for row in tally.rows() if row.period_s == ALL_TIME]
        return [row for row in tally.rows() if row.period_s == MINUTE_S and row.start_s >= since_s]

    def close(self) -> None:
        self._closed = True


def _page(columns: tuple[str, ...], fields: list[dict[str, object]], after: int, limit: int) -> StoredRows:
    numbered = [{**row, "seq": number} for number, row in enumerate(fields, start=1)][after : after + limit]
    return StoredRows(columns, [tuple(row.get(c) for c in columns) for row in numbered], after + len(numbered))


def _trace_fields(trace: Trace) -> dict[str, object]:
    fields: dict[str, object] = {name: value for name, value in asdict(trace).items() if name in TRACE_COLUMNS}
    fields |= {"outcome": trace.outcome.value, "stream": int(trace.stream), "usage_source": trace.usage.source.value}
    usage: Mapping[str, object] = asdict(trace.usage)
    fields |= {name: value for name, value in usage.items() if name != "source"}
    fields["attempts"] = json.dumps([asdict(attempt) for attempt in trace.attempts])
    fields["decision"] = None if trace.decision is None else json.dumps(asdict(trace.decision))
    if trace.payload is not None and trace.store is StoreMode.FULL:
        payload: Mapping[str, object] = asdict(trace.payload)
        fields |= {name: None if value is None else json.dumps(value) for name, value in payload.items()}
    return fields


class MemoryRegistry:
    """PromptRegistry in a dictionary; every change raises its revision."""

    def __init__(self) -> None:
        self._templates: dict[str, RegisteredTemplate] = {}
        self._revision = 0

    def fingerprint(self) -> str:
        return str(self._revision)

    def load(self, previous: RegistryState | None = None) -> RegistryState:
        return RegistryState(self.fingerprint(), dict(self._templates), {})

    def get(self, template_id: str) -> RegisteredTemplate:
        if template_id not in self._templates:
            raise RegistryError(f"There is no template {template_id!r}.")
        return self._templates[template_id]

    def register(self, template: PromptTemplate, text: PromptText, *, origin: Origin) -> RegisteredTemplate:
        check_template_id(template.template_id)
        check_variables(template.variables)
        check_text(text, template=template)
        if template.template_id in self._templates:
            raise RegistryError(f"Template {template.template_id!r} is registered already.")
        change = Change(Action.REGISTER, 1, None, origin.by, origin.at, origin.note or "registered")
        versions = {1: PromptVersion(1, text, None, origin)}
        return self._keep(RegisteredTemplate(template, versions, {ANY_MODEL: 1}, history=(change,)))

    def add_version(self, template_id: str, text: PromptText, *, model: str | None, origin: Origin) -> PromptVersion:
        known = self.get(template_id)
        check_text(text, template=known.template)
        version = PromptVersion(max(known.versions) + 1, text, model, origin)
        versions = {**known.versions, version.number: version}
        self._keep(RegisteredTemplate(known.template, versions, known.serving, known.weights, known.history))
        return version

    def add_drafts(self, template: PromptTemplate, versions: Sequence[PromptVersion]) -> dict[int, int]:
        check_template_id(template.template_id)
        check_variables(template.variables)
        known = self._templates.get(template.template_id) or RegisteredTemplate(template, {}, {})
        numbers, added = number_drafts(known, versions)
        if not known.versions:
            numbers, added = {v.number: v.number for v in versions}, list(versions)
        for version in added:
            check_text(version.text, template=known.template)
        self._keep(replace(known, versions={**known.versions, **{v.number: v for v in added}}))
        return numbers

    def make_live(self, template_id: str, change: Change) -> RegisteredTemplate:
        return self._keep(make_live(self.get(template_id), change))

    def set_weight(self, template_id: str, change: Change) -> RegisteredTemplate:
        return self._keep(set_weight(self.get(template_id), change))

    def _keep(self, registered: RegisteredTemplate) -> RegisteredTemplate:
        self._templates[registered.template.template_id] = registered
        self._revision += 1
        return registered

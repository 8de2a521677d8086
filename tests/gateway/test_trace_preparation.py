"""What is done to a record before it is stored, such as redaction, and what happens when that fails."""

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from rs_gateway.adapters import trace_writer
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_gateway.adapters.trace_rows import Record
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.traces import StoreMode
from tests.trace_files import a_trace, counted, opened, some_feedback


def shouting(record: Record) -> Record:
    """Makes the content upper case, and fails on "secret"."""
    if isinstance(record, Feedback):
        if record.value == "secret":
            raise RuntimeError(f"cannot redact {record.value}")
        return replace(record, value=str(record.value).upper())
    assert record.payload is not None
    content = str(record.payload.request_messages[0]["content"])
    if content == "secret":
        raise RuntimeError(f"cannot redact {content}")
    messages = ({"role": "user", "content": content.upper()},)
    return replace(record, payload=replace(record.payload, request_messages=messages))


def test_what_prepare_returns_is_what_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with opened(path, prepare=shouting) as store:
        store.append(a_trace("01A", content="hello"))
        asyncio.run(store.add_feedback(some_feedback("01A")))
    with closing(SqliteTraceReader(path)) as reader:
        row = reader.trace("01A")
        (said,) = reader.feedback(after=0, limit=10).rows
    assert row is not None
    assert row["request_messages"] == '[{"role":"user","content":"HELLO"}]'
    assert '"GOOD"' in said


def test_what_cannot_be_redacted_is_stored_without_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, logged = tmp_path / "traces.db", structlog.testing.LogCapture()
    monkeypatch.setattr(trace_writer, "log", structlog.wrap_logger(None, processors=[logged]))
    with opened(path, prepare=shouting) as store:
        unredacted = replace(a_trace("01A", content="secret"), end_user="ann@example.com")
        assert asyncio.run(store.committed(unredacted))
        assert asyncio.run(store.committed(a_trace("01B", content="hello")))
        with pytest.raises(StoreError, match="could not be redacted"):
            asyncio.run(store.add_feedback(replace(some_feedback("01B"), value="secret")))
        assert store.health().ok
    with closing(SqliteTraceReader(path)) as reader:
        first, second = reader.trace("01A"), reader.trace("01B")
        assert reader.feedback(after=0, limit=10).rows == []
    assert first is not None
    assert second is not None
    assert (first["request_messages"], first["response"], first["end_user"]) == (None, None, None)
    assert second["request_messages"] is not None
    assert counted(path) == 2
    assert b"secret" not in path.read_bytes()
    assert b"ann@example.com" not in path.read_bytes()
    assert [entry["trace_id"] for entry in logged.entries] == ["01A", "01B"]
    assert "secret" not in str(logged.entries)


def test_what_is_not_stored_needs_no_redaction(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    seen: list[str] = []

    def note(record: Record) -> Record:
        seen.append(record.trace_id)
        return record

    with opened(path, prepare=note) as store:
        store.append(replace(a_trace("01A"), store=StoreMode.NONE))
        store.append(a_trace("01B"))
    assert seen == ["01B"]

"""What every trace store promises, whatever it writes to."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_stats import PostgresStatsReader
from rs_gateway.adapters.postgres_traces import PostgresTraceReader, PostgresTraceStore
from rs_gateway.adapters.sqlite_stats import SqliteStatsReader
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore
from rs_gateway.domain.analytics import break_down
from rs_gateway.domain.errors import StoreError, TraceNotFoundError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.ports import StoredRows, TraceReader, TraceStore
from rs_gateway.domain.routing import Decision
from rs_gateway.domain.stats import StatsReader
from rs_gateway.domain.traces import Attempt, Outcome, StoreMode, Trace, TracePayload, Usage, UsageSource
from tests.fakes import MemoryTraceStore


@dataclass(frozen=True)
class Pair:
    """A store, a reader of the same rows, and one of the figures that count them."""

    store: TraceStore
    reader: TraceReader
    stats: StatsReader


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    if request.param == "memory":
        memory = MemoryTraceStore()
        both = Pair(memory, memory, memory)
    elif request.param == "postgres":
        place = PostgresPlace(request.getfixturevalue("database"))
        both = Pair(PostgresTraceStore(place), PostgresTraceReader(place), PostgresStatsReader(place))
    else:
        path = tmp_path / "data" / "traces.db"
        both = Pair(SqliteTraceStore(path), SqliteTraceReader(path), SqliteStatsReader(path))
    yield both
    both.store.close()
    both.reader.close()
    both.stats.close()


def a_decision() -> Decision:
    return Decision("intent@small", ("intent@big",), "weighted", {"intent@small": 1.0}, "weight 1 of 1")


def an_attempt() -> Attempt:
    return Attempt("intent@small", "local", "small", 4, None, 200, 0.5)


def a_trace(trace_id: str = "01A", *, payload: TracePayload | None = None) -> Trace:
    return Trace(
        trace_id=trace_id,
        started_at=1_700_000_000.25,
        request_model="intent",
        outcome=Outcome.COMPLETE,
        stream=True,
        latency_s=0.5,
        usage=Usage(12, 3, UsageSource.PROVIDER, cached_input_tokens=8, reasoning_tokens=2, cache_write_tokens=4),
        template_id="intent",
        version=4,
        combination_id="intent@small",
        provider="local",
        model="small",
        response_model="small-0613",
        finish_reason="stop",
        time_to_first_token_s=0.125,
        cost_usd=0.0,
        end_user="user-7",
        decision=a_decision(),
        attempts=(an_attempt(),),
        payload=payload,
        key_id="key-3",
        endpoint="responses",
        parsed=False,
    )


def a_payload(content: str = "hello") -> TracePayload:
    asked = {"role": "user", "content": content}
    return TracePayload(
        request_messages=(asked,),
        variables={"name": content},
        parameters={"temperature": 0.5, "stop": ["\n"], "seed": None},
        rendered_messages=({"role": "system", "content": "Be brief."}, asked),
        response={"role": "assistant", "content": content, "tool_calls": [{"id": "x", "index": 0}]},
    )


def some_feedback(trace_id: str, *, feedback_id: str = "f1", value: str | float | bool = "right") -> Feedback:
    return Feedback(feedback_id, trace_id, FeedbackKind.LABEL, value, "human:ann", 1_700_000_001.5)


def as_dicts(page: StoredRows) -> list[dict[str, object]]:
    return [dict(zip(page.columns, row, strict=True)) for row in page.rows]


def all_traces(reader: TraceReader) -> list[dict[str, object]]:
    return as_dicts(reader.traces(after=0, limit=100_000))


def test_a_committed_trace_reads_back_as_it_was(pair: Pair) -> None:
    assert asyncio.run(pair.store.committed(a_trace(payload=a_payload())))
    (row,) = all_traces(pair.reader)
    assert isinstance(row.pop("seq"), int)
    unpacked = {
        name: json.loads(str(row.pop(name)))
        for name in (
            *("decision", "attempts", "request_messages", "variables", "parameters", "rendered_messages", "response"),
        )
    }
    assert row == {
        "trace_id": "01A",
        "started_at": 1_700_000_000.25,
        "template_id": "intent",
        "version": 4,
        "combination_id": "intent@small",
        "provider": "local",
        "model": "small",
        "request_model": "intent",
        "response_model": "small-0613",
        "outcome": "complete",
        "error_code": None,
        "finish_reason": "stop",
        "stream": 1,
        "latency_s": 0.5,
        "time_to_first_token_s": 0.125,
        "input_tokens": 12,
        "output_tokens": 3,
        "usage_source": "provider",
        "cost_usd": 0.0,
        "end_user": "user-7",
        "key_id": "key-3",
        "endpoint": "responses",
        "cached_input_tokens": 8,
        "reasoning_tokens": 2,
        "cache_write_tokens": 4,
        "parsed": 0,
    }
    assert unpacked == {
        "decision": json.loads(json.dumps(asdict(a_decision()))),
        "attempts": json.loads(json.dumps([asdict(an_attempt())])),
        "request_messages": [{"role": "user", "content": "hello"}],
        "variables": {"name": "hello"},
        "parameters": {"temperature": 0.5, "stop": ["\n"], "seed": None},
        "rendered_messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        "response": {"role": "assistant", "content": "hello", "tool_calls": [{"id": "x", "index": 0}]},
    }


def test_what_is_unknown_stays_unknown(pair: Pair) -> None:
    trace = Trace("01A", 1.0, "m", Outcome.REJECTED, False, 0.01, Usage.unknown(), error_code="missing_variables")
    assert asyncio.run(pair.store.committed(trace))
    (row,) = all_traces(pair.reader)
    known = {name for name, value in row.items() if value is not None}
    assert known == {
        *("seq", "trace_id", "started_at", "request_model", "outcome", "error_code", "stream", "latency_s"),
        *("usage_source", "attempts", "endpoint"),
    }


def test_an_answer_that_never_came_is_null_beside_the_request_that_did(pair: Pair) -> None:
    assert asyncio.run(pair.store.committed(a_trace(payload=replace(a_payload(), response=None))))
    (row,) = all_traces(pair.reader)
    assert row["response"] is None
    assert json.loads(str(row["request_messages"])) == [{"role": "user", "content": "hello"}]


def test_appended_traces_are_all_there_after_close_in_the_order_of_appending(pair: Pair) -> None:
    names = [f"{number:026d}" for number in range(1_234)]
    for name in names:
        pair.store.append(a_trace(name, payload=a_payload()))
    pair.store.close()
    assert [row["trace_id"] for row in all_traces(pair.reader)] == names
    assert pair.store.health().dropped == 0


def test_paging_visits_every_trace_once(pair: Pair) -> None:
    for number in range(25):
        pair.store.append(a_trace(f"t{number}"))
    pair.store.close()
    seen: list[object] = []
    after = 0
    while (page := pair.reader.traces(after=after, limit=10)).rows:
        assert len(page.rows) <= 10
        seen.extend(row["trace_id"] for row in as_dicts(page))
        after = page.last_sequence
    assert seen == [f"t{number}" for number in range(25)]
    assert page.last_sequence == after


def test_the_newest_positions_are_those_of_the_last_rows(pair: Pair) -> None:
    none = pair.reader.newest_positions()
    assert (none.traces, none.feedback) == (0, 0)
    for number in range(3):
        pair.store.append(a_trace(f"t{number}"))
    asyncio.run(pair.store.add_feedback(some_feedback("t2")))
    pair.store.close()
    newest = pair.reader.newest_positions()
    assert newest.traces == pair.reader.traces(after=0, limit=10).last_sequence
    assert newest.feedback == pair.reader.feedback(after=0, limit=10).last_sequence
    assert pair.reader.traces(after=newest.traces, limit=10).rows == []


def test_a_trace_that_ends_late_is_seen_though_its_id_is_older(pair: Pair) -> None:
    async def scenario() -> None:
        await pair.store.committed(a_trace("01B"))
        first = pair.reader.traces(after=0, limit=10)
        await pair.store.committed(a_trace("01A"))
        assert [row["trace_id"] for row in as_dicts(pair.reader.traces(after=first.last_sequence, limit=10))] == ["01A"]

    asyncio.run(scenario())


def test_the_same_trace_twice_is_stored_once(pair: Pair) -> None:
    async def scenario() -> None:
        assert await pair.store.committed(a_trace("01A"))
        assert await pair.store.committed(a_trace("01A"))

    asyncio.run(scenario())
    assert len(all_traces(pair.reader)) == 1


def test_an_empty_store_reads_as_empty(pair: Pair) -> None:
    page = pair.reader.traces(after=7, limit=10)
    assert (page.rows, page.last_sequence) == ([], 7)
    assert pair.reader.feedback(after=0, limit=10).rows == []


@pytest.mark.parametrize("value", ["Größe 42\n", 0.25, 1.0, True, False])
def test_feedback_reads_back_with_its_value(pair: Pair, value: str | float | bool) -> None:
    async def scenario() -> None:
        pair.store.append(a_trace("01A"))
        await pair.store.add_feedback(some_feedback("01A", value=value))

    asyncio.run(scenario())
    (row,) = as_dicts(pair.reader.feedback(after=0, limit=10))
    assert isinstance(row.pop("seq"), int)
    stored = json.loads(str(row.pop("value")))
    assert (stored, type(stored)) == (value, type(value))
    assert row == {
        "feedback_id": "f1",
        "trace_id": "01A",
        "kind": "label",
        "source": "human:ann",
        "created_at": 1_700_000_001.5,
    }


def test_feedback_on_an_unknown_trace_is_refused(pair: Pair) -> None:
    with pytest.raises(TraceNotFoundError, match="01Z"):
        asyncio.run(pair.store.add_feedback(some_feedback("01Z")))
    assert pair.reader.feedback(after=0, limit=10).rows == []


def test_the_same_feedback_twice_is_stored_once(pair: Pair) -> None:
    async def scenario() -> None:
        pair.store.append(a_trace("01A"))
        await pair.store.add_feedback(some_feedback("01A", feedback_id="f1"))
        await pair.store.add_feedback(some_feedback("01A", feedback_id="f1"))
        await pair.store.add_feedback(some_feedback("01A", feedback_id="f2"))

    asyncio.run(scenario())
    assert [row["feedback_id"] for row in as_dicts(pair.reader.feedback(after=0, limit=10))] == ["f1", "f2"]


def test_a_closed_store_counts_what_it_cannot_take_and_says_so_to_whoever_waits(pair: Pair) -> None:
    pair.store.close()
    pair.store.close()
    pair.store.append(a_trace("01A"))
    assert not asyncio.run(pair.store.committed(a_trace("01B")))
    with pytest.raises(StoreError):
        asyncio.run(pair.store.add_feedback(some_feedback("01A")))
    assert pair.store.health().dropped == 2
    assert all_traces(pair.reader) == []


def test_a_store_at_rest_is_healthy(pair: Pair) -> None:
    asyncio.run(pair.store.committed(a_trace("01A")))
    health = pair.store.health()
    assert (health.ok, health.queued, health.dropped, health.error) == (True, 0, 0, None)


def test_concurrent_commits_are_all_stored(pair: Pair) -> None:
    async def scenario() -> list[bool]:
        return await asyncio.gather(*(pair.store.committed(a_trace(f"t{number}")) for number in range(300)))

    assert asyncio.run(scenario()) == [True] * 300
    assert len(all_traces(pair.reader)) == 300


def test_metrics_mode_keeps_the_trace_without_its_payload(pair: Pair) -> None:
    assert asyncio.run(pair.store.committed(replace(a_trace(payload=a_payload()), store=StoreMode.METRICS)))
    (row,) = all_traces(pair.reader)
    assert (row["trace_id"], row["input_tokens"], row["request_messages"], row["response"]) == ("01A", 12, None, None)


def test_none_mode_keeps_nothing_but_the_count(pair: Pair) -> None:
    async def scenario() -> None:
        assert await pair.store.committed(replace(a_trace(payload=a_payload()), store=StoreMode.NONE))
        with pytest.raises(TraceNotFoundError):
            await pair.store.add_feedback(some_feedback("01A"))

    asyncio.run(scenario())
    assert all_traces(pair.reader) == []
    assert [row.figures.requests for row in pair.stats.stats(since_s=None)] == [1]


def test_figures_count_each_trace_once_however_it_is_stored(pair: Pair) -> None:
    async def scenario() -> None:
        for mode in StoreMode:
            assert await pair.store.committed(replace(a_trace(f"t-{mode}"), store=mode))
        assert await pair.store.committed(a_trace("t-full"))

    asyncio.run(scenario())
    breakdown = break_down(pair.stats.stats(since_s=None))
    whole = breakdown.overall
    assert (whole.requests, whole.outcomes, whole.tokens.input) == (3, {"complete": 3}, 36)
    assert whole.latency_s.max == 0.5
    assert whole.latency_s.p50 == pytest.approx(0.5, rel=0.01)
    assert [group for group, _ in breakdown.combinations] == [("intent@small", "intent")]
    assert [group for group, _ in breakdown.endpoints] == [("responses",)]


def test_figures_of_one_template_leave_the_others_out(pair: Pair) -> None:
    pair.store.append(a_trace("01A"))
    pair.store.append(replace(a_trace("01B"), template_id="triage"))
    pair.store.append(replace(a_trace("01C"), template_id=None, version=None, combination_id=None, model=None))
    pair.store.close()
    (row,) = pair.stats.stats(since_s=None, template_id="triage")
    assert (row.key.template_id, row.figures.requests) == ("triage", 1)
    assert {row.key.template_id for row in pair.stats.stats(since_s=None)} == {"intent", "triage", None}
    assert pair.stats.stats(since_s=None, template_id="unheard of") == []


@pytest.mark.parametrize("minutes_ago", [0, 3, 59, 60, 61, 125, 24 * 60])
def test_figures_since_a_minute_count_exactly_what_ended_from_there_on(pair: Pair, minutes_ago: int) -> None:
    now_s = 1_700_003_640
    for ago in range(0, 25 * 60, 7):
        pair.store.append(replace(a_trace(f"t{ago}"), started_at=now_s - 60 * ago, latency_s=1.0))
    pair.store.close()
    counted = sum(row.figures.requests for row in pair.stats.stats(since_s=now_s - 60 * minutes_ago))
    assert counted == len(range(0, minutes_ago + 1, 7))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_reads_back_exactly(pair: Pair, content: str) -> None:
    before = pair.reader.traces(after=0, limit=100_000).last_sequence
    trace_id = f"t{before}"
    assert asyncio.run(pair.store.committed(a_trace(trace_id, payload=a_payload(content))))
    (row,) = as_dicts(pair.reader.traces(after=before, limit=10))
    assert json.loads(str(row["response"]))["content"] == content
    assert json.loads(str(row["variables"])) == {"name": content}


def test_one_trace_is_found_by_its_id_and_one_that_is_not_there_is_none(pair: Pair) -> None:
    assert pair.reader.trace("01A") is None
    for name in ("01A", "01B"):
        assert asyncio.run(pair.store.committed(a_trace(name, payload=a_payload())))
    found = pair.reader.trace("01B")
    assert found is not None
    sequence = found["seq"]
    assert isinstance(sequence, int)
    page = pair.reader.traces(after=sequence - 1, limit=1)
    assert found == dict(zip(page.columns, page.rows[0], strict=True))
    assert pair.reader.trace("01C") is None

"""What is counted of a request, and what the counts say."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.analytics import WINDOWS, break_down, since, summarise
from rs_gateway.domain.stats import ALL_TIME, HOUR_S, MINUTE_S, Figures, StatsKey, StatsRow, Tally
from rs_gateway.domain.traces import Attempt, Outcome, Trace, Usage, UsageSource

NOW_S = 1_700_000_000.0


def a_trace(**changes: Any) -> Trace:
    trace = Trace(
        trace_id="01A",
        started_at=NOW_S,
        request_model="m",
        outcome=Outcome.COMPLETE,
        stream=False,
        latency_s=0.5,
        usage=Usage(10, 4, UsageSource.PROVIDER),
        template_id="intent",
        version=2,
        combination_id="intent@small",
        provider="local",
        model="small",
        cost_usd=0.25,
    )
    return replace(trace, **changes)


def an_attempt(combination_id: str) -> Attempt:
    return Attempt(combination_id, "local", "small", 2, None, 200, 0.1)


def rows_of(*traces: Trace) -> list[StatsRow]:
    tally = Tally()
    for trace in traces:
        tally.add(trace)
    return list(tally.rows())


traces = st.builds(
    a_trace,
    started_at=st.floats(NOW_S, NOW_S + 10_000),
    outcome=st.sampled_from(list(Outcome)),
    latency_s=st.floats(0.001, 100),
    time_to_first_token_s=st.none() | st.floats(0.001, 10),
    usage=st.builds(Usage, st.none() | st.integers(0, 9), st.none() | st.integers(0, 9), st.sampled_from(UsageSource)),
    template_id=st.sampled_from([None, "intent", "triage"]),
    version=st.sampled_from([None, 1, 2]),
    cost_usd=st.none() | st.just(0.5),
    error_code=st.sampled_from([None, "provider_timeout"]),
)


def test_tokens_money_and_errors_add_up() -> None:
    known = Usage(10, 4, UsageSource.PROVIDER, cached_input_tokens=8, reasoning_tokens=3, cache_write_tokens=2)
    summary = summarise(
        [
            Figures.of(
                [
                    a_trace(usage=known, cost_usd=0.5),
                    a_trace(usage=replace(known, source=UsageSource.ESTIMATED), cost_usd=None),
                    a_trace(outcome=Outcome.PROVIDER_ERROR, error_code="provider_timeout", usage=Usage.unknown()),
                ]
            )
        ]
    )
    tokens = summary.tokens
    assert (tokens.input, tokens.output, tokens.cached_input, tokens.reasoning, tokens.cache_write) == (20, 8, 16, 6, 4)
    assert (summary.usage_estimated_requests, summary.usage_unknown_requests) == (1, 1)
    assert summary.cost_usd == pytest.approx(0.75)
    assert summary.unpriced_requests == 1
    assert (summary.requests, summary.error_classes) == (3, {"provider_timeout": 1})
    assert summary.outcomes == {"complete": 2, "provider_error": 1}


def test_a_cost_is_unknown_when_no_price_was_and_zero_when_the_price_is_zero() -> None:
    unknown = summarise([Figures.of([a_trace(cost_usd=None)])])
    free = summarise([Figures.of([a_trace(cost_usd=0.0)])])
    assert (unknown.cost_usd, unknown.unpriced_requests) == (None, 1)
    assert (free.cost_usd, free.unpriced_requests) == (0.0, 0)


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.PROVIDER_ERROR])
def test_a_request_that_got_nothing_is_not_missing_a_price(outcome: Outcome) -> None:
    summary = summarise([Figures.of([a_trace(outcome=outcome, cost_usd=None)])])
    assert (summary.cost_usd, summary.unpriced_requests) == (None, 0)


def test_success_is_judged_by_what_providers_did_and_by_nothing_else() -> None:
    answered = [a_trace(outcome=o) for o in (Outcome.COMPLETE, Outcome.TRUNCATED, Outcome.CONTENT_FILTERED)]
    failed = [a_trace(outcome=Outcome.PROVIDER_CUT)]
    others = [a_trace(outcome=Outcome.REJECTED), a_trace(outcome=Outcome.CLIENT_CANCELLED)]
    assert summarise([Figures.of([*answered, *failed, *others])]).success_rate == pytest.approx(0.75)
    assert summarise([Figures.of(others)]).success_rate is None


def test_a_second_try_is_a_retry_and_a_move_to_another_combination_a_fallback() -> None:
    attempts = tuple(an_attempt(name) for name in ("a", "a", "a", "b", "c", "c"))
    summary = summarise([Figures.of([a_trace(attempts=attempts), a_trace(attempts=attempts[:1])])])
    assert (summary.retries, summary.fallbacks) == (3, 2)


def test_absurd_token_counts_do_not_make_the_sums_unusable() -> None:
    figures = Figures.of([a_trace(usage=Usage(10**300, 1, UsageSource.PROVIDER))])
    assert figures.input_tokens < 2**53


def test_plain_calls_have_no_time_to_first_token() -> None:
    summary = summarise([Figures.of([a_trace(), a_trace(time_to_first_token_s=0.125)])])
    assert summary.time_to_first_token_s.max == pytest.approx(0.125)
    assert summarise([Figures.of([a_trace()])]).time_to_first_token_s.p99 is None


@given(st.lists(traces, max_size=20), st.lists(traces, max_size=20))
def test_figures_of_parts_add_up_to_the_figures_of_the_whole(first: list[Trace], second: list[Trace]) -> None:
    merged, whole = Figures.of(first), Figures.of([*first, *second])
    merged.merge(Figures.of(second))
    for figures in (merged, whole):  # sums of floats depend on their order
        figures.cost_usd = round(figures.cost_usd, 6)
        figures.latency.sum_s = round(figures.latency.sum_s, 6)
        figures.first_token.sum_s = round(figures.first_token.sum_s, 6)
    assert merged == whole


@given(st.lists(traces, max_size=30))
def test_minutes_hours_and_all_time_count_the_same_requests(batch: list[Trace]) -> None:
    rows = rows_of(*batch)
    for period_s in (MINUTE_S, HOUR_S, ALL_TIME):
        assert sum(row.figures.requests for row in rows if row.period_s == period_s) == len(batch)
    assert len({(row.period_s, row.start_s, row.key) for row in rows}) == len(rows)
    assert all(row.start_s % row.period_s == 0 for row in rows if row.period_s)


def test_a_request_counts_in_the_minute_in_which_it_ended() -> None:
    rows = rows_of(a_trace(started_at=1_199.0, latency_s=2.0), a_trace(started_at=1_100.0, latency_s=1.0))
    minutes = {row.start_s: row.figures.requests for row in rows if row.period_s == MINUTE_S}
    assert minutes == {1_200: 1, 1_080: 1}


@given(st.lists(traces, max_size=30))
def test_every_grouping_counts_every_request_once(batch: list[Trace]) -> None:
    rows = [row for row in rows_of(*batch) if row.period_s == ALL_TIME]
    breakdown = break_down(rows)
    assert breakdown.overall.requests == len(batch)
    lists = (breakdown.templates, breakdown.versions, breakdown.combinations, breakdown.models, breakdown.endpoints)
    for groups in lists:
        assert sum(summary.requests for _, summary in groups) == len(batch)
        assert len({group for group, _ in groups}) == len(groups)
        assert [s.requests for _, s in groups] == sorted((s.requests for _, s in groups), reverse=True)


def test_reading_figures_does_not_change_them() -> None:
    row = StatsRow(ALL_TIME, 0, StatsKey("intent", 1, "c", "p", "m", "messages"), Figures.of([a_trace()]))
    break_down([row, row])
    assert row.figures == Figures.of([a_trace()])


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_begins_on_the_whole_minute_before_it(window: str) -> None:
    begins, length_s = since(window, now_s=NOW_S + 7.5), WINDOWS[window]
    if length_s is None:
        assert begins is None
    else:
        assert begins is not None
        assert begins % MINUTE_S == 0
        assert begins <= NOW_S + 7.5 - length_s < begins + MINUTE_S

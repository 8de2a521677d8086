import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from rs_pipelines.analysis.routing import bills, count, fallbacks, pool_shares, routed_traces
from rs_pipelines.analysis.traffic import scored_traces
from rs_pipelines.lake import Lake
from rs_pipelines.workbench import Workbench
from tests.pipelines.stored_rows import FakeTraceReader


def decision(chosen: str, probabilities: Mapping[str, float]) -> str:
    return json.dumps({"chosen": chosen, "strategy": "random", "probabilities": probabilities})


def attempts(*error_codes: str | None) -> str:
    return json.dumps([{"combination_id": f"c{n}", "error_code": code} for n, code in enumerate(error_codes)])


def routed_of(folder: Path, reader: FakeTraceReader) -> pl.LazyFrame:
    lake = Lake(folder)
    lake.ingest(reader)
    return routed_traces(scored_traces(lake))


def test_meant_chosen_and_answered_are_told_apart(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    even, sure = {"a": 0.5, "b": 0.5}, {"a": 1.0}
    reader.add_trace(combination_id="a", decision=decision("a", even))
    reader.add_trace(combination_id="b", decision=decision("a", even), attempts=attempts("rate_limited", None))
    reader.add_trace(combination_id="b", decision=decision("b", even))
    reader.add_trace(combination_id="a", decision=decision("a", sure))
    assert pool_shares(routed_of(tmp_path, reader)).rows() == [
        ("orders", "a", 0.625, 0.75, 0.5),
        ("orders", "b", 0.375, 0.25, 0.5),
    ]


def test_a_combination_that_was_meant_and_never_asked_is_shown(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    reader.add_trace(combination_id="a", decision=decision("a", {"a": 0.9, "b": 0.1}))
    assert pool_shares(routed_of(tmp_path, reader)).rows()[1] == ("orders", "b", 0.1, 0.0, 0.0)


def test_the_shares_of_a_template_sum_to_one(weeks: Workbench) -> None:
    shares = pool_shares(routed_traces(scored_traces(weeks.lake)))
    sums = shares.drop("combination_id").group_by("template_id").sum()
    assert sums.height == 2
    for name in ("meant", "chosen", "answered"):
        assert sums[name].to_list() == pytest.approx([1.0, 1.0])


def test_fallbacks_say_from_whom_to_whom_and_why(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    odds = {"a": 0.5, "b": 0.5}
    for outcome in ("complete", "provider_error"):
        reader.add_trace(
            combination_id="b",
            decision=decision("a", odds),
            attempts=attempts("rate_limited", None),
            outcome=outcome,
        )
    reader.add_trace(combination_id="a", decision=decision("a", odds), attempts=attempts(None))
    routed = routed_of(tmp_path, reader)
    assert fallbacks(routed).rows() == [("orders", "a", "b", "rate_limited", 2, 1)]
    assert count(routed) == 3


def test_requests_that_no_strategy_decided_are_left_out(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    reader.add_trace(decision=None)
    reader.add_trace(decision=decision("a", {"a": 1.0}), combination_id=None, outcome="rejected")
    routed = routed_of(tmp_path, reader)
    assert count(routed) == 0
    assert pool_shares(routed).is_empty()
    assert fallbacks(routed).is_empty()
    assert bills(routed).is_empty()


def test_a_bill_is_per_thousand_requests_with_a_known_price(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    for combination_id, cost_usd in (("dear", 0.02), ("dear", 0.04), ("dear", None), ("cheap", 0.001), ("own", None)):
        reader.add_trace(
            combination_id=combination_id,
            decision=decision(combination_id, {combination_id: 1.0}),
            cost_usd=cost_usd,
            outcome="truncated" if cost_usd == 0.04 else "complete",
        )
    table = bills(routed_of(tmp_path, reader))
    assert table.select("combination_id", "requests", "usd_per_1000", "unpriced", "complete_share").rows() == [
        ("dear", 3, pytest.approx(30.0), 1, pytest.approx(2 / 3)),
        ("cheap", 1, pytest.approx(1.0), 0, 1.0),
        ("own", 1, None, 1, 1.0),
    ]

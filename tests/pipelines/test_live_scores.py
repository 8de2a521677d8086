"""The scores of live versions: what was said about their answers, in the order in which it was said."""

from pathlib import Path
from typing import Any

import pytest

from rs_gateway.domain.prompts import PromptTemplate, PromptText
from rs_gateway.wiring import open_registry
from rs_pipelines.live_scores import (
    LiveScores,
    load_live_scores,
    score_live,
    score_versions,
    series_of,
)
from rs_pipelines.occasions import fallen
from rs_pipelines.parquet_files import replace_parquet
from rs_pipelines.sample import Target
from rs_pipelines.workbench import Workbench
from tests.pipelines.parcels import ORIGIN
from tests.pipelines.stored_rows import FakeTraceReader
from tests.running import write_configuration

ORDERS = Target("orders", "small")


def bench_with(folder: Path, reader: FakeTraceReader, evaluator: dict[str, Any]) -> Workbench:
    combination = {"id": "orders-small", "template_id": "orders", "model": "small", "provider": "local"}
    path = write_configuration(
        folder,
        {
            "model_providers": {"local": {"base_url": "http://127.0.0.1:9/v1"}},
            "gateway": {"combinations": [combination]},
        },
    )
    bench = Workbench.at(path)
    template = PromptTemplate("orders", "Orders", ("message",), evaluator)
    open_registry(bench.settings).register(template, PromptText("Do it.", "{message}"), origin=ORIGIN)
    bench.lake.ingest(reader)
    return bench


def spoken_about(**changed: Any) -> FakeTraceReader:
    reader = FakeTraceReader()
    first, second, third = (reader.add_trace(answer=answer, **changed) for answer in ("A", "B", "C"))
    reader.add_feedback(first, "label", "A")
    reader.add_feedback(second, "label", "wrong")
    reader.add_feedback(third, "score", 0.25)
    reader.add_feedback(first, "score", 0.5)
    reader.add_feedback(third, "score", 0.75)
    reader.add_feedback(second, "outcome", True)
    reader.add_feedback(third, "outcome", False)
    reader.add_feedback(third, "comment", "hm")
    return reader


def test_scores_outcomes_and_labels_are_series_of_their_own_and_a_traces_latest_word_counts(tmp_path: Path) -> None:
    table = score_live(bench_with(tmp_path, spoken_about(), {"name": "ExactMatch"}))
    assert table.unscored == {}
    assert series_of(table.frame) == (
        LiveScores(ORDERS, 1, "label", (1.0, 0.0)),
        LiveScores(ORDERS, 1, "outcome", (1.0, 0.0)),
        LiveScores(ORDERS, 1, "score", (0.5, 0.75)),
    )
    replace_parquet(table.frame, tmp_path / "deep/live_scores.parquet")
    assert load_live_scores(tmp_path / "deep/live_scores.parquet") == series_of(table.frame)


@pytest.mark.parametrize(
    "changed", [{"version": 2}, {"model": "other"}, {"outcome": "truncated"}, {"template_id": "x"}]
)
def test_only_whole_answers_of_the_targets_live_version_count(tmp_path: Path, changed: dict[str, Any]) -> None:
    table = score_live(bench_with(tmp_path, spoken_about(**changed), {"name": "ExactMatch"}))
    assert table.frame.is_empty()


def test_a_judges_template_is_scored_without_asking_it(tmp_path: Path) -> None:
    judge = {"name": "LLMJudge", "model": "local/small", "rubric": "Is it right?"}
    table = score_live(bench_with(tmp_path, spoken_about(), judge))
    assert {scores.kind for scores in series_of(table.frame)} == {"outcome", "score"}
    assert "asks a model" in table.unscored[ORDERS.key]


def test_where_nobody_said_anything_there_is_an_empty_table(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, FakeTraceReader(), {"name": "ExactMatch"})
    assert series_of(score_live(bench).frame) == ()
    assert load_live_scores(bench.live_scores) == ()


def test_a_block_is_looked_at_once() -> None:
    scores = LiveScores(ORDERS, 1, "score", (1.0,) * 40 + (0.0,) * 20)
    occasion, block = fallen(scores, window=20, min_drop=0.05, after_block=-1)
    assert occasion.start and block == 2
    assert "1.000 -> 0.000" in occasion.why
    again, same = fallen(scores, window=20, min_drop=0.05, after_block=block)
    assert not again.start and same == block


def test_every_version_that_served_is_scored_by_what_was_said_of_its_own_answers(tmp_path: Path) -> None:
    reader = FakeTraceReader()
    for version, answers in ((1, ("A", "B")), (2, ("A", "A", "A"))):
        for answer in answers:
            reader.add_feedback(reader.add_trace(answer=answer, version=version), "label", "A")
    reader.add_feedback(reader.add_trace(answer="A", version=2), "score", 0.5)
    bench = bench_with(tmp_path, reader, {"name": "ExactMatch"})
    registry = open_registry(bench.settings)
    registry.add_version("orders", PromptText("Do it well.", "{message}"), model=None, origin=ORIGIN)
    assert score_versions(bench, "orders").rows() == [
        *((1, "small", "label", 2, 0.5), (2, "small", "label", 3, 1.0)),
        (2, "small", "score", 1, 0.5),
    ]


def test_what_only_a_judge_could_score_by_labels_is_left_out_of_the_versions(tmp_path: Path) -> None:
    judge = {"name": "LLMJudge", "model": "local/small", "rubric": "Is it right?"}
    found = score_versions(bench_with(tmp_path, spoken_about(), judge), "orders")
    assert found["measure"].to_list() == ["outcome", "score"]

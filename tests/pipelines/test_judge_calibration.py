"""A judge against people: the figures are the textbook's, and their intervals say how little a few answers prove."""

from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.evaluation import Answer, Score
from rs_pipelines.evaluators.llm_judge import LLMJudge
from rs_pipelines.judge_calibration import RatedAnswer, calibrate, calibrate_judge
from tests.pipelines.parcels import cache_at, judged_model

HUMAN = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def score(value: float) -> Score:
    return Score(value, value >= 0.5, "", "judge/1")


def table(both: int, judge_only: int, human_only: int, neither: int) -> tuple[list[Score | None], list[float]]:
    judged = [1.0] * (both + judge_only) + [0.0] * (human_only + neither)
    return [score(value) for value in judged], [1.0] * both + [0.0] * judge_only + [1.0] * human_only + [0.0] * neither


def test_kappa_is_cohens() -> None:
    # The example of Wikipedia's "Cohen's kappa": 20 both yes, 5 and 10 apart, 15 both no.
    report = calibrate(*table(20, 5, 10, 15))
    assert report.kappa is not None
    assert (report.n, report.agreement.value, report.kappa.value) == (50, 0.7, pytest.approx(0.4))
    assert report.mean_absolute_error.value == pytest.approx(0.3)
    assert report.bias.value == pytest.approx(-0.1)
    # The large-sample standard error of agreement is 0.065, of kappa 0.13.
    assert (report.agreement.low, report.agreement.high) == pytest.approx((0.57, 0.82), abs=0.03)
    assert (report.kappa.low, report.kappa.high) == pytest.approx((0.14, 0.64), abs=0.04)


def test_a_few_perfect_answers_prove_little_and_many_prove_much() -> None:
    few, many = calibrate(*table(3, 0, 0, 3)), calibrate(*table(300, 0, 0, 300))
    assert few.kappa is not None
    assert many.kappa is not None
    assert few.kappa.value == many.kappa.value == 1
    assert few.kappa.low < 0.6 < 0.97 < many.kappa.low


def test_agreement_that_chance_gives_is_no_kappa() -> None:
    report = calibrate(*table(9, 0, 0, 0))
    assert (report.agreement.value, report.kappa) == (1.0, None)


def test_answers_without_a_verdict_are_counted_and_left_out() -> None:
    report = calibrate([score(1.0), None, score(0.0)], [1.0, 0.0, 0.0])
    assert (report.n, report.missing, report.agreement.value) == (2, 1, 1.0)


@given(st.lists(st.tuples(st.floats(0, 1), HUMAN), min_size=1, max_size=30))
def test_every_figure_lies_within_its_interval_and_its_range(pairs: list[tuple[float, float]]) -> None:
    report = calibrate([score(value) for value, _ in pairs], [value for _, value in pairs])
    assert 0 <= report.agreement.low <= report.agreement.value <= report.agreement.high <= 1
    assert report.mean_absolute_error.low >= 0
    assert -1 <= report.bias.low <= report.bias.high <= 1
    if report.kappa is not None:
        assert -1 <= report.kappa.low <= report.kappa.value <= report.kappa.high <= 1


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the answers"):
        calibrate([None], [1.0])
    with pytest.raises(ValueError, match="outside"):
        calibrate([score(1.0)], [3.0])


def test_a_judge_is_asked_about_what_people_rated(tmp_path: Path) -> None:
    judge = LLMJudge(model="scripted/judge")
    chat = ScriptedChat(lambda call: '{"score": 5}' if "good" in call.messages[-1]["content"] else '{"score": 2}')
    rated = [RatedAnswer(Answer("good", "x"), 1.0), RatedAnswer(Answer("bad", "x"), 0.0)]

    async def run() -> float:
        model = judged_model(chat, cache_at(tmp_path))
        return (await calibrate_judge(rated, evaluator=judge, model=model)).mean_absolute_error.value

    assert anyio.run(run) == pytest.approx(0.125)

"""What is checked of a sample: rows enough, sides apart, answers in balance, an evaluator that tells, a bill kept."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.domain.prompts import Demo, PromptText
from rs_pipelines.evaluator_sanity import EvaluatorSanity
from rs_pipelines.sample import CalibrationSample, Example, Split, sample_of
from rs_pipelines.sample_checks import balanced, enough_rows, kept_apart, tells_right_from_wrong, within_budget
from rs_pipelines.spending import Allowance, Spending
from tests.pipelines.parcels import parcels

LIVE = PromptText("Say it.", "{message}")


def example(n: int, expected: str, split: Split) -> Example:
    return Example(f"e{n}", {"message": str(n)}, (), expected, "human", split)


examples = st.lists(
    st.builds(
        example,
        st.integers(0, 30),
        st.sampled_from(["yes", "no", "maybe"]),
        st.sampled_from(Split),
    ),
    min_size=1,
    max_size=60,
)


def sample(rows: list[Example]) -> CalibrationSample:
    return sample_of("t", "m", tuple(rows))


@settings(max_examples=60)
@given(examples, st.integers(1, 60))
def test_rows_are_enough_exactly_when_every_side_has_its_least(rows: list[Example], least: int) -> None:
    found = enough_rows(sample(rows), min_test_rows=least)
    sides = [sum(e.split is split for e in rows) for split in (Split.TRAIN, Split.VAL, Split.TEST)]
    assert found.passed == all(n >= m for n, m in zip(sides, (10, 10, max(10, least)), strict=True))


@settings(max_examples=60)
@given(examples)
def test_an_input_on_two_sides_is_found_and_nothing_else(rows: list[Example]) -> None:
    on_sides: dict[str, set[Split]] = {}
    for row in rows:
        on_sides.setdefault(row.variables["message"], set()).add(row.split)
    assert kept_apart(sample(rows), LIVE).passed == all(len(sides) == 1 for sides in on_sides.values())


def test_spelling_does_not_hide_an_input_on_the_other_side() -> None:
    first = Example("a", {"message": "Hello  there"}, (), "x", "human", Split.TRAIN)
    other = replace(first, example_id="b", variables={"message": "hello there "}, split=Split.TEST)
    found = kept_apart(sample([first, other]), LIVE)
    assert not found.passed and found.figures["on_two_sides"] == 2


def test_a_live_demo_among_the_test_rows_is_found() -> None:
    rows = parcels()
    test = rows.rows(Split.TEST)[0]
    found = kept_apart(rows, replace(LIVE, demos=(Demo("u", "a", test.example_id),)))
    assert not found.passed
    assert test.example_id in found.words


def test_answers_in_balance_pass_and_one_that_is_nearly_all_does_not() -> None:
    def rows(n_rare: int) -> list[Example]:
        return [
            Example(f"{s}{n}", {"message": f"{s}{n}"}, (), "rare" if n < n_rare else "common", "human", s)
            for s in Split
            for n in range(20)
        ]

    assert balanced(sample(rows(8))).passed
    assert "95% of the rows" in balanced(sample(rows(1))).words
    only_train = [replace(e, expected="common") if e.split is Split.TEST else e for e in rows(8)]
    assert "no 'rare' in test" in balanced(sample(only_train)).words
    assert balanced(parcels()).passed, "free answers are no closed list"


@pytest.mark.parametrize(
    ("sanity", "passed"),
    [
        (None, True),
        (EvaluatorSanity(10, 1.0, 0.0, True), True),
        (EvaluatorSanity(10, 1.0, None, True), True),
        (EvaluatorSanity(10, 0.5, 0.5, False), False),
    ],
)
def test_an_evaluator_must_tell_right_from_wrong(sanity: EvaluatorSanity | None, passed: bool) -> None:
    assert tells_right_from_wrong(sanity).passed is passed


@settings(max_examples=60)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50) | st.none(), st.integers(0, 50) | st.none())
def test_a_bill_is_within_budget_when_no_limit_is_passed(
    calls: int, tokens: int, max_calls: int | None, max_tokens: int | None
) -> None:
    found = within_budget(Spending(calls, tokens, 0), Allowance(max_calls, max_tokens))
    kept = (max_calls is None or calls <= max_calls) and (max_tokens is None or tokens <= max_tokens)
    assert found.passed == kept

"""What a judge's reply says; what it does not say plainly is no verdict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.evaluation import Reply
from rs_pipelines.evaluators.verdicts import read_grade, read_preference

WORDS = st.sampled_from(
    ["score", "{", "}", '"score"', ":", "4", "5/5", "-1", "1e9", "A", "B", "tie", "[[", "]]", '{"better": "B"}', "\n"]
)
REPLIES = st.builds(Reply, st.text() | st.lists(WORDS | st.text(max_size=4)).map(" ".join), st.booleans())


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ('It is right. {"score": 4}', 4),
        ('{"score": 2} would be harsh, so {"score": 4}', 4),
        ('```json\n{\n "reason": "it lacks {1} of 3 {\\"score\\": 1}",\n "score": "4"\n}\n```', 4),
        ('{"reason": "3 of 5 points", "Score": "4/5"}', 4),
        ("**Score:** 4\nTwo of the 3 points are met.", 4),
        ("score: 2. No: score: 4. It names 3 of 3.", 4),
        ("Rating is 4/5", 4),
        ("I would give it 4 out of 5.", 4),
        ("4/5", 4),
        ("3.5", 3.5),
        ("4", 4),
        ("First 2, but then 4", 4),
        ("<think>score: 1</think>\n4", 4),
        ('{"score": 4', 4),
    ],
)
def test_a_grade_is_read_however_it_is_put(text: str, grade: float) -> None:
    assert read_grade(Reply(text), low=1, high=5) == pytest.approx((grade - 1) / 4)


@pytest.mark.parametrize(
    "text",
    [
        *("", "good", "10", "0", "-3", "score: 9", '{"score": null}', '{"score": true}', '{"score": NaN}'),
        *("9" * 5000, '{"score": ' + "9" * 400 + "}", "{" * 3000, '{"a":' * 3000),
    ],
)
def test_what_is_no_grade_on_the_scale_is_none(text: str) -> None:
    assert read_grade(Reply(text), low=1, high=5) is None


def test_the_last_number_of_a_reply_that_was_cut_off_is_not_believed() -> None:
    assert read_grade(Reply("It meets 2", cut=True), low=1, high=5) is None
    assert read_grade(Reply('{"score": 2} since it is', cut=True), low=1, high=5) == 0.25


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('A is short. {"better": "B"}', 0),
        ('{"better": "b"}', 0),
        ('{"better": "Answer A"}', 1),
        ('{"winner": "tie"}', 0.5),
        ("Verdict: A", 1),
        ("**Better:** answer B, since A is vague", 0),
        ("The verdict is a tie", 0.5),
        ("My choice: [[B]]", 0),
        ("[[C]]", 0.5),
        ("Both are fine, one is longer.\n\nA.", 1),
        ("tie", 0.5),
    ],
)
def test_a_preference_is_read_however_it_is_put(text: str, value: float) -> None:
    assert read_preference(Reply(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A good answer, and B is one too",
        "Answer A is better than Answer B",
        '{"better": "both"}',
        "The better is a",
    ],
)
def test_a_letter_within_a_sentence_is_no_preference(text: str) -> None:
    assert read_preference(Reply(text)) is None


@given(REPLIES, st.sampled_from([(1, 5), (0, 1), (-10, 10), (0.5, 0.75)]))
def test_any_reply_is_a_value_between_0_and_1_or_none(reply: Reply, scale: tuple[float, float]) -> None:
    grade, preference = read_grade(reply, low=scale[0], high=scale[1]), read_preference(reply)
    assert grade is None or 0 <= grade <= 1
    assert preference in (None, 0, 0.5, 1)

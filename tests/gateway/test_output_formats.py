"""Output formats: what is written can be read, whatever comes breaks nothing, and only whole answers are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.output_formats import OutputFormat, Reading, admits, parse, read_answer, sentence, write

BARE, LABELLED, JSON = OutputFormat
formats = st.sampled_from(OutputFormat)


@given(formats, st.text())
def test_what_a_format_admits_is_read_as_it_was_written(output: OutputFormat, answer: str) -> None:
    for text in (answer, answer.strip()):
        if admits(output, text):
            assert parse(output, write(output, text)) == text


@given(formats, st.text(st.characters() | st.sampled_from('{}"\\[:\n Answer*')))
def test_no_text_makes_the_parser_fail(output: OutputFormat, text: str) -> None:
    assert output is not BARE or parse(output, text) == text
    answer = parse(output, text)
    assert answer is None or output is BARE or answer.encode()


@pytest.mark.parametrize("text", ["{" * 100_000, '{"answer":' * 100_000, '{"a": [' * 50_000, '{"' * 100_000])
def test_long_texts_of_braces_cost_no_time(text: str) -> None:
    assert parse(JSON, text) is None


def test_bare_admits_everything_and_says_nothing() -> None:
    assert admits(BARE, "\ud800\n")
    assert sentence(BARE) == ""
    assert write(BARE, "x\ny") == "x\ny"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: AX-1234", "AX-1234"),
        ("  answer:AX-1234  ", "AX-1234"),
        ("Let me think.\nIt says AX.\n\nAnswer: AX-1234\nQuestion: next\nAnswer: other", "AX-1234"),
        ("**Answer:** AX-1234", "AX-1234"),
        ("**Answer**: **AX-1234**", "**AX-1234**"),
        ("Answer:\nAX-1234\n", "AX-1234"),
        ("Answer: AX-1234\r\nmore", "AX-1234"),
        ("Answer: Answer: x", "Answer: x"),
        ("The Answer: x", None),
        ("Answer:", None),
        ("Answer: \n ", None),
        ("AX-1234", None),
        ("", None),
    ],
)
def test_a_labelled_line_is_found(text: str, answer: str | None) -> None:
    assert parse(LABELLED, text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"answer": "AX-1234"}', "AX-1234"),
        ('Here it is {see}:\n```json\n{\n "answer": "a\\nb"\n}\n```\n{"answer": "no"}', "a\nb"),
        ('{"reason": "it says so", "answer": ""}', ""),
        ('{"answer": 1.50}', "1.50"),
        ('{"answer": -7}', "-7"),
        ('{"answer": true}', "true"),
        ('{"answer": {"city": "Bonn"}}', '{"city": "Bonn"}'),
        ('{"answer": null}', None),
        ('{"Answer": "x"}', None),
        ('{"answer": "cut', None),
        ('{"answer": "\\ud800"}', None),
        ('["answer"]', None),
        ("AX-1234", None),
    ],
)
def test_a_json_answer_is_found(text: str, answer: str | None) -> None:
    assert parse(JSON, text) == answer


@pytest.mark.parametrize("answer", ["", " x", "x\n", "a\nb", "a\u2028b", "\ud800"])
def test_a_line_cannot_hold_what_is_no_line(answer: str) -> None:
    assert not admits(LABELLED, answer)


def test_json_is_for_answers_that_are_none_themselves() -> None:
    assert not admits(JSON, ' {"order": 1}')
    assert not admits(JSON, "[1]")
    assert admits(JSON, 'say "no"\nor {yes}')
    assert json.loads(write(JSON, 'say "no"')) == {"answer": 'say "no"'}


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", None])
def test_an_answer_that_was_cut_short_is_not_looked_into(finish_reason: str | None) -> None:
    assert read_answer(JSON, '{"answer": "x"}', finish_reason=finish_reason) == Reading('{"answer": "x"}', None)


def test_an_application_gets_the_bare_answer_or_what_came() -> None:
    assert read_answer(LABELLED, "Answer: x", finish_reason="stop") == Reading("x", True)
    assert read_answer(LABELLED, "I think x", finish_reason="stop") == Reading("I think x", False)
    assert read_answer(BARE, "Answer: x", finish_reason="stop") == Reading("Answer: x", None)

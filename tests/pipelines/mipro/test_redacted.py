"""Redaction of train rows: what a configuration takes out never gets into a demo or to the prompt model."""

from dataclasses import replace
from pathlib import Path

import anyio
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import ScriptedChat, message_text
from rs_gateway.domain.prompts import Demo, PromptText
from rs_gateway.domain.redaction import BUILT_IN, RedactionError, Redactor, Rule
from rs_pipelines.mipro.demos import demo_rows
from rs_pipelines.mipro.earlier import usable_demos
from rs_pipelines.mipro.redacted import redacted_examples
from rs_pipelines.mipro.request import study_id_of
from rs_pipelines.mipro.search import run_study
from rs_pipelines.sample import Example, Split, sample_of
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import EVALUATOR, LIVE, cache_at, models, parcels, request, tiny_model

EMAILS = Redactor([BUILT_IN["emails"]])


def row(message: str, expected: str = "x") -> Example:
    said = ({"role": "user", "content": message},)
    return Example("e1", {"message": message}, said, expected, "imported", Split.TRAIN)


def test_variables_and_messages_are_redacted_and_the_row_keeps_its_id() -> None:
    (redacted,) = redacted_examples([row("from ann@example.com")], EMAILS)
    assert redacted.example_id == "e1"
    assert redacted.variables == {"message": "from [email]"}
    assert redacted.messages[0]["content"] == "from [email]"


def test_a_row_whose_answer_would_be_redacted_is_left_out() -> None:
    assert redacted_examples([row("who wrote this?", "ann@example.com")], EMAILS) == ()


def test_a_row_that_a_rule_fails_on_is_left_out() -> None:
    def fail(text: str) -> str:
        if "bad" in text:
            raise RedactionError("no")
        return text

    assert redacted_examples([row("bad"), row("good")], Redactor([Rule("own", fail)])) == (row("good"),)


def test_without_rules_rows_stay_as_they_are() -> None:
    assert redacted_examples([row("ann@example.com")], None) == (row("ann@example.com"),)


def test_an_earlier_winners_demo_that_is_to_be_redacted_by_now_is_not_shown_again() -> None:
    winner = PromptText("Find it.", "{message}", (Demo("from ann@example.com", "x"), Demo("hello", "y")))
    assert usable_demos(winner, held_out=(), inputs=(), redactor=EMAILS).demos == (Demo("hello", "y"),)
    assert usable_demos(winner, held_out=(), inputs=()).demos == winner.demos


@given(st.lists(st.sampled_from(["ann@example.com", "bob@example.org", "hello", "{", "parcel"]), max_size=8))
def test_no_demo_shows_what_is_redacted(words: list[str]) -> None:
    redacted = redacted_examples([row(" ".join(words))], EMAILS)
    for made in demo_rows(LIVE, redacted, template_id="t", seed=0):
        assert "@" not in made.demo.user


def test_a_search_sends_no_train_row_unredacted(tmp_path: Path) -> None:
    examples = tuple(
        replace(e, variables={"message": e.variables["message"] + " says ann@example.com"})
        if e.split is Split.TRAIN
        else e
        for e in parcels().examples
    )
    wanted = replace(request(), sample=sample_of("parcels", "tiny", examples), redactor=EMAILS)
    chat = ScriptedChat(tiny_model)
    asked = models(chat, cache_at(tmp_path))

    async def search() -> None:
        record = await run_study(wanted, asked, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "studies"))
        assert any("[email]" in demo.user for demo_set in record.demo_sets for demo in demo_set.demos)

    anyio.run(search)
    assert "ann@example.com" not in "".join(message_text(m) for call in chat.calls for m in call.messages)
    assert study_id_of(wanted, asked, EVALUATOR) != study_id_of(replace(wanted, redactor=None), asked, EVALUATOR)

"""Instructions: the live one always, plain rewrites, and only proposals that can be served."""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import ScriptedChat, message_text
from rs_gateway.domain.errors import ProviderRefusedError
from rs_gateway.domain.placeholders import parse_text, render
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.mipro.demos import DemoRow, demo_rows
from rs_pipelines.mipro.instructions import build_instructions, checked_proposal, output_line, plain_rewrites
from rs_pipelines.mipro.records import Instruction
from rs_pipelines.sample import Split
from tests.pipelines.parcels import LIVE, cache_at, model, parcel, parcels, small_plan, tiny_model

ROWS = demo_rows(LIVE, parcels().rows(Split.TRAIN), template_id="parcels", seed=0)
WITH_PLACEHOLDER = PromptText("Answer {customer} as JSON like {{}}.", "{message}")


def rows_labelled(*labels: str) -> list[DemoRow]:
    examples = tuple(replace(parcel(n, Split.TRAIN), expected=labels[n % len(labels)]) for n in range(40))
    return demo_rows(LIVE, examples, template_id="parcels", seed=0)


def built(chat: ScriptedChat, tmp_path: Path) -> tuple[Instruction, ...]:
    async def build() -> tuple[Instruction, ...]:
        return await build_instructions(
            LIVE, ROWS, plan=small_plan(), model=model(chat, cache_at(tmp_path)), on_proposing=lambda n: None
        )

    return anyio.run(build)


def test_the_live_instruction_comes_first_and_a_good_proposal_is_among_the_others(tmp_path: Path) -> None:
    instructions = built(ScriptedChat(tiny_model), tmp_path)
    assert instructions[0] == Instruction(LIVE.instruction, "live")
    assert [i.source for i in instructions] == ["live", "rewrite", "rewrite", "proposed"]


@pytest.mark.parametrize("junk", ["", "person", "x" * 5000, "Hello, {message}", ROWS[0].demo.user])
def test_a_proposer_that_writes_junk_leaves_live_and_rewrites(junk: str, tmp_path: Path) -> None:
    instructions = built(ScriptedChat([junk]), tmp_path)
    assert [i.source for i in instructions][:3] == ["live", "rewrite", "rewrite"]
    assert junk == "person" or len(instructions) == 3


def test_a_proposer_that_cannot_be_reached_leaves_live_and_rewrites(tmp_path: Path) -> None:
    chat = ScriptedChat([ProviderRefusedError("no", provider="scripted", status=401)])
    assert [i.source for i in built(chat, tmp_path)] == ["live", "rewrite", "rewrite"]


def test_the_proposer_sees_train_rows_only(tmp_path: Path) -> None:
    chat = ScriptedChat(tiny_model)
    built(chat, tmp_path)
    asked = "".join(str(call.messages) for call in chat.calls)
    unseen = [e for split in (Split.VAL, Split.TEST) for e in parcels().rows(split)]
    assert not [e for e in unseen if e.variables["message"] in asked]


def test_a_closed_list_of_labels_is_named() -> None:
    assert output_line(rows_labelled("refund", "return", "refund")) == (
        "Answer with exactly one of these labels and nothing else: refund, return."
    )


def test_json_answers_name_their_keys_and_survive_rendering() -> None:
    rows = rows_labelled('{"product": "lamp", "problem": null}', '{"product": "book", "problem": "torn"}')
    rewrites = plain_rewrites("Extract.", rows)
    assert 'these keys: "product", "problem".' in render(rewrites[0], {}, template_id="t")


def test_values_copied_from_the_message_are_said_to_be() -> None:
    assert "copied exactly" in (output_line(ROWS) or "")


def test_a_proposal_that_drops_a_placeholder_is_refused() -> None:
    assert checked_proposal("Answer politely.", WITH_PLACEHOLDER, ROWS, others=[]) is None


def test_a_proposal_that_uses_a_variable_of_the_user_text_is_refused() -> None:
    assert checked_proposal("Answer {customer} on {message}.", WITH_PLACEHOLDER, ROWS, others=[]) is None


def test_stray_braces_of_a_proposal_are_literal() -> None:
    proposal = checked_proposal('Answer {customer} with {"a": 1} and {this.}', WITH_PLACEHOLDER, ROWS, others=[])
    assert proposal is not None
    assert render(proposal, {"customer": "Jo"}, template_id="t") == 'Answer Jo with {"a": 1} and {this.}'


def test_a_proposal_that_quotes_a_row_is_refused() -> None:
    quoting = f"Find the number, as in: {ROWS[3].demo.user.upper()}"
    assert checked_proposal(quoting, LIVE, ROWS, others=[]) is None


def test_a_proposal_with_a_long_part_of_a_row_is_refused() -> None:
    part = ROWS[3].demo.user[5:-20]
    assert len(part) >= 40
    assert checked_proposal(f"Such as '{part}' and others: find the number.", LIVE, ROWS, others=[]) is None


def test_a_phrase_that_many_rows_share_is_no_quote() -> None:
    phrase = "I would like to know what became of my order please"
    examples = tuple(
        replace(parcel(n, Split.TRAIN), variables={"message": f"{n} {phrase} {parcel(n, Split.TRAIN).expected}"})
        for n in range(40)
    )
    rows = demo_rows(LIVE, examples, template_id="parcels", seed=0)
    assert checked_proposal(f"Many say: {phrase}. Give the number.", LIVE, rows, others=[]) is not None


def test_the_proposer_is_told_the_live_score_and_how_an_input_is_sent(tmp_path: Path) -> None:
    chat = ScriptedChat(tiny_model)

    async def build() -> None:
        await build_instructions(
            LIVE,
            ROWS,
            plan=small_plan(),
            model=model(chat, cache_at(tmp_path)),
            on_proposing=lambda n: None,
            live_score=0.4321,
        )

    anyio.run(build)
    asked = message_text(chat.calls[-1].messages[-1])
    assert "0.43" in asked
    assert "Each input is sent as:\n---\n{message}\n---" in asked
    assert "Find the parcel number." in asked
    assert "an input has about 14 words, an answer about 1" in asked


def test_an_instruction_that_says_what_an_answer_looks_like_is_not_told_so_again() -> None:
    told = f"Sort it. {output_line(rows_labelled('a', 'b'))}"
    (rewrite,) = plain_rewrites(told, rows_labelled("a", "b"))
    assert rewrite.count("exactly one of these labels") == 1
    assert plain_rewrites(rewrite, rows_labelled("a", "b")) == []


@settings(max_examples=100)
@given(st.integers(0, len(ROWS) - 1), st.integers(0, 10), st.text(max_size=30), st.text(max_size=30))
def test_no_proposal_that_holds_a_row_is_ever_accepted(n: int, cut: int, before: str, after: str) -> None:
    quoted = ROWS[n].demo.user[cut:]
    assert checked_proposal(f"{before} {quoted} {after}", LIVE, ROWS, others=[]) is None


def test_a_proposal_that_only_repeats_what_is_there_is_refused() -> None:
    assert checked_proposal("find  the parcel NUMBER.", LIVE, ROWS, others=[LIVE.instruction]) is None


def test_what_models_wrap_around_an_answer_is_taken_off_and_nothing_else() -> None:
    wrapped = '```text\nInstruction: "Classify the message: choose one."\n```'
    assert checked_proposal(wrapped, LIVE, ROWS, others=[]) == "Classify the message: choose one."


@settings(max_examples=150)
@given(st.text(alphabet="ab {}customermessage\n\"'`", max_size=60))
def test_whatever_is_proposed_is_refused_or_renders_as_it_was_written(raw: str) -> None:
    proposal = checked_proposal(raw + " {customer}", WITH_PLACEHOLDER, ROWS, others=[])
    if proposal is not None:
        assert {name for _, name in parse_text(proposal) if name} == {"customer"}
        assert "{{" not in raw or "{" in render(proposal, {"customer": "Jo"}, template_id="t")


@settings(max_examples=60)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6))
def test_rewrites_for_any_labels_can_be_rendered(labels: list[str]) -> None:
    for rewrite in plain_rewrites("Do {it}.", rows_labelled(*labels)):
        assert {name for _, name in parse_text(rewrite) if name} == {"it"}

"""Output formats in the search: what is optimised is what is served, and the format that works is found."""

import json
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, message_text
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.output_formats import OutputFormat, admits, sentence, write
from rs_gateway.domain.placeholders import escape_text
from rs_gateway.domain.prompts import Demo, PromptTemplate, PromptText, check_text
from rs_pipelines.mipro.estimates import GainEstimates
from rs_pipelines.mipro.formats import in_format, offered_formats, without_format
from rs_pipelines.mipro.records import LIVE as LIVE_CANDIDATE
from rs_pipelines.mipro.records import Candidate, StudyRecord, decode_study, encode_study
from rs_pipelines.mipro.request import study_id_of
from rs_pipelines.mipro.search import run_study
from rs_pipelines.report import candidate_name
from rs_pipelines.sample import Example, Split
from rs_pipelines.scoring import score_rows
from rs_pipelines.studies import StudyFiles
from rs_pipelines.workbench import Workbench
from tests.pipelines.parcels import EVALUATOR, LIVE, cache_at, chance, demo, model, models, parcel, parcels, request
from tests.running import write_configuration

BARE, LABELLED, JSON = OutputFormat
ALL = frozenset(OutputFormat)
TRAIN = parcels().rows(Split.TRAIN)
TEMPLATE = PromptTemplate("parcels", "Parcels", ("message",), {})


def formatted(call: ProviderCall) -> Reply:
    """Right nearly always when it is to answer in JSON; talks otherwise. As `tiny_model` it proposes when asked to."""
    texts = [message_text(message) for message in call.messages]
    if "instruction" in texts[-1]:
        return f"Look for the parcel number (idea {call.parameters['seed']})."
    found = next((word for word in texts[-1].split() if word[2:3] == "-"), "none")
    if sentence(JSON) not in texts[0]:
        return f"I think that it is {found}."
    return f'Here: {{"answer": "{found}"}}' if chance(texts[-1]) < 0.95 else "No idea."


async def search(
    folder: Path, live: PromptText = LIVE, wanted: frozenset[OutputFormat] = ALL, chat: ScriptedChat | None = None
) -> StudyRecord:
    asked = models(chat or ScriptedChat(formatted), cache_at(folder))
    asking = replace(request(live=live), output_formats=wanted)
    return await run_study(asking, asked, evaluator=EVALUATOR, files=StudyFiles(folder / "studies"))


def searched(
    folder: Path, live: PromptText = LIVE, *, wanted: frozenset[OutputFormat] = ALL, chat: ScriptedChat | None = None
) -> StudyRecord:
    return anyio.run(search, folder, live, wanted, chat)


def test_a_format_that_the_model_keeps_to_is_found_and_chosen(tmp_path: Path) -> None:
    record = searched(tmp_path)
    assert record.output_formats == (BARE, LABELLED, JSON)
    assert record.live_value == 0
    assert (record.best_value or 0) > 0.9
    best = record.best_text
    assert best is not None
    assert best.output is JSON
    assert best.instruction.endswith(sentence(JSON))
    assert all(json.loads(member.assistant)["answer"] for member in best.demos)
    assert best.content_hash == record.best_hash
    check_text(best, template=TEMPLATE)
    assert decode_study(encode_study(record)) == record
    assert candidate_name(record, record.best).endswith(" x json")


def test_what_is_scored_is_what_an_application_would_get(tmp_path: Path) -> None:
    text = in_format(LIVE, LABELLED)
    rows = [parcel(n, Split.VAL) for n in range(3)]
    said = {rows[0].expected: f"Well.\nAnswer: {rows[0].expected}", rows[1].expected: "It is late."}

    def answer(call: ProviderCall) -> Reply:
        number = next(word for word in message_text(call.messages[-1]).split() if word[2:3] == "-")
        return said.get(number, "Answer: other")

    asked = model(ScriptedChat(answer), cache_at(tmp_path))

    async def scored() -> list[str | None]:
        scores = await score_rows(text, rows, template_id="parcels", model=asked, evaluator=EVALUATOR)
        assert [score.value for score in scores] == [1, 0, 0]
        return [score.output for score in scores]

    assert anyio.run(scored) == [rows[0].expected, "It is late.", "other"]


def test_a_study_of_a_labelled_live_version_starts_from_exactly_that_version(tmp_path: Path) -> None:
    live = in_format(replace(LIVE, demos=(demo(1), demo(2))), LABELLED)
    chat = ScriptedChat(formatted)
    record = searched(tmp_path, live, chat=chat)
    assert record.output_formats == (LABELLED, BARE, JSON)
    assert record.text_of(LIVE_CANDIDATE) == live
    assert record.instructions[0].text == LIVE.instruction
    assert record.demo_sets[0].demos == (demo(1), demo(2))
    assert record.text_of(Candidate(0, 0, 1)) == replace(LIVE, demos=(demo(1), demo(2)))
    for candidate in (entry.candidate for entry in record.rows):
        text = record.text_of(candidate)
        check_text(text, template=TEMPLATE)
        said = [output for output in (LABELLED, JSON) if sentence(output) in text.instruction]
        assert said == ([] if text.output is BARE else [text.output])
    assert record.best_text is not None
    assert record.best_text.output is JSON


def test_a_format_in_words_of_its_own_is_kept(tmp_path: Path) -> None:
    live = PromptText("Say ANSWER: and the number.", "{message}", (Demo("x", "ANSWER: y"),), LABELLED)
    record = searched(tmp_path, live)
    assert record.output_formats == (LABELLED,)
    assert record.text_of(LIVE_CANDIDATE) == live
    assert record.text_of(Candidate(0, 1)).instruction == live.instruction


def test_formats_that_cannot_hold_an_expected_answer_are_left_out() -> None:
    def train(expected: str) -> list[Example]:
        return [*TRAIN, replace(TRAIN[0], expected=expected)]

    assert offered_formats(LIVE, TRAIN, wanted=ALL) == (BARE, LABELLED, JSON)
    assert offered_formats(LIVE, train("two\nlines"), wanted=ALL) == (BARE, JSON)
    assert offered_formats(LIVE, train('{"a": 1}'), wanted=ALL) == (BARE, LABELLED)
    assert offered_formats(LIVE, train(" one \n"), wanted=ALL) == (BARE, LABELLED, JSON)
    assert offered_formats(LIVE, TRAIN, wanted={JSON}) == (BARE, JSON)
    assert offered_formats(in_format(LIVE, JSON), TRAIN, wanted={LABELLED}) == (JSON, LABELLED)


@given(st.sampled_from(OutputFormat), st.text(), st.lists(st.tuples(st.text(), st.text())))
def test_a_prompt_taken_out_of_its_format_is_the_prompt_that_went_in(
    output: OutputFormat, instruction: str, pairs: list[tuple[str, str]]
) -> None:
    demos = tuple(Demo(user, a.strip()) for user, a in pairs if admits(output, a.strip()))
    text = PromptText(escape_text(instruction), "{q}", demos)
    written = in_format(text, output)
    assert written.output is output
    assert [d.assistant for d in written.demos] == [write(output, d.assistant) for d in demos]
    assert without_format(written) == text


def test_studies_from_before_there_were_formats_stay_readable_and_keep_their_ids(tmp_path: Path) -> None:
    record = searched(tmp_path, wanted=frozenset({BARE}))
    old = msgspec.json.decode(encode_study(record))
    del old["output_formats"], old["live_text"]["output"], old["best_text"]["output"], old["best"]["output_format"]
    for entry in (*old["trials"], *old["rows"]):
        del entry["candidate"]["output_format"]
    assert decode_study(msgspec.json.encode(old)) == record
    asked = models(ScriptedChat(formatted), cache_at(tmp_path))
    ids = {study_id_of(replace(request(), output_formats=wanted), asked, EVALUATOR) for wanted in (ALL, {BARE, JSON})}
    assert len(ids | {record.study_id}) == 3


def test_a_killed_study_of_several_formats_goes_on_as_if_it_never_was(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole")

    async def killed() -> bool:
        with anyio.CancelScope() as scope:
            chat = ScriptedChat(lambda call: (scope.cancel() if len(chat.calls) >= 105 else None, formatted(call))[1])
            await search(tmp_path / "cut", chat=chat)
        return scope.cancelled_caught

    assert anyio.run(killed)
    resumed = searched(tmp_path / "cut")
    assert [(t.candidate, t.value) for t in resumed.trials] == [(t.candidate, t.value) for t in whole.trials]
    assert resumed.best_text == whole.best_text


def test_a_model_that_is_told_its_format_by_a_parameter_gets_no_other(tmp_path: Path) -> None:
    def formats(**parameters: object) -> frozenset[OutputFormat]:
        combination = {"id": "c", "template_id": "parcels", "model": "m", "provider": "p", "parameters": parameters}
        configuration = {
            "model_providers": {"p": {"base_url": "http://127.0.0.1:1/v1"}},
            "gateway": {"combinations": [combination]},
            "mipro_v2": {"output_formats": [str(one) for one in ALL]},
        }
        bench = Workbench.at(write_configuration(tmp_path, configuration))
        return bench.output_formats(bench.target("parcels"))

    assert formats(temperature=0) == ALL
    assert formats(response_format={"type": "json_object"}) == {BARE}
    assert formats(tools=[]) == {BARE}


def test_a_good_format_is_expected_to_be_good_with_what_it_was_not_seen_with() -> None:
    rows = range(60)
    results = {LIVE_CANDIDATE: dict.fromkeys(rows, 0.2), Candidate(0, 0, 1): dict.fromkeys(rows, 0.8)}
    results[Candidate(1, 1, 0)] = dict.fromkeys(rows, 0.3)
    estimates = GainEstimates(results)
    assert estimates.gain(Candidate(1, 1, 1)) > estimates.gain(Candidate(1, 1, 0)) > 0
    assert estimates.gain(Candidate(2, 2, 1)) > estimates.gain(Candidate(2, 2, 2)) == 0

"""Warm start: what earlier searches found is tried again, and nothing of it spoils the new one's judgement."""

from dataclasses import replace
from pathlib import Path

import anyio

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.prompts import Origin, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_pipelines.mipro.earlier import earlier_winners, untried_drafts, usable_demos
from rs_pipelines.mipro.records import LIVE, Candidate, StudyRecord
from rs_pipelines.mipro.search import run_study
from rs_pipelines.sample import Split
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import EVALUATOR, cache_at, demo, models, parcels, request, tiny_model

WINNER = PromptText("Read the message. Give only the parcel number.", "{message}", tuple(demo(n) for n in range(3)))


def searched(folder: Path, *earlier: PromptText) -> StudyRecord:
    async def study() -> StudyRecord:
        asked = models(ScriptedChat(tiny_model), cache_at(folder))
        wanted = replace(request(), earlier=earlier)
        return await run_study(wanted, asked, evaluator=EVALUATOR, files=StudyFiles(folder / "studies"))

    return anyio.run(study)


def test_winners_are_those_of_other_samples_the_newest_first(tmp_path: Path) -> None:
    record = replace(searched(tmp_path), best=Candidate(1, 1))
    texts = [replace(WINNER, instruction=f"{n}. {WINNER.instruction}") for n in range(4)]
    studies = [
        replace(record, sample_id=f"sample {n}", best_text=text, finished=n != 1) for n, text in enumerate(texts)
    ]
    studies.append(replace(record, sample_id="kept", best=LIVE, best_text=record.live_text))
    found = earlier_winners(studies, sample_id="sample 3", live_hash="", refused=())
    assert found == (texts[2], texts[0])
    refused = earlier_winners(
        studies, sample_id="new", live_hash=texts[3].content_hash, refused=[texts[2].content_hash]
    )
    assert refused == (texts[0],)


def test_an_earlier_winner_is_a_contender_with_its_instruction_and_its_demos(tmp_path: Path) -> None:
    record = searched(tmp_path, WINNER)
    assert record.instructions[1].text == WINNER.instruction
    assert [s.demos for s in record.demo_sets if s.kind == "earlier"] == [WINNER.demos]
    assert record.study_id != searched(tmp_path / "cold").study_id


def test_an_instruction_without_the_live_ones_placeholders_is_left_out(tmp_path: Path) -> None:
    record = searched(tmp_path, replace(WINNER, instruction="Answer {customer}."))
    assert all(instruction.source != "earlier" for instruction in record.instructions)


def test_demos_that_are_validated_or_proven_on_now_are_dropped() -> None:
    val = parcels().rows(Split.VAL)[0]
    held = replace(demo(0), example_id=val.example_id)
    same_text = replace(demo(1), example_id=None)
    text = replace(WINNER, demos=(held, same_text, demo(2)))
    assert usable_demos(text, held_out={val.example_id}, inputs={same_text.user}).demos == (demo(2),)


def test_a_draft_that_never_was_live_gets_its_chance_and_no_other_version_does(tmp_path: Path) -> None:
    registry, origin = PromptFiles(tmp_path), Origin("registered", "ann", "2026-01-01T00:00:00+00:00")
    template = PromptTemplate("parcels", "Parcels", ("message",), {})
    registry.register(template, PromptText("Live.", "{message}"), origin=origin)
    for name, model in (("Was live.", None), ("Taken back.", None), ("Mine.", "tiny"), ("Not mine.", "large")):
        registry.add_version("parcels", PromptText(name, "{message}"), model=model, origin=origin)
    found_here = replace(origin, study_id="s1")
    registry.add_version("parcels", PromptText("Found here.", "{message}"), model="tiny", origin=found_here)
    registry.add_version("parcels", PromptText("From elsewhere.", "{message}"), model=None, origin=origin)
    registry.make_live("parcels", Change(Action.PUBLISH, 2, None, "ann", "now", "why", 1))
    registry.make_live("parcels", Change(Action.ROLLBACK, 1, None, "ann", "now", "why", 2))
    registered = registry.get("parcels")
    refused = {registered.versions[3].text.content_hash}
    found = untried_drafts(registered, "tiny", searched={"s1"}, refused=refused)
    assert [text.instruction for text in found] == ["From elsewhere.", "Mine."]

"""The final choice: what decided it is kept, and a person can read it beside the table of candidates."""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_pipelines.mipro.budget import PlanNumbers, SearchPolicy, plan_for
from rs_pipelines.mipro.choice import choice_of, rule_of, weighed
from rs_pipelines.mipro.records import (
    LIVE,
    Candidate,
    CandidateRows,
    DemoSet,
    Instruction,
    StudyRecord,
    decode_study,
    encode_study,
)
from rs_pipelines.mipro.reserve import prompt_length
from rs_pipelines.mipro.search import run_study
from rs_pipelines.progress import print_study
from rs_pipelines.report import leaders, nearest_words, trials_markdown
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import EVALUATOR, TARGET, cache_at, demo, models, request, small_plan, tiny_model
from tests.pipelines.parcels import LIVE as LIVE_TEXT

STEADY, LUCKY = Candidate(1, 1), Candidate(0, 1)


def scores(right: int, of: int) -> list[float]:
    """So many right ones, spread evenly."""
    return [float((n + 1) * right // of > n * right // of) for n in range(of)]


def record(
    results: Mapping[Candidate, Sequence[float]] | None = None, *, search: SearchPolicy = "racing", n_rows: int = 60
) -> StudyRecord:
    """A finished search over two instructions and two demo sets; one candidate was seen on 24 rows, one on 12."""
    results = results or {LIVE: scores(15, n_rows), LUCKY: scores(8, 12), STEADY: scores(13, 24)}
    demo_sets = (DemoSet("live", "live", ()), DemoSet("labeled-2", "labeled", (demo(1), demo(2))))
    made = StudyRecord(
        study_id="s",
        target=TARGET,
        sample_id="x",
        live_version=1,
        live_hash=LIVE_TEXT.content_hash,
        live_text=LIVE_TEXT,
        evaluator="ExactMatch@1",
        plan=small_plan(n_rows, search=search),
        started_at="2026-01-01T00:00:00+00:00",
        row_order=tuple(f"e{n}" for n in range(n_rows)),
        instructions=(Instruction(LIVE_TEXT.instruction, "live"), Instruction("Only the number, please.", "rewrite")),
        demo_sets=demo_sets,
        rows=tuple(CandidateRows(candidate, tuple(values)) for candidate, values in sorted(results.items())),
        finished=True,
    )
    return decided(made)


def decided(study: StudyRecord) -> StudyRecord:
    return replace(study, best=choice_of(study), weighed=weighed(study))


def printed(study: StudyRecord) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    print_study(console, study)
    return " ".join(console.export_text().split())


def test_a_high_mean_of_too_few_rows_is_not_chosen_and_the_table_says_why() -> None:
    study = record()
    assert study.best == STEADY
    shown = leaders(study)
    assert [leader.candidate for leader in shown] == [STEADY, LUCKY, LIVE]
    assert [(round(leader.mean, 3), leader.n_rows) for leader in shown] == [(0.542, 24), (0.667, 12), (0.25, 60)]
    believed = [leader.weighed.believed for leader in shown if leader.weighed is not None]
    assert believed[1] < 0.667, "twelve rows are believed by part"
    probabilities = [leader.weighed.probability for leader in shown if leader.weighed is not None]
    assert (probabilities[0] or 0) > 0.75
    assert probabilities[2] is None
    rule = (
        "seen on at least 18 of the 60 validation rows and, with a probability of at least 75%, better than live; "
        "less than half a row apart, the shortest prompt."
    )
    for text in (printed(study), trials_markdown(study)):
        assert rule in text
        assert "believed" in text
        assert "beats live" in text
        assert ">99%" in html.unescape(text)


def test_the_live_version_stands_in_the_table_whatever_its_score() -> None:
    many = {Candidate(i, d): scores(50, 60) for i in (0, 1) for d in (0, 1)} | {LIVE: scores(1, 60)}
    assert [leader.candidate for leader in leaders(record(many), limit=1)][1:] == [LIVE]


def test_when_nobody_is_likely_enough_to_be_better_it_says_that_the_live_version_stays() -> None:
    study = record({LIVE: scores(30, 60), STEADY: scores(10, 24)})
    assert study.best == LIVE
    assert "There was none: the live version stays." in rule_of(study)


def test_a_search_that_ended_before_the_live_version_was_known_chooses_nothing() -> None:
    study = record({LIVE: scores(5, 20)})
    assert (study.best, study.weighed) == (LIVE, ())
    assert "nothing was chosen over it" in rule_of(study)
    assert "0.250" in printed(study)


def test_tpe_chooses_among_full_evaluations_and_says_so() -> None:
    study = record({LIVE: scores(15, 60), LUCKY: scores(16, 20), STEADY: scores(36, 60)}, search="tpe")
    assert study.best == STEADY
    assert "those seen on all 60 validation rows" in rule_of(study)
    assert all(one.probability is None for one in study.weighed)


def test_for_cost_the_rule_is_about_length_and_what_is_longer_is_not_chosen() -> None:
    longer = Candidate(1, 0)
    study = record({LIVE: scores(55, 60), longer: scores(56, 60)})
    cheaper = decided(replace(study, objective="cost", max_loss=0.1))
    assert prompt_length(cheaper.text_of(longer)) > prompt_length(cheaper.text_of(LIVE))
    assert cheaper.best == LIVE
    assert "the shortest prompt of those" in rule_of(cheaper)
    assert "not worse than live by over 0.1" in rule_of(cheaper)
    assert str(prompt_length(cheaper.text_of(longer))) in printed(cheaper)


def test_a_real_search_keeps_what_decided_its_choice(tmp_path: Path) -> None:
    async def search() -> StudyRecord:
        asked = models(ScriptedChat(tiny_model), cache_at(tmp_path))
        return await run_study(request(), asked, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "studies"))

    study = anyio.run(search)
    assert decode_study(encode_study(study)) == study
    assert [one.candidate for one in study.weighed] == [entry.candidate for entry in study.rows]
    assert decided(study) == study


def nearest_study(*, pool: DemoSet | None, results: Mapping[Candidate, Sequence[float]]) -> StudyRecord:
    plan = plan_for("light", 60, numbers=PlanNumbers(nearest_demos=True))
    made = replace(record(), plan=plan)
    return decided(
        replace(
            made,
            demo_sets=(made.demo_sets[0], *([pool] if pool is not None else [])),
            rows=tuple(CandidateRows(candidate, tuple(values)) for candidate, values in sorted(results.items())),
        )
    )


POOL = DemoSet("nearest-9", "nearest", tuple(demo(n) for n in range(9)), nearest=4)


@pytest.mark.parametrize(
    ("pool", "results", "words"),
    [
        (POOL, {LIVE: scores(15, 60), Candidate(1, 1): scores(9, 12)}, "best candidate is i1 x d1, 0.750 on 12 rows"),
        (
            POOL,
            {LIVE: scores(15, 60)},
            "the 4 most like it of 9 train rows); the search looked at no candidate with it",
        ),
        (None, {LIVE: scores(15, 60)}, "no pool was tried. It takes more train rows"),
    ],
)
def test_what_became_of_a_pool_of_nearest_demos_is_told(
    pool: DemoSet | None, results: Mapping[Candidate, Sequence[float]], words: str
) -> None:
    study = nearest_study(pool=pool, results=results)
    for text in (nearest_words(study), printed(study), trials_markdown(study)):
        assert text is not None
        assert words in text
    if len(results) > 1:
        assert "d1 (the 4 nearest of 9 demos)" in printed(study)


def test_nothing_is_said_of_a_pool_that_nobody_wanted() -> None:
    assert nearest_words(record()) is None

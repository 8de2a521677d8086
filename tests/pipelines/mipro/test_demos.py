"""Demo sets: from train rows only, diverse, traceable, no input twice, the same for the same seed."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.mipro.demos import (
    DemoRow,
    assemble_demo_sets,
    build_demo_sets,
    demo_rows,
    demo_user_text,
    draw_diverse,
    draw_random,
)
from rs_pipelines.mipro.records import DemoSet
from rs_pipelines.sample import Example, Split
from tests.pipelines.parcels import EVALUATOR, LIVE, cache_at, demo, model, parcel, parcels, small_plan, tiny_model

TRAIN = parcels().rows(Split.TRAIN)


def rows_of(examples: tuple[Example, ...] = TRAIN, text: PromptText = LIVE, seed: int = 0) -> list[DemoRow]:
    return demo_rows(text, examples, template_id="parcels", seed=seed)


def built(tmp_path: Path, text: PromptText = LIVE) -> tuple[DemoSet, ...]:
    async def build() -> tuple[DemoSet, ...]:
        return await build_demo_sets(
            text,
            TRAIN,
            template_id="parcels",
            plan=small_plan(),
            model=model(ScriptedChat(tiny_model), cache_at(tmp_path)),
            evaluator=EVALUATOR,
        )

    return anyio.run(build)


def test_every_demo_is_a_train_row_with_its_expected_answer(tmp_path: Path) -> None:
    by_id = {example.example_id: example for example in TRAIN}
    for demo_set in built(tmp_path):
        for member in demo_set.demos:
            source = by_id[member.example_id or ""]
            assert (member.user, member.assistant) == (source.variables["message"], source.expected)


def test_no_set_shows_an_input_twice_and_no_two_sets_are_equal(tmp_path: Path) -> None:
    sets = built(tmp_path)
    for demo_set in sets:
        assert len({member.user for member in demo_set.demos}) == len(demo_set.demos)
    assert len({tuple((m.user, m.assistant) for m in s.demos) for s in sets}) == len(sets)
    assert len(sets) == small_plan().num_candidates


def test_the_live_versions_own_demos_come_first_and_the_empty_set_next(tmp_path: Path) -> None:
    live = PromptText(LIVE.instruction, LIVE.user, (demo(1), demo(2)))
    sets = built(tmp_path, live)
    assert (sets[0].kind, sets[0].demos) == ("live", live.demos)
    assert (sets[1].kind, sets[1].demos) == ("empty", ())


def test_rows_that_the_model_gets_right_and_wrong_make_sets_of_their_own(tmp_path: Path) -> None:
    assert {"labeled", "hard", "bootstrapped"} <= {demo_set.kind for demo_set in built(tmp_path)}


def test_the_same_seed_draws_the_same_sets(tmp_path: Path) -> None:
    assert built(tmp_path / "a") == built(tmp_path / "b")


def test_without_user_text_the_demo_shows_the_rows_last_user_message() -> None:
    messages = ({"role": "user", "content": "first"}, {"role": "user", "content": [{"type": "text", "text": "last"}]})
    example = Example("e", {}, messages, "x", "human", Split.TRAIN)
    assert demo_user_text(PromptText("Do it."), example, template_id="t") == "last"


def test_a_user_text_that_is_the_same_for_all_rows_is_no_demo() -> None:
    text = PromptText("Sort {message}", "Answer in one word.")
    messages = ({"role": "user", "content": "where is it?"},)
    example = Example("e", {"message": "x"}, messages, "delivery", "human", Split.TRAIN)
    assert demo_user_text(text, example, template_id="t") == "where is it?"
    assert demo_user_text(text, replace(example, messages=()), template_id="t") is None


def test_rows_without_text_or_answer_are_no_demos() -> None:
    silent = Example("a", {"message": "  "}, (), "x", "human", Split.TRAIN)
    unanswered = Example("b", {"message": "hello"}, (), "", "human", Split.TRAIN)
    lacking = Example("c", {}, (), "x", "human", Split.TRAIN)
    assert rows_of((silent, unanswered, lacking)) == []


def test_no_train_rows_leave_the_live_and_the_empty_set() -> None:
    live = PromptText("x", "{message}", (demo(1),))
    sets = assemble_demo_sets(live, [], right=[], wrong=[], plan=small_plan())
    assert [demo_set.kind for demo_set in sets] == ["live", "empty"]


def test_with_demos_switched_off_only_the_empty_and_the_live_set_remain() -> None:
    plan = replace(small_plan(), max_labeled_demos=0, max_bootstrapped_demos=0)
    sets = assemble_demo_sets(LIVE, rows_of(), right=rows_of()[:5], wrong=rows_of()[5:9], plan=plan)
    assert [demo_set.demos for demo_set in sets] == [()]


def test_labels_of_a_closed_list_are_all_shown_before_one_comes_twice() -> None:
    labels = ["red", "green", "blue", "white"]
    examples = tuple(replace(parcel(n, Split.TRAIN), expected=labels[n % 4]) for n in range(60))
    drawn = draw_diverse(rows_of(examples), 4)
    assert sorted(row.demo.assistant for row in drawn) == sorted(labels)


def test_diverse_rows_are_less_alike_than_the_first_ones() -> None:
    alike = [replace(parcel(n, Split.TRAIN), variables={"message": f"where is parcel {n}"}) for n in range(10)]
    other = replace(parcel(99, Split.TRAIN), variables={"message": "my flowers never came"})
    drawn = draw_diverse(rows_of((*alike, other)), 2)
    assert "my flowers never came" in {row.demo.user for row in drawn}


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 30), max_size=30, unique=True),
    st.integers(0, 30),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(1, 12),
)
def test_any_split_into_right_and_wrong_makes_valid_sets(
    numbers: list[int], cut: int, labeled: int, bootstrapped: int, count: int
) -> None:
    rows = rows_of(tuple(parcel(n, Split.TRAIN) for n in numbers))
    plan = replace(small_plan(), max_labeled_demos=labeled, max_bootstrapped_demos=bootstrapped, num_candidates=count)
    sets = assemble_demo_sets(LIVE, rows, right=rows[:cut], wrong=rows[cut:], plan=plan)
    assert 1 <= len(sets) <= count
    assert sum(len(demo_set.demos) > max(labeled, bootstrapped) for demo_set in sets) <= 1
    for demo_set in sets:
        assert len(demo_set.demos) <= max(labeled, bootstrapped, plan.wide_demos)
        assert len({member.example_id for member in demo_set.demos}) == len(demo_set.demos)


def _labelled(n_labels: int, *, n_rows: int = 60, padding: str = "") -> list[DemoRow]:
    examples = [replace(parcel(n, Split.TRAIN), expected=f"label {n % n_labels}{padding}") for n in range(n_rows)]
    return demo_rows(LIVE, examples, template_id="parcels", seed=0)


def test_one_set_is_wide_and_shows_every_label_up_to_twelve() -> None:
    for n_labels, n_demos in ((3, 8), (10, 10), (12, 12)):
        sets = assemble_demo_sets(LIVE, _labelled(n_labels), right=(), wrong=(), plan=small_plan())
        (wide,) = (s for s in sets if len(s.demos) > 4)
        assert len(wide.demos) == n_demos
        assert len({demo.assistant for demo in wide.demos}) == n_labels


def test_no_set_is_wide_where_rows_are_long_or_nobody_wants_it() -> None:
    long = _labelled(3, padding=" x" * 1_000)
    assert all(len(s.demos) <= 4 for s in assemble_demo_sets(LIVE, long, right=(), wrong=(), plan=small_plan()))
    narrow = replace(small_plan(), wide_demos=0)
    assert all(len(s.demos) <= 4 for s in assemble_demo_sets(LIVE, _labelled(3), right=(), wrong=(), plan=narrow))


def test_with_room_there_are_several_sizes_and_the_live_and_the_diverse_set_in_another_order() -> None:
    live = PromptText(LIVE.instruction, LIVE.user, (demo(1), demo(2)))
    rows = _labelled(3)
    plan = replace(small_plan(), num_candidates=18)
    sets = assemble_demo_sets(live, rows, right=rows[:20], wrong=rows[20:40], plan=plan)
    reordered = [s.demos for s in sets if s.kind == "reordered"]
    diverse = next(s.demos for s in sets if s.kind == "labeled")
    assert reordered == [live.demos[::-1], diverse[::-1]]
    assert {0, 1, 2, 4, 8} <= {len(s.demos) for s in sets}


@settings(max_examples=40)
@given(st.integers(1, 14), st.integers(1, 20), st.integers(0, 5))
def test_a_drawn_set_has_no_label_twice_before_it_has_every_label(n_labels: int, count: int, seed: int) -> None:
    rows = _labelled(n_labels)
    for drawn in (draw_diverse(rows, count), draw_random(rows, count, rng=Random(seed))):
        labels, there_are = Counter(row.demo.assistant for row in drawn), Counter(row.demo.assistant for row in rows)
        # A label with few rows may run out; the others go on by turns.
        not_run_out = [labels[label] for label, n_rows in there_are.items() if labels[label] < n_rows]
        assert max(labels.values()) - min(not_run_out, default=0) <= 1 or not not_run_out


def test_a_pool_of_demos_is_tried_only_where_it_is_wanted() -> None:
    rows = _labelled(3)
    plain = assemble_demo_sets(LIVE, rows, right=(), wrong=(), plan=small_plan())
    assert all(demo_set.nearest == 0 for demo_set in plain)
    wanted = replace(small_plan(), nearest_pool=20)
    (pool,) = (s for s in assemble_demo_sets(LIVE, rows, right=(), wrong=(), plan=wanted) if s.nearest)
    assert (pool.kind, pool.nearest, len(pool.demos)) == ("nearest", 4, 20)


def test_a_study_scores_a_pool_as_the_gateway_renders_it(tmp_path: Path) -> None:
    from rs_pipelines.mipro.records import Candidate
    from rs_pipelines.mipro.search import run_study
    from rs_pipelines.studies import StudyFiles
    from tests.pipelines.parcels import models, request

    chat = ScriptedChat(tiny_model)

    async def study() -> None:
        asked = models(chat, cache_at(tmp_path))
        wanted = request(replace(small_plan(), nearest_pool=20, num_candidates=3))
        record = await run_study(wanted, asked, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "studies"))
        place = next(n for n, demo_set in enumerate(record.demo_sets) if demo_set.nearest)
        text = record.text_of(Candidate(0, place))
        assert (text.nearest, len(text.demos)) == (4, 20)
        assert any(entry.candidate.demo_set == place for entry in record.rows)
        held = {e.example_id for split in (Split.VAL, Split.TEST) for e in wanted.sample.rows(split)}
        assert not held & {demo.example_id for demo in text.demos}

    anyio.run(study)
    assert {sum(m["role"] == "assistant" for m in call.messages) for call in chat.calls} <= {0, 1, 2, 3, 4, 8}

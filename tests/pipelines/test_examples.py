"""Examples: whose word counts as the truth about an input, which side a row is on, and when there is too little."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.domain.errors import ConfigurationError, StoreError
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import PromptTemplate
from rs_pipelines.dataset_file import read_dataset
from rs_pipelines.datasets import DatasetStore
from rs_pipelines.examples import gather
from rs_pipelines.inputs import input_key, split_of
from rs_pipelines.lake import Lake
from rs_pipelines.sample import Example, Split, Target
from rs_pipelines.sample_draw import FeedbackDoor, LabelShortageError, draw_sample
from rs_pipelines.sample_store import SampleStore
from tests.pipelines.stored_rows import NOON, FakeTraceReader

TARGET = Target("orders", "small")
DOOR = FeedbackDoor("http://127.0.0.1:8080", needs_key=False)


@dataclass
class World:
    """A trace store, the lake and the imported files of one template."""

    root: Path
    template: PromptTemplate
    reader: FakeTraceReader
    outputs: dict[int, OutputFormat] = field(default_factory=dict[int, OutputFormat])

    def examples(self, *, model: str = "small") -> tuple[Example, ...]:
        lake = Lake(self.root / "lake")
        lake.ingest(self.reader)
        target = Target("orders", model)
        datasets = DatasetStore(self.root / "datasets")
        return gather(target, self.template, lake=lake, datasets=datasets, outputs=self.outputs).examples

    def truth(self, *, model: str = "small") -> dict[str, tuple[str, str]]:
        """message -> expected, provenance."""
        return {e.variables["message"]: (e.expected, e.provenance) for e in self.examples(model=model)}

    def import_rows(self, *rows: dict[str, object]) -> None:
        path = self.root / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        DatasetStore(self.root / "datasets").add("orders", read_dataset(path, self.template))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, PromptTemplate("orders", "Orders", ("message",), {"name": "exact"}), FakeTraceReader())


def imported(message: str, expected: str, **more: object) -> dict[str, object]:
    return {"variables": {"message": message}, "expected": expected} | more


def example(n: int, split: Split, provenance: str = "human") -> Example:
    return Example(
        f"e{n:04d}", {"message": str(n)}, ({"role": "user", "content": "é"},), str(n), provenance, split, "T1"
    )


def test_the_more_trusted_word_wins_whenever_it_was_said(world: World) -> None:
    trace = world.reader.add_trace(text="a", answer="served")
    world.reader.add_feedback(trace, "label", "by teacher", source="teacher:big", created_at=NOON + 50)
    assert world.truth() == {"a": ("by teacher", "teacher:big")}
    world.reader.add_feedback(trace, "outcome", True, source="crm", created_at=NOON + 40)
    assert world.truth() == {"a": ("served", "outcome")}
    world.import_rows(imported(" A ", "imported"))
    assert world.truth() == {" A ": ("imported", "imported")}
    world.reader.add_feedback(trace, "label", "by hand", source="human:ana", created_at=NOON + 1)
    assert world.truth() == {"a": ("by hand", "human")}


def test_the_latest_of_two_equally_trusted_words_wins(world: World) -> None:
    first, second = world.reader.add_trace(text="a b"), world.reader.add_trace(text="A  B")
    world.reader.add_feedback(second, "label", "new", source="human:bo", created_at=NOON + 9)
    world.reader.add_feedback(first, "label", "old", created_at=NOON + 1)
    [found] = world.examples()
    assert (found.expected, found.trace_id) == ("new", second)
    world.reader.add_feedback(first, "label", "newest", source="ticket-system", created_at=NOON + 9)
    assert world.examples()[0].expected == "newest", "at the same time, the one that was committed last"


def test_a_label_is_the_truth_about_the_input_whatever_became_of_the_trace(world: World) -> None:
    trace = world.reader.add_trace(text="a", outcome="provider_error", response=None, model="other")
    world.reader.add_feedback(trace, "label", "right")
    assert world.truth() == {"a": ("right", "human")}


def test_only_complete_answers_may_become_truth(world: World) -> None:
    for outcome in ("truncated", "provider_cut", "content_filtered", "client_cancelled"):
        world.reader.add_feedback(world.reader.add_trace(outcome=outcome), "outcome", True)
    tool_call = json.dumps({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]})
    world.reader.add_feedback(world.reader.add_trace(response=tool_call), "outcome", True)
    assert world.examples() == ()


def test_an_outcome_may_be_taken_back(world: World) -> None:
    trace = world.reader.add_trace()
    world.reader.add_feedback(trace, "outcome", True)
    world.reader.add_feedback(trace, "outcome", False)
    assert world.examples() == ()


def test_an_answer_becomes_a_label_as_the_application_got_it(world: World) -> None:
    world.outputs[2] = OutputFormat.JSON
    for text, version, answer in (
        ("a", 2, '{"answer": "AX-1"}'),
        ("b", 2, "AX-1 I think"),
        ("c", 1, '{"answer": "AX-1"}'),
    ):
        trace = world.reader.add_trace(text=text, version=version, answer=answer)
        world.reader.add_feedback(trace, "outcome", True, source="crm")
    assert world.truth() == {"a": ("AX-1", "outcome"), "c": ('{"answer": "AX-1"}', "outcome")}


def test_scores_and_comments_label_nothing(world: World) -> None:
    trace = world.reader.add_trace()
    world.reader.add_feedback(trace, "score", 1.0)
    world.reader.add_feedback(trace, "comment", "well done")
    assert world.examples() == ()


def test_captured_answers_count_only_for_another_model_and_only_when_the_template_says_so(world: World) -> None:
    world.reader.add_trace(text="a", answer="from big", combination_id="orders-big", model="big")
    world.reader.add_trace(text="b", answer="from small")
    assert world.examples() == ()
    world.template = replace(world.template, reference="captured:orders-big")
    assert world.truth() == {"a": ("from big", "captured:orders-big")}
    assert world.truth(model="big") == {}, "a model's own answers would teach it to imitate itself"


def test_a_teacher_does_not_grade_its_own_model_but_a_person_who_agrees_with_it_does(world: World) -> None:
    first, second = world.reader.add_trace(text="a"), world.reader.add_trace(text="b")
    for trace in (first, second):
        world.reader.add_feedback(trace, "label", "by teacher", source="teacher:big")
    world.reader.add_feedback(second, "label", "by teacher", source="human")
    assert world.truth() == {"a": ("by teacher", "teacher:big"), "b": ("by teacher", "human")}
    assert world.truth(model="big") == {"b": ("by teacher", "human")}


def test_a_shortage_names_the_labels_that_the_target_s_own_model_gave() -> None:
    with pytest.raises(LabelShortageError, match=r"Of 7 more only teacher:small says what is right: no model is tuned"):
        draw_sample(TARGET, [], max_records=100, seed=0, door=DOOR, own_answers=7)


def test_a_captured_answer_that_failed_is_not_a_reference(world: World) -> None:
    world.template = replace(world.template, reference="captured:orders-big")
    for text, outcome in (("good", "complete"), ("failed", "complete"), ("cut", "provider_cut")):
        world.reader.add_trace(text=text, combination_id="orders-big", model="big", outcome=outcome)
    world.reader.add_feedback("T000002", "outcome", False)
    assert set(world.truth()) == {"good"}


def test_traces_without_a_usable_input_give_no_example(world: World) -> None:
    unusable = [
        world.reader.add_trace(variables=None, request_messages=None, response=None),
        world.reader.add_trace(variables='{"other": "x"}'),
        world.reader.add_trace(variables="not json"),
        world.reader.add_trace(template_id="another"),
    ]
    for trace in (*unusable, "no such trace"):
        world.reader.add_feedback(trace, "label", "x")
    assert world.examples() == ()


def test_variables_that_reach_no_prompt_make_no_other_input(world: World) -> None:
    for extra in ("1", "2"):
        trace = world.reader.add_trace(variables=json.dumps({"message": "a", "request_id": extra}))
        world.reader.add_feedback(trace, "label", extra)
    [found] = world.examples()
    assert (found.variables, found.expected) == ({"message": "a"}, "2")


def test_messages_are_part_of_the_input(world: World) -> None:
    for said in ("Hello", "hello ", "good bye"):
        messages = json.dumps([{"role": "user", "content": [{"type": "text", "text": said}]}])
        trace = world.reader.add_trace(text="same", request_messages=messages)
        world.reader.add_feedback(trace, "label", said)
    assert sorted(e.expected for e in world.examples()) == ["good bye", "hello "]


def test_an_imported_split_wins_over_the_hash_even_under_a_human_label(world: World) -> None:
    key = input_key({"message": "a"}, ())
    other = next(split for split in Split if split is not split_of(key))
    trace = world.reader.add_trace(text="a")
    world.reader.add_feedback(trace, "label", "right")
    assert world.examples()[0].split is split_of(key)
    world.import_rows(imported("A", "x", split=other.value))
    [found] = world.examples()
    assert (found.expected, found.provenance, found.split) == ("right", "human", other)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "A", " a", "b", "ß", "SS", "c"]),
            st.sampled_from(["human", "teacher:big", "outcome"]),
        ),
        max_size=8,
    )
)
def test_no_input_is_ever_on_two_sides(tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str]]) -> None:
    template = PromptTemplate("orders", "Orders", ("message",), {"name": "exact"})
    world = World(tmp_path_factory.mktemp("world"), template, FakeTraceReader())
    for text, source in said:
        trace = world.reader.add_trace(text=text)
        if source == "outcome":
            world.reader.add_feedback(trace, "outcome", True)
        else:
            world.reader.add_feedback(trace, "label", text, source=source)
    examples = world.examples()
    keys = [input_key(e.variables, e.messages) for e in examples]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {input_key({"message": text}, ()) for text, _ in said}
    assert [e.example_id for e in examples] == sorted(e.example_id for e in examples)
    assert examples == world.examples(), "built again, the same"


SIDES = st.lists(st.sampled_from(list(Split)), min_size=30, max_size=120)


@given(sides=SIDES, max_records=st.integers(9, 150), seed=st.integers())
def test_a_sample_keeps_within_its_limit_and_near_the_proportions(
    sides: list[Split], max_records: int, seed: int
) -> None:
    examples = [example(n, split) for n, split in enumerate(sides)]
    try:
        sample = draw_sample(TARGET, examples, max_records=max_records, seed=seed, min_per_split=3, door=DOOR)
    except LabelShortageError:
        assert min(sides.count(split) for split in Split) < 3
        return
    assert len(sample.examples) == min(max_records, len(examples))
    assert len({e.example_id for e in sample.examples}) == len(sample.examples)
    exact = {split: len(sample.examples) * sides.count(split) / len(sides) for split in Split}
    if min(exact.values()) >= 3:
        assert all(abs(len(sample.rows(split)) - exact[split]) < 1 for split in Split)
    assert all(len(sample.rows(split)) >= 3 for split in Split)


@given(sides=SIDES, seed=st.integers(), data=st.data())
def test_a_sample_depends_on_the_seed_and_not_on_the_order_of_the_examples(
    sides: list[Split], seed: int, data: st.DataObject
) -> None:
    examples = [example(n, split) for n, split in enumerate(sides)]
    shuffled = data.draw(st.permutations(examples))
    drawn = [
        draw_sample(TARGET, rows, max_records=20, seed=seed, min_per_split=0, door=DOOR)
        for rows in (examples, shuffled)
    ]
    assert drawn[0] == drawn[1]


def test_too_few_labels_are_refused_with_what_there_is_and_what_would_help() -> None:
    examples = [example(1, Split.TRAIN), example(2, Split.TEST), example(3, Split.TEST, "teacher:big")]
    with pytest.raises(LabelShortageError) as refusal:
        draw_sample(TARGET, examples, max_records=100, seed=0, door=DOOR)
    message = str(refusal.value)
    assert "3 labelled examples (2 human, 1 teacher:big; train 1, val 0, test 2)" in message
    assert "route-switch dataset import orders FILE.jsonl" in message
    body = message.split("-d '")[1].partition("'\n")[0]
    assert json.loads(body)["kind"] == "label"
    assert "curl -X POST http://127.0.0.1:8080/v1/feedback -H 'Content-Type" in message
    assert refusal.value.code == "no_labels"
    with pytest.raises(LabelShortageError, match=r"0 labelled examples \(none;"):
        draw_sample(TARGET, [], max_records=100, seed=0, door=DOOR)


def test_the_command_for_a_label_brings_a_key_where_one_is_needed() -> None:
    door = FeedbackDoor("http://127.0.0.1:9000", needs_key=True)
    with pytest.raises(LabelShortageError, match=r":9000/v1/feedback -H 'Authorization: Bearer CLIENT"):
        draw_sample(TARGET, [], max_records=100, seed=0, door=door)


@given(vouched=st.integers(0, 40), seed=st.integers())
def test_test_rows_that_people_labelled_are_drawn_before_those_of_a_model(vouched: int, seed: int) -> None:
    examples = [
        example(n, split, "human" if n < 3 * vouched else "teacher:big") for n, split in enumerate([*Split] * 40)
    ]
    sample = draw_sample(TARGET, examples, max_records=60, seed=seed, door=DOOR)
    by_people = {split: sum(e.provenance == "human" for e in sample.rows(split)) for split in Split}
    assert by_people[Split.TEST] == min(vouched, 20)
    neutral = [replace(e, provenance="human") for e in examples]
    other = draw_sample(TARGET, neutral, max_records=60, seed=seed, door=DOOR)
    for split in (Split.TRAIN, Split.VAL):
        drawn = [[e.example_id for e in s.rows(split)] for s in (sample, other)]
        assert drawn[0] == drawn[1], "what is learnt from and judged on is drawn without regard to who labelled it"


def test_a_limit_with_no_room_for_a_proof_is_refused() -> None:
    examples = [example(n, split) for n, split in enumerate([*Split] * 20)]
    with pytest.raises(ConfigurationError, match="at least 30"):
        draw_sample(TARGET, examples, max_records=29, seed=0, door=DOOR)


def test_a_saved_sample_comes_back_as_it_was(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "samples")
    target = Target("orders", "vendor/model:7b")
    assert store.latest(target) is None
    examples = [example(n, split) for n, split in enumerate([*Split] * 12)]
    first, second = (draw_sample(target, examples, max_records=30, seed=seed, door=DOOR) for seed in (1, 2))
    store.save(first)
    assert store.latest(target) == first
    store.save(second)
    assert (store.latest(target), store.load(target, first.sample_id)) == (second, first)
    assert store.latest(TARGET) is None, "each target has its own"


def test_a_sample_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    examples = [example(n, split) for n, split in enumerate([*Split] * 12)]
    one, other = (draw_sample(TARGET, examples, max_records=30, seed=seed, door=DOOR) for seed in (1, 2))
    store.save(other).rename(store.save(one))
    with pytest.raises(StoreError, match="was changed"):
        store.latest(TARGET)
    with pytest.raises(StoreError, match="no sample"):
        store.load(TARGET, "0123456789abcdef")

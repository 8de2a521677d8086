"""Imported labelled files: every fault named by its line, nothing imported by halves, nothing imported twice."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.errors import StoreError, TemplateInvalidError
from rs_gateway.domain.prompts import PromptTemplate
from rs_pipelines.dataset_file import MAX_LINE_BYTES, DatasetError, DatasetFile, read_dataset
from rs_pipelines.datasets import DatasetStore, ImportReport
from rs_pipelines.inputs import input_key, normal_text, split_of
from rs_pipelines.sample import Split

TEMPLATE = PromptTemplate("orders", "Orders", ("message",), {"name": "exact"})
CHAT = PromptTemplate("chat", "Chat", (), {"name": "exact"})

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a JSONL file; rows are objects, or lines as they are."""

    def write(*rows: Mapping[str, Any] | str | bytes, name: str = "rows.jsonl") -> Path:
        lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
        return path

    return write


def row(message: str, expected: object = "x", **more: object) -> dict[str, object]:
    return {"variables": {"message": message}, "expected": expected} | more


def test_a_well_formed_file_is_read_whole(write: Write) -> None:
    file = read_dataset(
        write(row("one", "1", split="train", id="a"), "", row("two", {"n": 12.50, "ok": True}), row("drei €", 7)),
        TEMPLATE,
    )
    assert file.problems == ()
    assert [(r.line, r.variables["message"], r.expected, r.split, r.row_id) for r in file.rows] == [
        (1, "one", "1", Split.TRAIN, "a"),
        (3, "two", '{"n":12.5,"ok":true}', None, None),
        (4, "drei €", "7", None, None),
    ]


def test_numbers_keep_the_text_they_were_written_with(write: Write) -> None:
    lines = ['{"variables": {"message": 12.50}, "expected": [1.0, 1e3, 12345678901234567890]}']
    lines.append('{"variables": {"message": true}, "expected": false}')
    first, second = read_dataset(write(*lines), TEMPLATE).rows
    assert (first.variables["message"], first.expected) == ("12.50", "[1.0,1e3,12345678901234567890]")
    assert (second.variables["message"], second.expected) == ("true", "false")


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row("a")).encode() + b"\r\n" + json.dumps(row("b")).encode())
    file = read_dataset(path, TEMPLATE)
    assert (len(file.rows), file.problems) == (2, ())


def test_rows_may_carry_messages_instead_of_variables(write: Write) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": None, "tool_calls": []}]
    file = read_dataset(write({"messages": messages, "expected": "hi"}), CHAT)
    assert (file.problems, file.rows[0].messages) == ((), tuple(messages))


def test_a_csv_file_is_read_by_the_names_in_its_first_line(write: Write) -> None:
    lines = [
        "expected,message,split",
        'billing,"Refund, please\nnow",test',
        "delivery,Where is AX-1?,",
        "billing,12.50,",
    ]
    file = read_dataset(write("\ufeff" + lines[0], *lines[1:], name="rows.csv"), TEMPLATE)
    assert file.problems == ()
    assert [(r.line, r.variables["message"], r.expected, r.split) for r in file.rows] == [
        (3, "Refund, please\nnow", "billing", Split.TEST),
        (4, "Where is AX-1?", "delivery", None),
        (5, "12.50", "billing", None),
    ]


def test_faulty_csv_is_one_line_for_the_file_or_a_problem_of_its_row(write: Write) -> None:
    for lines, said in (
        (["text,label", "a,b"], "`message`, `expected`, and if you like `split`, `id`. Here it names `text`, `label`"),
        (["message;expected", "a;b"], "Here it names `message;expected`"),
        (["message,expected", "a,b,c"], "Line 2 has not as many cells"),
        ([b"message,expected", b"\xe4,b"], "Save it as UTF-8"),
    ):
        with pytest.raises(DatasetError, match=re.escape(said)):
            read_dataset(write(*lines, name="rows.csv"), TEMPLATE)
    [problem] = read_dataset(write("message,expected", "a,b", "c,", name="rows.csv"), TEMPLATE).problems
    assert (problem.line, problem.reason) == (3, "`expected` is missing or empty")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"variables": {"message": NaN}, "expected": "x"}', "NaN is no JSON value"),
        ('{"expected": "x", "expected": "y"}', "'expected' is there twice"),
        ("[1]", "a row is a JSON object, not a list"),
        ("7", "not a number"),
        (row("a", labl="y"), "unknown key `labl`"),
        ({"expected": "x"}, "variable `message` is missing"),
        ({"variables": ["a"], "expected": "x"}, "`variables` is an object, not a list"),
        ({"variables": {"message": "a", "tone": "b"}, "expected": "x"}, "the template has no variable `tone`"),
        ({"variables": {"message": None}, "expected": "x"}, "variable 'message' is null"),
        ({"variables": {"message": {"a": 1}}, "expected": "x"}, "variable 'message' is an object"),
        ({"variables": {"message": "a"}}, "`expected` is missing or empty"),
        (row("a", None), "`expected` is missing or empty"),
        (row("a", " \n"), "`expected` is missing or empty"),
        (row("a", split="dev"), '`split` is train, val or test, not "dev"'),
        (row("a", split=["train"]), "`split` is train, val or test"),
        (row("a", id={}), "`id` is a string or a number"),
        (row("a", messages="hello"), "`messages` is a list"),
        (row("a", messages=[{"content": "x"}]), "message 1 is no object with a `role`"),
        (row("a", messages=[{"role": "user"}]), "message 1 has no `content`"),
        ('{"variables": {"message": "a"}, "expected": "x", "messages": [{"role": "u", "content": 1e999}]}', "range"),
        (row("\ud800"), "half of a surrogate pair"),
        (row("a", "\udfff"), "half of a surrogate pair"),
        (b'{"variables": {"message": "\xe9"}, "expected": "x"}', "not UTF-8 (byte 28)"),
        (row("x" * MAX_LINE_BYTES), "longer than 1,048,576 bytes"),
    ],
)
def test_a_faulty_row_is_reported_with_its_line_and_reason(
    write: Write, line: Mapping[str, Any] | str | bytes, reason: str
) -> None:
    file = read_dataset(write(row("good"), line, row("also good")), TEMPLATE)
    assert [problem.line for problem in file.problems] == [2]
    assert reason in file.problems[0].reason
    assert [r.line for r in file.rows] == [1, 3]


def test_a_row_without_any_input_is_refused(write: Write) -> None:
    assert "no input" in read_dataset(write({"expected": "x"}), CHAT).problems[0].reason


def test_a_utf16_file_gives_one_problem_not_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(str(n))) + "\n" for n in range(9)), encoding="utf-16")
    [problem] = read_dataset(path, TEMPLATE).problems
    assert "save the file as UTF-8" in problem.reason


def test_an_empty_file_and_a_missing_one_are_refused(write: Write, tmp_path: Path) -> None:
    assert read_dataset(write(" ", ""), TEMPLATE).problems[0].reason == "the file holds no rows"
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        read_dataset(tmp_path / "none.jsonl", TEMPLATE)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_dataset(tmp_path, TEMPLATE)


def test_the_same_input_with_two_labels_is_reported_with_both_lines(write: Write) -> None:
    file = read_dataset(write(row("My  Order", "1"), row("my order", "2"), row("MY ORDER", "1")), TEMPLATE)
    [problem] = file.problems
    assert (problem.line, len(file.rows)) == (2, 2)
    assert "same input as line 1" in problem.reason
    assert "'2'" in problem.reason


def test_the_same_input_in_two_splits_is_reported(write: Write) -> None:
    rows = (row("a", split="train"), row("A"), row(" a ", split="test"))
    [problem] = read_dataset(write(*rows), TEMPLATE).problems
    assert (problem.line, "in another split: test, there train" in problem.reason) == (3, True)


def test_nothing_is_imported_from_a_file_with_problems(write: Write, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    file = read_dataset(write(row("a"), "{", row("b", "")), TEMPLATE)
    with pytest.raises(
        DatasetError, match=r"2 rows cannot be(.|\n)*line 2: not JSON(.|\n)*line 3: `expected`"
    ) as refusal:
        store.add("orders", file)
    assert len(refusal.value.problems) == 2
    assert store.rows("orders") == ()
    assert store.add("orders", file, skip_invalid=True) == ImportReport(1, 0, 0, file.problems)
    assert [r.variables["message"] for r in store.rows("orders")] == ["a"]


def test_importing_the_same_file_again_changes_nothing(write: Write, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    file = read_dataset(write(row("a"), row("b", split="val"), row(" A ")), TEMPLATE)
    assert store.add("orders", file) == ImportReport(added=2, corrected=0, duplicates=1, problems=())
    before = {path: path.read_bytes() for path in (tmp_path / "datasets").rglob("*.jsonl")}
    assert store.add("orders", file) == ImportReport(added=0, corrected=0, duplicates=3, problems=())
    assert {path: path.read_bytes() for path in (tmp_path / "datasets").rglob("*.jsonl")} == before
    assert len(before) == 1


def test_a_later_file_corrects_a_label_and_keeps_the_side_of_the_row(write: Write, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    store.add("orders", read_dataset(write(row("a", "1", split="test")), TEMPLATE))
    report = store.add("orders", read_dataset(write(row("A", "2"), row("new")), TEMPLATE))
    assert (report.added, report.corrected) == (1, 1)
    corrected, _ = store.rows("orders")
    assert (corrected.expected, corrected.split) == ("2", Split.TEST)


def test_a_label_can_be_changed_back(write: Write, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    one, two = (read_dataset(write(row("a", label)), TEMPLATE) for label in ("one", "two"))
    store.add("orders", one)
    for file, label in ((two, "two"), (one, "one"), (two, "two")):
        assert store.add("orders", file) == ImportReport(added=0, corrected=1, duplicates=0, problems=())
        assert store.add("orders", file) == ImportReport(added=0, corrected=0, duplicates=1, problems=())
        assert [r.expected for r in store.rows("orders")] == [label]
    numbers = sorted(path.name[:6] for path in (tmp_path / "datasets").rglob("*.jsonl"))
    assert numbers == ["000001", "000002", "000003", "000004"]


def test_a_file_with_two_spellings_of_one_label_is_a_duplicate_the_second_time(write: Write, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    file = read_dataset(write(row("a", "Yes"), row("A", "yes")), TEMPLATE)
    assert store.add("orders", file) == ImportReport(added=1, corrected=0, duplicates=1, problems=())
    assert store.add("orders", file) == ImportReport(added=0, corrected=0, duplicates=2, problems=())
    assert [r.expected for r in store.rows("orders")] == ["yes"]


def test_a_row_never_changes_sides_between_imports(write: Write, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    store.add("orders", read_dataset(write(row("a", split="test")), TEMPLATE))
    moved = read_dataset(write(row("b"), row("A", split="train")), TEMPLATE)
    with pytest.raises(DatasetError, match="line 2: was imported as test"):
        store.add("orders", moved)
    assert store.add("orders", moved, skip_invalid=True).skipped == 1
    assert [r.split for r in store.rows("orders")] == [Split.TEST, None]


def test_an_imported_file_that_was_changed_by_hand_is_refused(write: Write, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    store.add("orders", read_dataset(write(row("a")), TEMPLATE))
    [path] = (tmp_path / "datasets").rglob("*.jsonl")
    path.write_text(path.read_text().replace('"x"', '"y"'))
    with pytest.raises(StoreError, match="changed after its import"):
        store.rows("orders")


def test_a_template_id_never_leads_out_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(TemplateInvalidError):
        DatasetStore(tmp_path / "datasets").add("../elsewhere", DatasetFile("f", (), ()))


@given(
    st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["x", "y"]), st.sampled_from([None, *Split])), max_size=8)
)
def test_whatever_a_file_says_no_input_ends_up_twice(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, Split | None]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row(m, e, **({"split": s} if s else {}))) + "\n" for m, e, s in rows))
    store = DatasetStore(folder / "datasets")
    file = read_dataset(path, TEMPLATE)
    report = store.add("orders", file, skip_invalid=True)
    kept = store.rows("orders")
    assert len({r.key for r in kept}) == len(kept) == report.added
    assert {r.key for r in kept} == {input_key({"message": m}, ()) for m, _, _ in rows}
    assert report.added + report.duplicates + report.corrected + len(file.problems) == len(rows) or not rows


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normal_text(text)
    assert normal_text(once) == once
    assert normal_text(f" {text.upper().lower()}\n") == normal_text(text.upper())


@given(st.integers(0, 1000))
def test_the_side_of_an_input_depends_on_nothing_but_the_input(n: int) -> None:
    assert split_of(input_key({"message": f"Row  {n}"}, ())) is split_of(input_key({"message": f" row {n} "}, ()))


def test_the_hash_splits_30_30_40() -> None:
    sides = [split_of(input_key({"message": str(n)}, ())) for n in range(4000)]
    shares = {split: sides.count(split) / len(sides) for split in Split}
    assert shares == pytest.approx({Split.TRAIN: 0.3, Split.VAL: 0.3, Split.TEST: 0.4}, abs=0.03)

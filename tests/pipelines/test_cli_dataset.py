"""`route-switch dataset export | show`: imported rows come back as they were."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.prompts import PromptTemplate, PromptText
from rs_pipelines.dataset_file import line_of, read_dataset
from rs_pipelines.labelled_rows import LabelledRow
from rs_pipelines.sample import Split
from tests.commands import failure, from_json, invoke, ok
from tests.running import ORIGIN

ROWS = [
    {"variables": {"message": "Where is AX-1?"}, "expected": "delivery", "split": "test", "id": "r1"},
    {"variables": {"message": "Refund, please \u20ac"}, "expected": "billing", "split": "train"},
    {"variables": {"message": "[/red]"}, "messages": [{"role": "user", "content": "x"}], "expected": "billing"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "route-switch.yaml").write_text("data_dir: data\n")
    monkeypatch.chdir(tmp_path)
    template = PromptTemplate("support", "Support", ("message",), {})
    PromptFiles(tmp_path / "data/prompts").register(template, PromptText("{message}"), origin=ORIGIN)
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture
def imported(folder: Path) -> Path:
    found = from_json("dataset", "import", "support", "labels.jsonl")
    assert found == {"imported": 3, "corrected": 0, "duplicates": 0, "skipped": 0, "problems": []}
    return folder


def test_what_is_exported_can_be_imported_and_is_the_same(imported: Path) -> None:
    assert from_json("dataset", "export", "support", "-o", "out.jsonl") == {"rows": 3, "file": "out.jsonl"}
    assert [json.loads(line) for line in (imported / "out.jsonl").read_text().splitlines()] == ROWS
    assert ok("dataset", "export", "support").stdout == (imported / "out.jsonl").read_text()
    assert from_json("dataset", "import", "support", "out.jsonl")["duplicates"] == 3
    assert "is there already" in failure("dataset", "export", "support", "-o", "out.jsonl")
    ok("dataset", "export", "support", "-o", "out.jsonl", "--overwrite")


def test_show_counts_sides_and_labels(imported: Path) -> None:
    found = from_json("dataset", "show", "support", "--rows", "1")
    assert found["rows"] == sum(found["by_split"].values()) == 3
    assert found["labels"] == [{"expected": "billing", "rows": 2}, {"expected": "delivery", "rows": 1}]
    assert found["first_rows"] == [{"messages": [], **{k: v for k, v in ROWS[0].items() if k != "id"}}]
    shown = ok("dataset", "show", "support").stdout
    assert "3 rows:" in shown
    assert "[/red]" in shown


def test_a_template_without_rows_or_that_is_not_there_is_said(folder: Path) -> None:
    empty = ok("dataset", "show", "support")
    assert empty.stdout == ""
    assert "No row was imported" in empty.stderr
    assert from_json("dataset", "show", "support")["rows"] == 0
    for command in ("show", "export"):
        assert "There is no template 'nowhere'" in failure("dataset", command, "nowhere")


def test_a_bad_row_is_listed_and_nothing_is_imported(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"variables": {}}\n')
    assert "line 1: variable `message` is missing" in failure("dataset", "import", "support", "bad.jsonl")
    assert invoke("dataset", "import", "support", "missing.jsonl").exit_code == 2


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(texts, texts.filter(lambda text: text.strip() != ""), st.sampled_from([None, *Split]), st.none() | texts)
def test_every_row_comes_back_out_of_its_line(
    message: str, expected: str, split: Split | None, row_id: str | None
) -> None:
    row = LabelledRow({"message": message}, ({"role": "user", "content": message},), expected, split, row_id, line=1)
    template = PromptTemplate("support", "Support", ("message",), {})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.jsonl"
        file.write_text(line_of(row) + "\n", encoding="utf-8")
        (found,) = read_dataset(file, template).rows
    assert found == row

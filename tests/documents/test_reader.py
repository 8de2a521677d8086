"""The reader of documents finds what is wrong with one."""

from pathlib import Path

import pytest

from tests import upstream as wire
from tests.documents.markdown_blocks import Block, Command, blocks_of, commands_of
from tests.documents.reader import Reader
from tests.documents.shown_output import first_line_not_said
from tests.upstream import Upstream


def read(folder: Path, text: str) -> None:
    document = folder / "document.md"
    document.write_text(text)
    Reader(folder, "http://127.0.0.1:9/v1").read(document)


def test_commands_are_run_in_one_shell_and_saved_files_are_there(tmp_path: Path) -> None:
    read(
        tmp_path,
        "```yaml\n# one.yaml\na: 1\n```\n\n```sh\n# a remark\nexport NAME=ann\n```\n"
        "```console\n$ echo $NAME; cat one.yaml\nann\n...\na: 1\n```\n",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```sh\nfalse\n```", "exit status 1"),
        ("```sh\nexit 3\n```", "the shell ended"),
        ("```console\n$ echo one\ntwo\n```", "two"),
        ("```console\n$ echo 'error: no'\nerror: no\n```", "exit status 0"),
        ("```console\nno command\n```", "begins with a command"),
        ("```sh\necho 'open\n```", "waits for more"),
        ("```shell\ntrue\n```", "'shell'"),
        ("```\ntrue\n```", "''"),
    ],
)
def test_what_cannot_be_followed_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match="at line 3") as caught:
        read(tmp_path, f"Words.\n\n{text}\n")
    assert complaint in str(caught.value)


def test_a_text_below_a_python_block_is_what_it_prints(tmp_path: Path) -> None:
    text = "```sh\nsource .venv/bin/activate\n```\n```python\nprint('one')\n```\n```text\none\n```\n"
    read(tmp_path, text)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(AssertionError, match="two"):
        read(other, text.replace("\none\n", "\ntwo\n"))


@pytest.mark.usefixtures("have_curl")
def test_an_error_of_a_gateway_is_shown_or_it_is_one(tmp_path: Path) -> None:
    asked = "```console\n$ curl http://127.0.0.1:8081/v1/models\n{}\n```\n"
    document = tmp_path / "document.md"
    with Upstream([wire.fails(404)]).running() as upstream:
        reader = Reader(tmp_path, upstream.base_url, patience_s=0)
        document.write_text(asked.format('{"error": {"message": "upstream says 404", ...'))
        reader.read(document)
        document.write_text(asked.format("..."))
        with pytest.raises(AssertionError, match="exit status 22"):
            reader.read(document)


def test_commands_of_several_lines_are_typed_at_once() -> None:
    [block] = blocks_of("```console\n$ cat <<'END'\none\nEND\none\n$ echo a \\\n    b\na b\n$ echo 'x\ny'\n```\n")
    assert commands_of(block) == [
        Command("cat <<'END'\none\nEND", ("one",)),
        Command("echo a \\\n    b", ("a b",)),
        Command("echo 'x\ny'"),
    ]


@pytest.mark.parametrize(
    ("first_line", "name"),
    [
        ("# route-switch.yaml", "route-switch.yaml"),
        ("# ask.py", "ask.py"),
        ("# litellm: config.yaml", None),
        ("# ask.py, installed", None),
        ("a: 1", None),
    ],
)
def test_a_first_line_that_is_a_name_and_nothing_else_saves_the_block(first_line: str, name: str | None) -> None:
    assert Block(1, "yaml", (), f"{first_line}\nb: 2\n").file_name == name


SAID = """Trace 01M8CGJRS75NK6H8YHMRKB4XB7
  when         2026-11-26 18:06:15.335 UTC
┏━━━━━━━┓
┃ model ┃
┡━━━━━━━┩
│ one   │ 12 of 14
published as version 2
0.127 -> 0.857 on 126 held-out rows: +0.730
HTTP/1.1 200 OK
"""


@pytest.mark.parametrize(
    "shown",
    [
        ["Trace 01JN8F0M7Q4W3T9V5B2X6Y1Z8K", "when 2020-01-01 01:01:01.001 UTC"],
        ["│ one              │ 1 of 2", "...", "HTTP/1.1 200 OK"],
        ["0.000 -> 0.771 on 118 held-out rows: ..."],
        ["... held-out ...", "..."],
        [],
    ],
)
def test_figures_ids_times_and_the_width_of_a_table_may_differ(shown: list[str]) -> None:
    assert first_line_not_said(shown, SAID) is None


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (["published as version 3"], "published as version 3"),
        (["HTTP/1.1 404 OK"], "HTTP/1.1 404 OK"),
        (["published"], "published"),
        (["HTTP/1.1 200 OK", "published as version 2"], "published as version 2"),
        (["0.127 -> 0.857 on 126 rows: +0.730"], "0.127 -> 0.857 on 126 rows: +0.730"),
        (["│ one │ 12 of 14", "│ two │ 12 of 14"], "│ two │ 12 of 14"),
    ],
)
def test_words_versions_statuses_and_the_order_may_not(shown: list[str], missing: str) -> None:
    assert first_line_not_said(shown, SAID) == missing

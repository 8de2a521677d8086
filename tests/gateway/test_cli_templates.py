"""`route-switch template`: who may change what is live, and what is kept of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.prompts import Demo, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_gateway.version_texts import edited_text, text_yaml
from tests.commands import failure, from_json, invoke, ok
from tests.running import ORIGIN, write_configuration

FIRST = PromptText("Find the order number.\nNothing else.", "{message}", (Demo("AX-1?", "AX-1", example_id="e1"),))
SECOND = replace(FIRST, instruction="Find the order number.\nOnly the number.")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PromptFiles:
    combination = {"id": "orders-tiny", "template_id": "orders", "model": "tiny", "provider": "ollama"}
    write_configuration(tmp_path, {"model_providers": {"ollama": {}}, "gateway": {"combinations": [combination]}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rs_gateway.current_user.getuser", lambda: "ann")
    registry = PromptFiles(tmp_path / "data/prompts")
    registry.register(PromptTemplate("orders", "Orders", ("message",), {}), FIRST, origin=ORIGIN)
    registry.add_version("orders", SECOND, model=None, origin=ORIGIN)
    return registry


def last(registry: PromptFiles) -> Change:
    return registry.get("orders").history[-1]


def test_publishing_by_hand_keeps_who_when_and_why_and_claims_no_proof(registry: PromptFiles) -> None:
    result = ok("template", "publish", "orders", "2", "--reason", " clearer ")
    assert "Version 2 of 'orders' is live for all models, in place of 1, by ann" in result.stderr
    assert result.stdout == ""
    change = last(registry)
    assert (change.action, change.version, change.previous) == (Action.PUBLISH, 2, 1)
    assert (change.by, change.reason, change.comparison_id) == ("ann", "clearer", None)
    assert registry.get("orders").serving == {"*": 2}


def test_publish_and_rollback_print_the_change_as_json(registry: PromptFiles) -> None:
    published = from_json("template", "publish", "orders", "2", "-r", "clearer", "--model", "tiny", "--previous", "1")
    assert published.pop("at") is not None
    assert published == {
        "template_id": "orders",
        "action": "publish",
        "version": 2,
        "model": "tiny",
        "by": "ann",
        "reason": "clearer",
        "previous": 1,
        "comparison_id": None,
        "combination_id": None,
        "weight": None,
        "proven": False,
        "serving": {"*": 1, "tiny": 2},
        "still_pinned": {},
    }
    back = from_json("template", "rollback", "orders", "-r", "worse", "--model", "tiny")
    assert (back["action"], back["version"], back["previous"], back["reason"]) == ("rollback", 1, 2, "worse")


def test_a_change_for_all_models_names_those_that_keep_their_own(registry: PromptFiles) -> None:
    ok("template", "publish", "orders", "2", "-r", "x", "-m", "tiny")
    assert "Versions of their own keep: tiny (2)" in ok("template", "publish", "orders", "2", "-r", "x").stderr


def test_a_rollback_without_the_model_that_has_a_version_of_its_own_names_the_option(registry: PromptFiles) -> None:
    ok("template", "publish", "orders", "1", "-r", "x", "-m", "tiny")
    ok("template", "publish", "orders", "2", "-r", "x", "-m", "tiny")
    assert "take it back with `--model tiny`" in failure("template", "rollback", "orders", "-r", "x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("publish", "orders", "1", "-r", "x"), "is live for every model without a version of its own already"),
        (("publish", "orders", "9", "-r", "x"), "has no version 9: name one of 1, 2."),
        (("publish", "orders", "2", "-r", "x", "-m", "huge"), "does not run on 'huge'; it runs on tiny."),
        (("publish", "orders", "2", "-r", "x", "--previous", "2"), "Version 1 of template 'orders' is live"),
        (("publish", "nowhere", "2", "-r", "x"), "There is no template 'nowhere'; registered are: orders."),
        (("rollback", "orders", "-r", "x"), "has no earlier version to go back to for every model"),
        (("history", "nowhere"), "There is no template 'nowhere'"),
        (("diff", "orders", "1", "7"), "has no version 7"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    registry: PromptFiles, arguments: tuple[str, ...], words: str
) -> None:
    before = registry.get("orders")
    assert words in failure("template", *arguments)
    assert registry.get("orders") == before


@pytest.mark.parametrize("arguments", [("publish", "orders", "2"), ("rollback", "orders")])
@pytest.mark.parametrize("reason", [(), ("--reason", "  ")])
def test_a_change_without_a_reason_is_wrong_usage(
    registry: PromptFiles, arguments: tuple[str, ...], reason: tuple[str, ...]
) -> None:
    result = invoke("template", *arguments, *reason)
    assert result.exit_code == 2
    assert "--reason" in result.stderr


def test_the_history_says_what_was_proven_and_what_a_person_did(registry: PromptFiles) -> None:
    proven = Change(Action.PUBLISH, 2, "tiny", "gate", "2026-02-01T00:00:00+00:00", "gain", 1, comparison_id="e642")
    registry.make_live("orders", proven)
    registry.set_weight(
        "orders", Change(Action.WEIGHT, None, None, "bob", "now", "calm", combination_id="orders-tiny", weight=0.5)
    )
    ok("template", "publish", "orders", "2", "-r", "clearer [/red]")
    first, gate, weight, hand = [
        line for line in ok("template", "history", "orders").stdout.splitlines() if line.startswith("│")
    ]
    assert "register version 1" in first
    assert "publish version 2 (was 1)" in gate
    assert "e642" in gate
    assert "weight 0.5" in weight
    assert "orders-tiny" in weight
    assert "by hand" in hand
    assert "clearer [/red]" in hand
    found = from_json("template", "history", "orders")
    assert [change["action"] for change in found] == ["register", "publish", "weight", "publish"]
    assert found[1] == json.loads(json.dumps({**found[1], "comparison_id": "e642", "by": "gate"}))


def test_the_history_loses_nothing_on_a_narrow_terminal(registry: PromptFiles) -> None:
    comparison, reason = "e642aa11bb22cc33dd44", "a proven gain of 0.120 on rows that nobody had seen before"
    at = "2026-02-01T12:34:56+00:00"
    registry.make_live("orders", Change(Action.PUBLISH, 2, "gpt-4o-mini", "gate", at, reason, 1, comparison))
    table = invoke("template", "history", "orders", columns=80).stdout
    assert max(map(len, table.splitlines())) <= 80
    lines = [line.split("│")[1:-1] for line in table.splitlines() if line.startswith("│")]
    whole = ["".join(cells).replace(" ", "") for cells in zip(*lines, strict=True)]  # each column from top to bottom
    assert whole[0].endswith("2026-02-0112:34:56UTC")
    assert whole[4].endswith(comparison)
    assert whole[5].endswith(reason.replace(" ", ""))


def test_a_diff_without_numbers_is_what_the_newest_would_change_of_what_is_live(registry: PromptFiles) -> None:
    lines = ok("template", "diff", "orders").stdout.splitlines()
    assert [line for line in lines if line[0] in "+-"] == [
        "--- version 1",
        "+++ version 2",
        "-  Nothing else.",
        "+  Only the number.",
    ]
    found = from_json("template", "diff", "orders", "2", "1")
    assert (found["from"]["version"], found["to"]["version"]) == (2, 1)
    assert found["to"]["content_hash"] == FIRST.content_hash
    same = ok("template", "diff", "orders", "1", "1")
    assert same.stdout == ""
    assert "say the same" in same.stderr


def test_an_edit_adds_a_draft_and_a_demo_that_stays_keeps_its_example(
    registry: PromptFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sed -i s/Nothing/None/")
    result = ok("template", "edit", "orders", "--note", "softer")
    assert "Added version 3, a draft" in result.stderr
    registered = registry.get("orders")
    version = registered.versions[3]
    assert version.text == replace(FIRST, instruction="Find the order number.\nNone else.")
    assert version.text.demos[0].example_id == "e1"
    assert (version.origin.by, version.origin.note) == ("ann", "softer")
    assert registered.serving == {"*": 1}


def test_an_edit_from_a_file_needs_no_editor(registry: PromptFiles, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("instruction: Short.\nuser: '{message}'\n")
    assert from_json("template", "edit", "orders", "--file", "new.yaml") == {
        "template_id": "orders",
        "version": 3,
        "based_on": 1,
    }
    assert registry.get("orders").versions[3].text == PromptText("Short.", "{message}")
    content = yaml.safe_dump({"instruction": "Shorter.", "user": "{message}"})
    assert from_json("template", "edit", "orders", "--file", "-", "--version", "2", stdin=content)["based_on"] == 2


def test_an_edit_that_changes_nothing_adds_nothing(registry: PromptFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "true")
    assert "no version was added" in ok("template", "edit", "orders").stderr
    assert from_json("template", "edit", "orders")["version"] is None
    assert len(registry.get("orders").versions) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("instruction: Drop it.", "Version 1 uses message, and this text does not"),
        ("instruction: '{order}'\nuser: '{message}'", "declares no variable order"),
        ("instrction: x", "unknown key; there are demos, instruction"),
        ("[", "no valid YAML"),
    ],
)
def test_a_text_that_cannot_be_a_version_is_kept_where_it_can_be_mended(
    registry: PromptFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "typed").write_text(content)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"cp {tmp_path / 'typed'}")
    message = failure("template", "edit", "orders")
    assert words in message
    kept = Path(message.split("--file ")[1].split()[0])
    assert kept.read_text() == content
    kept.unlink()
    assert len(registry.get("orders").versions) == 2


def test_a_variable_may_be_dropped_on_purpose(registry: PromptFiles) -> None:
    ok("template", "edit", "orders", "--file", "-", "--drop-variables", stdin="instruction: Drop it.")
    assert registry.get("orders").versions[3].text == PromptText("Drop it.")


def test_an_editor_that_does_not_exist_or_fails_is_named(
    registry: PromptFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "no-such-editor --wait")
    assert "'no-such-editor --wait' cannot be started" in failure("template", "edit", "orders")
    monkeypatch.setenv("EDITOR", "false")
    assert "ended with status 1" in failure("template", "edit", "orders")
    monkeypatch.setenv("EDITOR", "rm")
    message = failure("template", "edit", "orders")
    assert "The editor 'rm' removed" in message and "is kept" not in message


def test_ctrl_c_in_the_editor_is_for_the_editor(registry: PromptFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends with it leaves the text where the message says; one that goes on is not cut off."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sh -c 'kill -INT $PPID; kill -INT $$' -")
    message = failure("template", "edit", "orders")
    assert "ended with status" in message
    kept = Path(message.split("The text is kept in ")[1].rstrip("."))
    assert "Find the order number." in kept.read_text()
    kept.unlink()
    monkeypatch.setenv("EDITOR", "sh -c 'kill -INT $PPID; sed -i s/Nothing/None/ $1' -")
    assert "Added version 3" in ok("template", "edit", "orders").stderr


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf"], ids=["no byte", "spaces", "a byte order mark"])
def test_an_empty_prompt_file_is_refused(registry: PromptFiles, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompt.txt").write_bytes(content)
    arguments = ("--template-id", "new", "--prompt-file", str(tmp_path / "prompt.txt"))
    assert "prompt.txt is empty: write the instruction" in failure("template", "register", *arguments)
    assert "new" not in registry.load().templates


def test_a_byte_order_mark_is_no_part_of_a_prompt(registry: PromptFiles, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfSay {word}.\n")
    ok("template", "register", "--template-id", "new", "--prompt-file", str(tmp_path / "prompt.txt"))
    assert registry.get("new").versions[1].text == PromptText("Say {word}.")


@pytest.mark.parametrize("text", [FIRST, SECOND, PromptText(""), PromptText("a\n\n b: {x}\t", None, (Demo("", "y"),))])
def test_what_is_shown_for_editing_reads_back_as_it_was(text: PromptText) -> None:
    assert edited_text(text_yaml(text), text) == text

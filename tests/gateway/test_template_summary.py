"""`route-switch template show`: what is live and why comes first, and all of it can still be read by a program."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.cli import app
from rs_gateway.domain.prompts import Demo, Origin, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.template_summary import summary_of

LIVE = PromptText("Find the order number.", "{message}")
BY_ANN = Origin("registered", "ann", "2026-01-01T00:00:00+00:00")
BY_STUDY = Origin("study", "gate", "2026-02-01T00:00:00+00:00", study_id="4b77", comparison_id="e642")
PROOF = "Proven gain of +0.300 on 80 test rows (0.500 -> 0.800)."


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PromptFiles:
    (tmp_path / "route-switch.yaml").write_text("data_dir: data\n")
    monkeypatch.chdir(tmp_path)
    registry = PromptFiles(tmp_path / "data/prompts")
    registry.register(PromptTemplate("orders", "Order numbers", ("message",), {}), LIVE, origin=BY_ANN)
    return registry


def better(registry: PromptFiles, *, nearest: int = 0) -> None:
    demos = tuple(Demo(f"Where is AX-{n}?", f"AX-{n}") for n in range(3))
    text = replace(LIVE, demos=demos, nearest=nearest)
    registry.add_version("orders", text, model="tiny", origin=BY_STUDY)
    published = Change(Action.PUBLISH, 2, "tiny", "gate", BY_STUDY.at, PROOF, previous=1, comparison_id="e642")
    registry.make_live("orders", published)


def shown(registry: PromptFiles) -> list[str]:
    return list(summary_of(registry.get("orders")))


def test_a_fresh_template_is_two_facts(registry: PromptFiles) -> None:
    assert shown(registry) == [
        "orders: Order numbers",
        "live for all models: version 1 of 1, no demos",
        "    registered 2026-01-01T00:00:00+00:00 by ann: registered",
    ]


def test_each_models_version_comes_with_its_proof_and_its_study(registry: PromptFiles) -> None:
    better(registry, nearest=2)
    lines = shown(registry)
    assert lines[1:4] == [
        "live for tiny: version 2 of 2, 3 demos (2 shown, those most like the request)",
        f"    made live {BY_STUDY.at} by gate: {PROOF}",
        "    found by study 4b77, proven by comparison e642",
    ]
    assert lines[4].startswith("live for all other models: version 1 of 2")


def test_a_rollback_names_who_did_it_and_why(registry: PromptFiles) -> None:
    better(registry)
    undone = Change(Action.ROLLBACK, 1, "tiny", "kim", "2026-03-01T00:00:00+00:00", "wrong numbers", previous=2)
    registry.make_live("orders", undone)
    assert "    rolled back to 2026-03-01T00:00:00+00:00 by kim: wrong numbers" in shown(registry)


def test_where_nothing_is_live_it_says_so() -> None:
    registered = RegisteredTemplate(PromptTemplate("orders", "", (), {}), {}, {}, weights={"c1": 0.5})
    assert list(summary_of(registered)) == [
        "orders",
        "nothing is live; 0 versions",
        "weight of c1: 0.5, set while the gateway ran",
    ]


def test_the_command_prints_the_summary_as_comments_of_the_yaml(registry: PromptFiles) -> None:
    better(registry)
    hostile = Change(
        Action.PUBLISH, 2, None, "kim\nserving: {}", "2026-03-01T00:00:00+00:00", "\x1b[2J\u2028a: b", previous=1
    )
    registry.make_live("orders", hostile)
    printed = CliRunner().invoke(app, ["template", "show", "orders"]).stdout
    first, *others = printed.splitlines()
    assert first == "# orders: Order numbers"
    comments = [line for line in others if line.startswith("#")]
    assert others[: len(comments)] == comments
    assert any("by kim\\nserving: {}: \\x1b[2J\\u2028a: b" in line for line in comments)
    content = yaml.safe_load(printed)
    assert content["serving"] == {"*": 2, "tiny": 2}
    assert content["history"][-1]["by"] == "kim\nserving: {}"

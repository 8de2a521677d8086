"""`route-switch gateway combinations`: what would be drawn, and what stands in the way of the rest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.pools import build_catalog
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.router import Router
from rs_gateway.domain.routing import RouterRules
from rs_gateway.settings import load_settings
from rs_gateway.wiring import combinations_of, open_registry
from tests.commands import failure, from_json, ok
from tests.running import register, write_configuration


def combination(combination_id: str, **more: Any) -> dict[str, Any]:
    return {"id": combination_id, "template_id": "support", "model": "tiny", "provider": "ollama", **more}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    combinations = [
        combination("first", weight=3, fallbacks=["second"]),
        combination("second", weight=5),
        combination("off", enabled=False),
        combination("lost", template_id="nowhere"),
    ]
    write_configuration(tmp_path, {"model_providers": {"ollama": {}}, "gateway": {"combinations": combinations}})
    monkeypatch.chdir(tmp_path)
    registry = register(tmp_path)
    change = Change(Action.WEIGHT, None, None, "ann", "now", "calm", combination_id="second", weight=1.0)
    registry.set_weight("support", change)
    return tmp_path


def test_shares_go_by_the_weights_that_count_now(folder: Path) -> None:
    first, second, off, lost = from_json("gateway", "combinations")
    assert first == {
        "combination_id": "first",
        "name": "",
        "template_id": "support",
        "model": "tiny",
        "provider": "ollama",
        "enabled": True,
        "weight": 3.0,
        "weight_is_set": False,
        "share": 0.75,
        "version": 1,
        "fallbacks": ["second"],
        "fallbacks_are_set": True,
        "problem": None,
    }
    assert (second["weight"], second["weight_is_set"], second["share"]) == (1.0, True, 0.25)
    assert (off["problem"], off["share"]) == ("not enabled", 0.0)
    assert lost["problem"] == "its template is not registered"


def test_the_table_says_the_same(folder: Path) -> None:
    table = ok("gateway", "combinations").stdout
    assert "75.0%" in table
    assert "1 (set while it ran)" in table
    assert "its template is not registered" in table
    assert "first" not in ok("gateway", "combinations", "--template-id", "nowhere").stdout
    nothing = ok("gateway", "combinations", "-t", "unheard")
    assert nothing.stdout == ""
    assert "no such combination" in nothing.stderr


def test_check_names_a_combination_for_which_no_version_is_live(folder: Path) -> None:
    registry = PromptFiles(folder / "data/prompts")
    draft = registry.get("support")
    registry.add_drafts(replace(draft.template, template_id="drafted"), list(draft.versions.values()))
    serve(
        folder,
        combination("first"),
        combination("imported", template_id="drafted"),
        combination("teacher", template_id="drafted", enabled=False),
    )
    message = failure("check")
    assert "combination 'imported': no version of template 'drafted' is live for 'tiny'" in message
    assert "`route-switch template publish drafted VERSION --reason WHY`" in message
    assert message.count("combination '") == 1


def serve(folder: Path, *combinations: dict[str, Any]) -> None:
    write_configuration(
        folder, {"model_providers": {"ollama": {}}, "gateway": {"strategy": "random", "combinations": [*combinations]}}
    )


@pytest.mark.parametrize("draw", [0.1, 0.9])
def test_the_fallbacks_are_those_that_the_router_asks(folder: Path, draw: float) -> None:
    serve(
        folder,
        combination("spare", weight=0, fallbacks=["off"]),
        combination("first"),
        combination("off", enabled=False),
        combination("second", fallbacks=["off", "spare"]),
    )
    lines = {line["combination_id"]: line for line in from_json("gateway", "combinations")}
    settings = load_settings()
    pool = build_catalog(
        open_registry(settings).load().templates, combinations_of(settings), passthrough={}, problems={}
    ).pools["support"]
    decision = Router(RouterRules("random")).choose(pool.key, pool.combinations, draw=draw, now_s=0.0)
    asked = [name for name in decision.fallbacks if name in pool.members]
    assert lines[decision.chosen]["fallbacks"] == asked
    assert (lines["first"]["fallbacks"], lines["first"]["fallbacks_are_set"]) == (["spare", "second"], False)
    assert (lines["spare"]["fallbacks"], lines["off"]["fallbacks"]) == ([], [])
    table = ok("gateway", "combinations").stdout
    assert "spare, second (all others)" in table
    assert "nobody" in table


def test_where_all_weights_are_0_all_share_alike(folder: Path) -> None:
    serve(folder, combination("first", weight=0), combination("third", weight=0), combination("off", enabled=False))
    assert [line["share"] for line in from_json("gateway", "combinations")] == [0.5, 0.5, 0.0]


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    assert "There is no configuration at" in failure("gateway", "combinations", "--config", str(tmp_path / "x.yaml"))

"""`route-switch explain`: what a person reads about one request."""

import asyncio
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.cli import app
from rs_gateway.domain.routing import Decision
from rs_gateway.domain.traces import Attempt, Outcome, StoreMode, Trace, TracePayload, Usage, UsageSource
from tests import upstream as wire
from tests.gateway.test_chat import HELP, configuration
from tests.running import register, running_gateway
from tests.upstream import Upstream

TRACE_ID = "01HF7YAT00Q3K4ZJ9V5T8M2XWB"
SECRET = "the secret recipe"


def a_trace(**changes: Any) -> Trace:
    trace = Trace(
        trace_id=TRACE_ID,
        started_at=1_700_000_000.25,
        request_model="orders",
        outcome=Outcome.COMPLETE,
        stream=True,
        latency_s=1.5,
        usage=Usage(1200, 34, UsageSource.PROVIDER, cached_input_tokens=1000),
        template_id="orders",
        version=4,
        combination_id="big",
        provider="openai",
        model="gpt-4",
        response_model="gpt-4-0613",
        finish_reason="stop",
        time_to_first_token_s=0.25,
        cost_usd=0.0375,
        decision=Decision(
            "small",
            ("big",),
            "weighted_round_robin",
            {"small": 0.75, "big": 0.25},
            "weight 3 of 4",
            {"old": "its weight is 0"},
        ),
        attempts=(
            Attempt("small", "local", "qwen", 7, "provider_overloaded", 503, 0.125),
            Attempt("big", "openai", "gpt-4", 4, None, 200, 1.25),
        ),
        payload=TracePayload(
            ({"role": "user", "content": SECRET},), {}, {}, ({"role": "user", "content": SECRET},), {"content": "ok"}
        ),
        key_id="4f1c09ab7e",
    )
    return replace(trace, **changes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "route-switch.yaml").write_text("data_dir: data\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store(folder: Path, trace: Trace) -> None:
    with closing(SqliteTraceStore(folder / "data/traces.db")) as traces:
        assert asyncio.run(traces.committed(trace))


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "200"})


def explained(folder: Path, *options: str, **changes: Any) -> str:
    store(folder, a_trace(**changes))
    result = explain(TRACE_ID, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_everything_about_a_request_that_fell_back_is_told(folder: Path) -> None:
    text = explained(folder)
    for words in (
        "2023-11-14 22:13:20.250 UTC",
        "model 'orders' at chat.completions, template 'orders', as a stream",
        "4f1c09ab7e",
        "big (openai, model gpt-4, prompt version 4), which calls itself gpt-4-0613, as a fallback of small",
        "complete (finish reason stop)",
        "1.500 s, first token after 0.250 s",
        "1,200 in, 34 out, 1,000 of the input from the cache (the provider's counts)",
        "0.037500 USD",
        "Decision by weighted_round_robin: small, weight 3 of 4",
        "Fallbacks, in order: big",
    ):
        assert words in text
    assert ["small", "75.0%", "chosen"] in rows(text)
    assert ["big", "25.0%", "eligible"] in rows(text)
    assert ["old", "", "excluded: its weight is 0"] in rows(text)
    assert ["1", "small", "local", "qwen", "7", "provider_overloaded", "503", "0.125 s"] in rows(text)
    assert ["2", "big", "openai", "gpt-4", "4", "answered", "200", "1.250 s"] in rows(text)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_was_said_is_shown_only_on_request(folder: Path, options: tuple[str, ...]) -> None:
    assert SECRET not in explained(folder, *options)
    assert SECRET in explain(TRACE_ID, "--payload", *options).stdout


def test_nothing_is_cut_where_there_is_no_terminal(folder: Path) -> None:
    store(folder, a_trace())
    wide, piped = explain(TRACE_ID), CliRunner().invoke(app, ["explain", TRACE_ID], env={"COLUMNS": None})
    assert rows(piped.stdout) == rows(wide.stdout)
    assert "\u2026" not in piped.stdout


def test_a_payload_that_was_never_stored_is_not_missed_silently(folder: Path) -> None:
    text = explained(folder, "--payload", store=StoreMode.METRICS)
    assert "What was said is not stored" in text
    assert SECRET not in text


def test_json_is_the_trace_with_its_decision_and_attempts(folder: Path) -> None:
    facts = json.loads(explained(folder, "--json"))
    assert facts["decision"]["probabilities"] == {"small": 0.75, "big": 0.25}
    assert [attempt["status"] for attempt in facts["attempts"]] == [503, 200]
    assert facts["stream"] is True
    assert facts["reached"] == "`model` is the template's name"
    assert "response" not in facts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cost_usd": None}, "unknown: this model has no price"),
        ({"cost_usd": None, "usage": Usage.unknown()}, "unknown: no token counts"),
        ({"cost_usd": 0.0}, "0.000000 USD"),
    ],
)
def test_a_price_that_is_unknown_is_not_zero(folder: Path, changes: dict[str, Any], words: str) -> None:
    assert words in explained(folder, **changes)


@pytest.mark.parametrize("started_at", [3e11, float("inf"), -1e11])
def test_a_time_that_is_no_date_is_told_as_what_it_is(folder: Path, started_at: float) -> None:
    assert f"{started_at:g} s after 1970, which is no date" in explained(folder, started_at=started_at)


def test_a_request_that_was_refused_before_any_decision_says_so(folder: Path) -> None:
    text = explained(
        folder,
        **{"outcome": Outcome.REJECTED, "error_code": "model_not_found", "decision": None, "attempts": ()},
        **dict.fromkeys(("combination_id", "provider", "model", "response_model", "version", "template_id", "key_id")),
        **{"cost_usd": None, "finish_reason": None, "usage": Usage.unknown()},
    )
    assert "rejected (error model_not_found)" in text
    assert "refused before a pool was found" in text
    assert "No provider was asked." in text
    assert "answered by  nobody" in text


PLAIN: dict[str, Any] = {
    "request_model": "gpt-4",
    "template_id": None,
    "version": None,
    "combination_id": "openai/gpt-4",
    "decision": Decision("openai/gpt-4", (), "weighted_round_robin", {"openai/gpt-4": 1.0}, "the only one", {}),
    "attempts": (Attempt("openai/gpt-4", "openai", "gpt-4", None, None, 200, 1.0),),
}
REFUSED: dict[str, Any] = {
    **PLAIN,
    **dict.fromkeys(("combination_id", "decision", "provider", "model", "response_model")),
    "attempts": (),
    "outcome": Outcome.REJECTED,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "`model` is the template's name\n"),
        (
            {"request_model": "gpt-4"},
            "or because the template runs the model that was asked for: then its prompt is used",
        ),
        ({"request_model": "gpt-4"}, "used, although openai lists it for use without a template"),
        ({"request_model": "other"}, "by `metadata`, which names the template or one of its combinations"),
        (PLAIN, "passed through to openai, which lists the model: no template, no prompt of ours\n"),
        (
            {**PLAIN, "request_model": "support"},
            "There is a template of that name now, which the gateway did not know then",
        ),
        (
            {**PLAIN, "request_model": "support", "endpoint": "responses"},
            "; the template of that name answers on /v1/chat/completions only",
        ),
        (
            {**REFUSED, "request_model": "support", "error_code": "template_unavailable"},
            "'support' is the name of a template, and of a model that openai lists: for chat the template goes",
        ),
    ],
)
def test_how_a_name_led_to_a_template_or_past_it_is_told(folder: Path, changes: dict[str, Any], words: str) -> None:
    (folder / "route-switch.yaml").write_text("data_dir: data\nmodel_providers: {openai: {models: [gpt-4, support]}}\n")
    register(folder)
    assert words in explained(folder, **changes)


def test_a_name_that_means_nothing_needs_no_words(folder: Path) -> None:
    assert "reached" not in explained(folder, **REFUSED, error_code="model_not_found")


def test_hostile_names_neither_style_nor_steer_the_terminal(folder: Path) -> None:
    hostile = "[red]x[/red]\x1b[2J\x9b31m\r\n:smile:"
    said = TracePayload(({"role": "user", "content": hostile},), {}, {}, (), None)
    decision = Decision(hostile, (hostile,), "random", {hostile: 1.0}, hostile, {hostile + "2": hostile})
    attempt = Attempt(hostile, hostile, hostile, None, hostile, None, 0.5)
    everywhere = ("request_model", "model", "response_model", "end_user", "finish_reason", "template_id")
    changes = {**dict.fromkeys(everywhere, hostile), "decision": decision, "attempts": (attempt,), "payload": said}
    text = explained(folder, "--payload", **changes)
    assert "[red]x[/red]\\x1b[2J\\x9b31m\\r\\n:smile:" in text
    assert not {c for c in text if not c.isprintable()} - {"\n"}


def test_an_unknown_trace_is_an_error_that_says_where_it_can_be(folder: Path) -> None:
    result = explain(TRACE_ID)
    assert result.exit_code == 1
    assert result.stdout == ""
    for words in (
        "sqlite:///data/traces.db",
        "2023-11-14 22:13:20.000 UTC",
        "for ever",
        "store mode `none`",
        "--config",
    ):
        assert words in result.stderr
    assert not (folder / "data").exists()
    (folder / "route-switch.yaml").write_text("privacy: {retention: {trace_days: 30}}")
    assert "for 30 days here (privacy.retention.trace_days)" in explain(TRACE_ID).stderr


@pytest.mark.parametrize(
    "trace_id", ["chatcmpl-123", TRACE_ID.lower(), "8" * 26, "ü" * 26, "'; DROP TABLE traces", "\udcff"]
)
def test_what_is_no_trace_id_is_told_apart_from_one_that_is_gone(folder: Path, trace_id: str) -> None:
    result = explain(trace_id)
    assert result.exit_code == 1
    assert "is no trace id: take the `x-route-switch-trace-id` header" in result.stderr


def test_a_request_over_the_wire_is_explained_by_the_id_in_its_answer(tmp_path: Path) -> None:
    register(tmp_path)
    with (
        Upstream([wire.fails(503)]).running() as down,
        Upstream([wire.answers("ok")]).running() as up,
        running_gateway(tmp_path, configuration(down, up)) as gateway,
    ):
        trace_id = gateway.ask(HELP).headers["x-route-switch-trace-id"]
        gateway.traces()
    result = explain(trace_id, "--config", str(tmp_path / "route-switch.yaml"))
    assert (
        "on-p2 (p2, model gpt-4, prompt version 1), which calls itself model-v1, as a fallback of on-p1"
        in result.stdout
    )
    assert [row[5:7] for row in rows(result.stdout) if row[0] in "12"] == [
        ["provider_overloaded", "503"],
        ["answered", "200"],
    ]
    assert "Help me" not in result.stdout

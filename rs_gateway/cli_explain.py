"""`route-switch explain`: why a request was answered by whom, how often it was tried, and how it ended."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rs_gateway.cli_options import ConfigOption, JsonOption
from rs_gateway.data_console import data, print_json, printable, words
from rs_gateway.trace_facts import PAYLOAD, Facts, facts_of, utc, why_not_found, without_payload

if TYPE_CHECKING:
    from rs_gateway.settings import Settings

_CHAT = "chat.completions"


def explain_trace(
    trace_id: Annotated[str, typer.Argument(help="The `x-route-switch-trace-id` header of an answer.")],
    payload: Annotated[bool, typer.Option("--payload", help="Show what was said too, as far as it is stored.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain one request: who could have answered, how likely each was, who did, and how it went.

    Example: `route-switch explain 01KAT5S9C6T1GQ8MHK0N5V2R7X`
    """
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_trace_reader

    settings = load_settings(config)
    with closing(open_trace_reader(settings)) as reader:
        row = reader.trace(trace_id) if trace_id.isascii() else None
    if row is None:
        words.print(f"error: {why_not_found(trace_id, settings)}")
        raise typer.Exit(1)
    facts = facts_of(row)
    reached = _reached(facts, _names(settings))
    if as_json:
        print_json({**(facts if payload else without_payload(facts)), "reached": reached})
        return
    for line in _summary(facts, reached=reached):
        data.print(line)
    _print_decision(facts)
    _print_attempts(facts)
    _print_payload(facts, shown=payload)


@dataclass(frozen=True, slots=True)
class _Names:
    """What a `model` may mean in the configuration and the registry as they are now.

    Attributes:
        templates: ids of the registered ones, servable or not; empty where the registry cannot be read.
        listed: model that is passed through -> the provider that lists it.
    """

    templates: frozenset[str]
    listed: Mapping[str, str]


def _names(settings: "Settings") -> _Names:
    from rs_gateway.domain.errors import RouteSwitchError
    from rs_gateway.wiring import open_registry, passthrough_of

    listed = {model: combination.provider for model, combination in passthrough_of(settings).items()}
    try:
        state = open_registry(settings).load()
    except RouteSwitchError:
        return _Names(frozenset(), listed)
    return _Names(frozenset({*state.templates, *state.problems}), listed)


def _reached(facts: Facts, names: _Names) -> str | None:
    """How the words of the request led to its template, or to none; None where there is nothing to say."""
    model, template_id = facts["request_model"], facts["template_id"]
    if template_id is not None:
        return _reached_template(facts, names)
    if facts["decision"] is not None:
        passed = f"passed through to {facts['provider']}, which lists the model: no template, no prompt of ours"
        if model not in names.templates:
            return passed
        if facts["endpoint"] != _CHAT:
            return f"{passed}; the template of that name answers on /v1/chat/completions only"
        return (
            f"{passed}. There is a template of that name now, which the gateway did not know then: a template goes "
            "before a model of the same name"
        )
    if model not in names.templates:
        return None
    return f"{model!r} is the name of a template{_and_of_a_model(model, names)}"


def _reached_template(facts: Facts, names: _Names) -> str:
    model = facts["request_model"]
    if model == facts["template_id"]:
        return f"`model` is the template's name{_and_of_a_model(model, names)}"
    if model and model in {facts["model"], *(attempt["model"] for attempt in facts["attempts"] or ())}:
        plain = ""
        if model in names.listed:
            plain = f", although {names.listed[model]} lists it for use without a template"
        return (
            f"by `metadata`, or because the template runs the model that was asked for: then its prompt is used{plain}"
        )
    return "by `metadata`, which names the template or one of its combinations"


def _and_of_a_model(model: str, names: _Names) -> str:
    if model not in names.listed:
        return ""
    lister = names.listed[model]
    return f", and of a model that {lister} lists: for chat the template goes first, so rename it to reach the model"


def _summary(facts: Facts, *, reached: str | None) -> Iterator[str]:
    yield f"Trace {printable(facts['trace_id'])}"
    yield from (
        f"  {name:<12} {printable(text)}"
        for name, text in (
            ("when", utc(facts["started_at"])),
            ("asked for", _asked(facts)),
            ("reached", reached),
            ("client key", facts["key_id"] or "none"),
            ("end user", facts["end_user"]),
            ("answered by", _answerer(facts)),
            ("outcome", _outcome(facts)),
            ("latency", _latency(facts)),
            ("tokens", _tokens(facts)),
            ("cost", _cost(facts)),
        )
        if text is not None
    )


def _asked(facts: Facts) -> str:
    model = f"model {facts['request_model']!r}" if facts["request_model"] else "no model"
    template = f"template {facts['template_id']!r}" if facts["template_id"] else "no template"
    return f"{model} at {facts['endpoint']}, {template}" + (", as a stream" if facts["stream"] else "")


def _answerer(facts: Facts) -> str:
    chosen = (facts["decision"] or {}).get("chosen")
    if facts["combination_id"] is None:
        return "nobody"
    what = f"{facts['combination_id']} ({facts['provider']}, model {facts['model']}{_version(facts)})"
    if facts["response_model"] not in (None, facts["model"]):
        what += f", which calls itself {facts['response_model']}"
    if chosen not in (None, facts["combination_id"]):
        what += f", as a fallback of {chosen}"
    if facts["outcome"] in ("provider_error", "rejected"):
        what += "; it was the last to be asked, and gave no answer"
    return what


def _version(facts: Facts) -> str:
    return "" if facts["version"] is None else f", prompt version {facts['version']}"


def _outcome(facts: Facts) -> str:
    why = [
        f"{word} {facts[name]}" for name, word in (("error_code", "error"), ("finish_reason", "finish reason"))
        if facts[name] is not None
    ]  # fmt: skip
    unparsed = ", not in the output format of its version: delivered as it came" if facts["parsed"] == 0 else ""
    return facts["outcome"] + (f" ({', '.join(why)})" if why else "") + unparsed


def _latency(facts: Facts) -> str:
    first = facts["time_to_first_token_s"]
    return f"{facts['latency_s']:.3f} s" + ("" if first is None else f", first token after {first:.3f} s")


def _tokens(facts: Facts) -> str:
    if facts["input_tokens"] is None and facts["output_tokens"] is None:
        return "unknown"
    counts = [_count(facts["input_tokens"], "in"), _count(facts["output_tokens"], "out")]
    counts += [
        f"{facts[name]:,} {word}"
        for name, word in (
            ("cached_input_tokens", "of the input from the cache"),
            ("cache_write_tokens", "of the input written to the cache"),
            ("reasoning_tokens", "of the output for reasoning"),
        )
        if facts[name]
    ]
    source = {"provider": "the provider's counts", "estimated": "estimated: characters / 4"}
    return f"{', '.join(counts)} ({source.get(facts['usage_source'], 'unknown source')})"


def _count(tokens: int | None, word: str) -> str:
    return f"unknown {word}" if tokens is None else f"{tokens:,} {word}"


def _cost(facts: Facts) -> str:
    if facts["cost_usd"] is not None:
        return f"{facts['cost_usd']:.6f} USD"
    if facts["combination_id"] is None or facts["input_tokens"] is None:
        return "unknown: no token counts"
    return "unknown: this model has no price (model_providers.NAME.prices sets one)"


def _print_decision(facts: Facts) -> None:
    decision = facts["decision"]
    data.print()
    if decision is None:
        data.print("No decision: the request was refused before a pool was found for it.")
        return
    chosen, reason = printable(decision["chosen"]), printable(decision["reason"])
    data.print(f"Decision by {printable(decision['strategy'])}: {chosen}, {reason}")
    table = Table("combination", "probability", "standing")
    likeliest = sorted(decision["probabilities"].items(), key=lambda item: -item[1])
    for combination_id, probability in likeliest:
        verdict = "chosen" if combination_id == decision["chosen"] else "eligible"
        table.add_row(printable(combination_id), f"{probability:.1%}", verdict)
    for combination_id, why in decision["excluded"].items():
        table.add_row(printable(combination_id), "", f"excluded: {printable(why)}")
    data.print(table)
    data.print(f"Fallbacks, in order: {printable(', '.join(decision['fallbacks'])) or 'none'}")


def _print_attempts(facts: Facts) -> None:
    data.print()
    if not facts["attempts"]:
        data.print("No provider was asked.")
        return
    table = Table("attempt", "combination", "provider", "model", "version", "result", "status", "latency")
    for number, attempt in enumerate(facts["attempts"], start=1):
        names = (attempt["combination_id"], attempt["provider"], attempt["model"])
        table.add_row(
            str(number),
            *map(printable, names),
            "-" if attempt["version"] is None else str(attempt["version"]),
            printable(attempt["error_code"] or "answered"),
            "-" if attempt["status"] is None else str(attempt["status"]),
            f"{attempt['latency_s']:.3f} s",
        )
    data.print(table)


def _print_payload(facts: Facts, *, shown: bool) -> None:
    data.print()
    if facts["request_messages"] is None:
        data.print(
            "What was said is not stored: by its store mode, or it has expired (privacy.retention.payload_days)."
        )
        return
    if not shown:
        data.print("What was said is stored: --payload shows it.")
        return
    for name in PAYLOAD:
        data.print(f"{name}:")
        for line in json.dumps(facts[name], indent=2, ensure_ascii=False).splitlines():
            data.print(f"  {printable(line)}")

"""`route-switch stats`: the live figures, out of the store, whether the gateway runs or not."""

import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rs_gateway.cli_options import ConfigOption, JsonOption, OneTemplateArgument
from rs_gateway.data_console import data, print_json, printable, words
from rs_gateway.domain.wording import counted
from rs_gateway.template_hint import template_hint

if TYPE_CHECKING:
    from rs_gateway.domain.analytics import Breakdown, Summary

_HEADINGS = ("", "requests", "success", "p50", "p95", "first token p50", "tokens in", "tokens out", "USD")


def show_stats(
    template_id: OneTemplateArgument = None,
    window: Annotated[str, typer.Option("--window", "-w", help="How far to look back: 5m, 1h, 24h or all.")] = "24h",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Requests, success, latency, tokens and cost: altogether, and by template, version, combination and model.

    With --json every window, as `/v1/system/analytics` has them. All workers' requests, as of their last commit.

    Example: `route-switch stats support --window 1h`
    """
    from rs_gateway.domain.analytics import WINDOWS, break_down, since
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_stats_reader

    if window not in WINDOWS:
        raise typer.BadParameter(f"{window!r} is not one of {', '.join(WINDOWS)}.", param_hint="--window")
    now_s = time.time()
    settings = load_settings(config)
    with closing(open_stats_reader(settings)) as reader:
        begins = {name: since(name, now_s=now_s) for name in (WINDOWS if as_json else (window,))}
        found = {name: break_down(reader.stats(since_s=s, template_id=template_id)) for name, s in begins.items()}
    if as_json:
        from rs_gateway.api.analytics_schemas import window_of

        windows = {name: window_of(begins[name], breakdown).model_dump() for name, breakdown in found.items()}
        as_of = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
        print_json({"as_of": as_of, "template_id": template_id, "windows": windows})
        return
    if found[window].overall.requests:
        data.print(_table(found[window]))
    else:
        asked = "" if template_id is None else f" of template {template_id!r}"
        hint = template_hint(template_id, settings)
        words.print(f"No request{asked} in this window ({window}); --window all looks at all there ever were.{hint}")


def _table(breakdown: "Breakdown") -> Table:
    table = Table(_HEADINGS[0], *_HEADINGS[1:])
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("everything", *_cells(breakdown.overall), end_section=True)
    groups = {
        "template": breakdown.templates,
        "version": breakdown.versions,
        "combination": breakdown.combinations,
        "model": breakdown.models,
        "endpoint": breakdown.endpoints,
    }
    for name, rows in groups.items():
        for place, (parts, summary) in enumerate(rows, start=1):
            whose = " ".join("-" if part is None else str(part) for part in parts)
            table.add_row(printable(f"{name} {whose}"), *_cells(summary), end_section=place == len(rows))
    return table


def _cells(summary: "Summary") -> tuple[str, ...]:
    success = "" if summary.success_rate is None else f"{summary.success_rate:.1%}"
    latency, first = summary.latency_s, summary.time_to_first_token_s
    times = ("" if value is None else f"{value:.3f} s" for value in (latency.p50, latency.p95, first.p50))
    tokens = (f"{summary.tokens.input:,}", f"{summary.tokens.output:,}")
    return (f"{summary.requests:,}", success, *times, *tokens, _cost(summary))


def _cost(summary: "Summary") -> str:
    known, unpriced = summary.cost_usd, summary.unpriced_requests
    if known is None:
        return f"unpriced ({counted(unpriced, 'request')})" if unpriced else ""
    return f"{known:.4f}" + (f" + {unpriced} unpriced" if unpriced else "")

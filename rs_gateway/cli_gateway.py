"""`route-switch gateway`: what the configuration and the registry make of it, without a running one."""

from typing import TYPE_CHECKING

import typer
from rich.table import Table

from rs_gateway.cli_options import ConfigOption, JsonOption, OneTemplateOption
from rs_gateway.data_console import data, print_json, printable, words
from rs_gateway.template_hint import template_hint

if TYPE_CHECKING:
    from rs_gateway.combination_lines import CombinationLine

gateway_app = typer.Typer(no_args_is_help=True, help="What the gateway serves, and with what.")


@gateway_app.command("combinations")
def list_combinations(
    template_id: OneTemplateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List combinations of template, model and provider: weight, share of the draw, live version, fallbacks.

    Fallbacks are who is asked when the combination fails, in this order.

    Example: `route-switch gateway combinations --template-id support`
    """
    from dataclasses import asdict

    from rs_gateway.combination_lines import combination_lines
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import combinations_of, open_registry

    settings = load_settings(config)
    lines = combination_lines(combinations_of(settings), open_registry(settings).load().templates)
    shown = [line for line in lines if template_id in (None, line.template_id)]
    if as_json:
        print_json([asdict(line) for line in shown])
        return
    if not shown:
        hint = template_hint(template_id, settings)
        words.print(f"There is no such combination: gateway.combinations of the configuration lists them.{hint}")
        return
    table = Table("combination", "template", "model", "provider", "weight", "share", "version", "fallbacks", "state")
    for line in shown:
        weight = f"{line.weight:g}" + (" (set while it ran)" if line.weight_is_set else "")
        version = "" if line.version is None else str(line.version)
        names = (line.combination_id, line.template_id or "", line.model, line.provider)
        share = f"{line.share:.1%}"
        row = (*names, weight, share, version, _fallbacks(line), line.problem or "in order")
        table.add_row(*map(printable, row))
    data.print(table)


def _fallbacks(line: "CombinationLine") -> str:
    if line.problem is not None:
        return ""
    if not line.fallbacks:
        return "nobody"
    return ", ".join(line.fallbacks) + ("" if line.fallbacks_are_set else " (all others)")

"""`route-switch traces`: what the store holds of requests, as it comes, one by one, or as a file."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from rs_gateway.cli_options import ConfigOption, JsonOption, OneTemplateOption
from rs_gateway.data_console import data, print_json, printable, words
from rs_gateway.domain.traces import Outcome
from rs_gateway.domain.wording import counted
from rs_gateway.template_hint import template_hint

if TYPE_CHECKING:
    from rs_gateway.domain.ports import TraceReader
    from rs_gateway.trace_facts import Facts, Wanted

traces_app = typer.Typer(no_args_is_help=True, help="Requests that were answered: follow, look at, export.")

OutcomeOption = Annotated[Outcome | None, typer.Option(help="Only those that ended so.")]
_POLL_S = 0.5


@traces_app.command("tail")
def tail_traces(
    n: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="How many to begin with.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then go on with new ones, until Ctrl-C.")] = False,
    template_id: OneTemplateOption = None,
    outcome: OutcomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The newest traces, the last one at the end, without what was said; with --json one JSON object a line.

    Example: `route-switch traces tail -n 50 --follow --template-id support`
    """
    from rs_gateway.settings import load_settings
    from rs_gateway.trace_facts import Wanted, newest
    from rs_gateway.wiring import open_trace_reader

    wanted = Wanted(template_id, None if outcome is None else outcome.value)
    settings = load_settings(config)
    with closing(open_trace_reader(settings)) as reader:
        page = newest(reader, wanted, n=n)
        _print(page.traces, as_json=as_json)
        if follow:
            _follow(reader, wanted, after=page.position, as_json=as_json)
        elif not page.traces and not as_json:
            words.print(f"The store holds no such trace.{template_hint(template_id, settings)}")


def _follow(reader: "TraceReader", wanted: "Wanted", *, after: int, as_json: bool) -> None:
    from rs_gateway.trace_facts import pages

    try:
        while True:
            for page in pages(reader, wanted, after=after):
                _print(page.traces, as_json=as_json)
                after = page.position
            sys.stdout.flush()
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return  # that is how one ends it


@traces_app.command("show")
def show_trace(
    trace_id: Annotated[str, typer.Argument(help="The `x-route-switch-trace-id` header of an answer.")],
    no_payload: Annotated[bool, typer.Option("--no-payload", help="Leave out what was said.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """All that is stored of one request, as YAML. `route-switch explain` puts the same into words.

    Example: `route-switch traces show 01KAT5S9C6T1GQ8MHK0N5V2R7X --json`
    """
    from rs_gateway.settings import load_settings
    from rs_gateway.trace_facts import facts_of, why_not_found, without_payload
    from rs_gateway.wiring import open_trace_reader

    settings = load_settings(config)
    with closing(open_trace_reader(settings)) as reader:
        row = reader.trace(trace_id) if trace_id.isascii() else None
    if row is None:
        words.print(f"error: {why_not_found(trace_id, settings)}")
        raise typer.Exit(1)
    facts = without_payload(facts_of(row)) if no_payload else facts_of(row)
    if as_json:
        print_json(facts)
    else:
        import yaml

        for line in yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).splitlines():
            data.print(printable(line))


@traces_app.command("export")
def export_traces(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="The file to write.  [default: stdout]")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Begun then or later: 30m, 2h or 7d ago, or a time such as 2026-05-01T12:00 (UTC)."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Begun before then; written as for --since.")] = None,
    template_id: OneTemplateOption = None,
    outcome: OutcomeOption = None,
    no_payload: Annotated[bool, typer.Option("--no-payload", help="Leave out what was said.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Traces as JSON lines, the oldest first, to a file or to stdout; the gateway goes on meanwhile.

    A file appears whole or not at all. With --json, what was written is said as JSON; without a file there is no
    difference.

    Example: `route-switch traces export --since 7d --template-id support --output support.jsonl`
    """
    from rs_gateway.instants import instant_s
    from rs_gateway.settings import load_settings
    from rs_gateway.trace_facts import Wanted
    from rs_gateway.whole_file import whole_file
    from rs_gateway.wiring import open_trace_reader

    now_s = time.time()
    since_s, until_s = (None if text is None else instant_s(text, now_s=now_s) for text in (since, until))
    wanted = Wanted(template_id, None if outcome is None else outcome.value, since_s, until_s)
    settings = load_settings(config)
    with closing(open_trace_reader(settings)) as reader:
        if output is None:
            n = _export(reader, wanted, sys.stdout, no_payload=no_payload)
            words.print(f"{counted(n, 'trace')}.{template_hint(template_id, settings)}")
            return
        with whole_file(output, overwrite=overwrite) as file:
            n = _export(reader, wanted, file, no_payload=no_payload)
    if as_json:
        print_json({"traces": n, "file": str(output)})
    else:
        words.print(f"{counted(n, 'trace')} written to {output}.")


def _export(reader: "TraceReader", wanted: "Wanted", file: TextIO, *, no_payload: bool) -> int:
    from rs_gateway.progress_bar import progress_bar
    from rs_gateway.trace_facts import pages, without_payload

    shaped: Callable[[Facts], Facts] = without_payload if no_payload else lambda facts: facts
    end, n = reader.newest_positions().traces, 0
    with progress_bar("traces") as show:
        for page in pages(reader, wanted):
            file.writelines(json.dumps(shaped(facts)) + "\n" for facts in page.traces)
            n += len(page.traces)
            show(min(page.position, end), end)
            if page.position >= end:
                break  # what came since we began is for the next time
    return n


def _print(traces: "Iterable[Facts]", *, as_json: bool) -> None:
    from rs_gateway.trace_facts import without_payload

    for facts in traces:
        if as_json:
            print_json(without_payload(facts))
        else:
            data.print(printable(_line(facts)))


def _line(facts: "Facts") -> str:
    from rs_gateway.trace_facts import utc

    ended = facts["outcome"] + (f" ({facts['error_code']})" if facts["error_code"] else "")
    tokens = "/".join("?" if facts[name] is None else str(facts[name]) for name in ("input_tokens", "output_tokens"))
    cost = "" if facts["cost_usd"] is None else f"  {facts['cost_usd']:.6f} USD"
    answerer = facts["combination_id"] or "nobody"
    template = facts["template_id"] or facts["request_model"]
    return (
        f"{utc(facts['started_at'])}  {facts['trace_id']}  {template}  {answerer}  {ended}  "
        f"{facts['latency_s']:.3f} s  {tokens} tokens{cost}"
    )

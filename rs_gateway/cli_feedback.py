"""`route-switch feedback`: say what an answer should have been or how good it was, one by one or from a file."""

import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rs_gateway.cli_options import ConfigOption, JsonOption
from rs_gateway.data_console import print_json, words
from rs_gateway.domain.errors import InvalidRequestError
from rs_gateway.domain.feedback import Feedback, FeedbackKind, check_value
from rs_gateway.domain.wording import counted

feedback_app = typer.Typer(no_args_is_help=True, help="Labels, scores, outcomes and comments on earlier answers.")

SourceOption = Annotated[
    str, typer.Option(help="Who says so: human, human:NAME, teacher:MODEL or a system.", metavar="SOURCE")
]


@feedback_app.command("add")
def add_feedback(
    trace_id: Annotated[str, typer.Argument(help="The `x-route-switch-trace-id` header of the answer.")],
    label: Annotated[str | None, typer.Option(help="What the output should have been.")] = None,
    score: Annotated[float | None, typer.Option(help="How good it was, from 0 to 1.")] = None,
    outcome: Annotated[bool | None, typer.Option("--worked/--failed", help="Whether it worked out.")] = None,
    comment: Annotated[str | None, typer.Option(help="A comment for people.")] = None,
    source: SourceOption = "human",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say something about one answer. A label teaches: the next optimisation learns from it.

    Into the same store as over `/v1/feedback`; the gateway may be running.

    Example: `route-switch feedback add 01KAT5S9C6T1GQ8MHK0N5V2R7X --label delivery`
    """
    import anyio
    from ulid import ULID

    from rs_gateway.settings import load_settings
    from rs_gateway.trace_facts import why_not_found
    from rs_gateway.wiring import open_trace_reader, open_trace_store

    given = {"label": label, "score": score, "outcome": outcome, "comment": comment}
    said = [(FeedbackKind(kind), value) for kind, value in given.items() if value is not None]
    if len(said) != 1:
        raise typer.BadParameter("Say one thing: --label, --score, --worked, --failed or --comment.")
    kind, value = said[0]
    feedback = Feedback(str(ULID()), trace_id, kind, check_value(kind, value), source, time.time())
    settings = load_settings(config)
    with closing(open_trace_reader(settings)) as reader:
        if not trace_id.isascii() or reader.trace(trace_id) is None:
            raise InvalidRequestError(why_not_found(trace_id, settings))
    with closing(open_trace_store(settings)) as store:
        anyio.run(store.add_feedback, feedback)
    if as_json:
        print_json({"feedback_id": feedback.feedback_id, "trace_id": trace_id})
    else:
        words.print(f"Stored the {kind.value} of {trace_id}.")


@feedback_app.command("import")
def import_feedback(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help='Lines of {"trace_id", "kind", "value"}.')],
    source: SourceOption = "human",
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Store the good lines although there are bad ones.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store feedback from a file of JSON lines. A bad line is listed; then nothing at all is stored.

    Each line: {"trace_id": "...", "kind": "label|score|outcome|comment", "value": ..., "source": "..." (optional)}.
    The same line is stored once, so an interrupted import is simply repeated.

    Example: `route-switch feedback import labels.jsonl --source human:ann`
    """
    import anyio

    from rs_gateway.feedback_file import read_feedback, store_feedback
    from rs_gateway.progress_bar import progress_bar
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_trace_reader, open_trace_store

    settings = load_settings(config)
    try:
        with file.open(encoding="utf-8-sig") as lines, closing(open_trace_reader(settings)) as reader:
            found = read_feedback(lines, reader, source=source, now_s=time.time())
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{file} is not UTF-8 ({error.reason}): save it as UTF-8.") from None
    for problem in found.problems:
        words.print(f"line {problem.line}: {problem.reason}")
    refused = bool(found.problems) and not skip_invalid
    if found.new and not refused:
        with closing(open_trace_store(settings)) as store, progress_bar("feedback") as show:
            anyio.run(lambda: store_feedback(found.new, store, on_stored=show))
    stored = 0 if refused else len(found.new)
    if as_json:
        problems = [asdict(problem) for problem in found.problems]
        print_json({"stored": stored, "known": found.known, "skipped": len(problems), "problems": problems})
    elif refused:
        words.print(
            f"{counted(len(found.problems), 'bad line')}, nothing stored. Mend what is bad, or pass --skip-invalid."
        )
    else:
        words.print(f"Stored {counted(stored, 'line')} ({found.known} already known, {len(found.problems)} skipped).")
    if refused:
        raise typer.Exit(1)

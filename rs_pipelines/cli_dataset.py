"""`route-switch dataset`: labelled rows from files, from a stronger model, and back into a file."""

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rs_gateway.cli_options import ConfigOption, JsonOption, TemplateArgument
from rs_gateway.completions import combination_names
from rs_gateway.data_console import data, print_json, printable, words
from rs_gateway.domain.wording import counted

if TYPE_CHECKING:
    from rs_pipelines.teaching import Taught

dataset_app = typer.Typer(no_args_is_help=True, help="Labelled rows: from files, from a teacher, and back into a file.")


@dataset_app.command("import")
def import_dataset(
    template_id: TemplateArgument,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help='Lines of {"variables", "expected"}.')],
    config: ConfigOption = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Import the good rows although there are bad ones.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Import labelled rows for a template. A bad row is listed with its line; then nothing at all is imported.

    Each line: {"variables": {...}, "expected": "...", "split": "train|val|test" (optional)}

    Or a CSV file, `*.csv`, whose first line names the columns: the variables, `expected` and, optional, `split`, `id`.

    Example: `route-switch dataset import support labels.jsonl`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines.dataset_file import DatasetError, read_dataset
    from rs_pipelines.datasets import ImportReport
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    content = read_dataset(file, bench.registry.get(template_id).template)
    try:
        report, refused = bench.datasets.add(template_id, content, skip_invalid=skip_invalid), False
    except DatasetError as error:
        report, refused = ImportReport(0, 0, 0, error.problems), True
    for problem in report.problems:
        words.print(f"line {problem.line}: {problem.reason}")
    if refused:
        words.print(
            f"{counted(report.skipped, 'bad row')}, nothing imported. Mend what is bad, or pass --skip-invalid.",
            style="bold red",
        )
    if as_json:
        print_json(
            {
                "imported": report.added,
                "corrected": report.corrected,
                "duplicates": report.duplicates,
                "skipped": report.skipped,
                "problems": [{"line": p.line, "reason": p.reason} for p in report.problems],
            }
        )
    elif not refused:
        words.print(
            f"Imported {counted(report.added, 'row')} ({report.corrected} corrected, {report.duplicates} already "
            f"known, {report.skipped} skipped)."
        )
    if refused:
        raise typer.Exit(1)


@dataset_app.command("teach")
def teach_dataset(
    template_id: TemplateArgument,
    teacher: Annotated[
        str,
        typer.Option(
            help="Id of a combination of the template; `enabled: false` will do.", autocompletion=combination_names
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many inputs to ask about at most, the newest first.")] = 200,
    max_calls: Annotated[
        int | None, typer.Option(min=1, help="Hard limit on the teacher's calls.  [default: none]")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a stronger model answer what production asked and nobody has labelled; its answers become labels.

    They are marked `teacher:MODEL` wherever labels are counted, and a person's label goes before them.

    Example: `route-switch dataset teach support --teacher support-large --limit 300`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines.interrupts import sigterm_interrupts
    from rs_pipelines.progress import RunProgress
    from rs_pipelines.teaching import teach
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    try:
        with sigterm_interrupts(), RunProgress(words) as progress:
            taught = teach(
                bench,
                template_id,
                teacher=teacher,
                limit=limit,
                max_calls=max_calls,
                watch=progress,
                on_label=lambda done, total: progress.bar("inputs", done, total),
            )
    except KeyboardInterrupt:
        words.print("Stopped. What was labelled is kept: the same command goes on where it was.")
        raise typer.Exit(130) from None
    if as_json:
        print_json(asdict(taught))
        return
    spent = f"; stopped, all {max_calls} calls are spent" if taught.budget_spent else ""
    words.print(
        f"{taught.labelled} of {taught.inputs} unlabelled inputs labelled as {taught.source}, {taught.unanswered} not "
        f"answered, {taught.calls} calls{spent}.\n{_left_to_teach(taught)}"
    )


def _left_to_teach(taught: "Taught") -> str:
    """What has no label yet, and how to go on."""
    left = counted(taught.remaining, "input has", "inputs have")
    if taught.remaining > taught.unanswered:
        # Those that were not answered are the newest: they come first again.
        limit = "" if taught.unanswered < taught.inputs else ", with a larger --limit"
        return f"{left} no label yet: the same command goes on with what is left{limit}."
    if taught.remaining:
        why = "the teacher did not answer to the end: look at its `max_tokens` and output format, or label by hand"
        return f"{left} no label yet, because {why}."
    return "Nothing that was asked is without a label."


@dataset_app.command("export")
def export_dataset(
    template_id: TemplateArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="The file to write.  [default: stdout]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The imported rows as JSON lines, one for each input with its latest label; `dataset import` reads them back.

    A file appears whole or not at all. With --json, what was written is said as JSON; without a file there is no
    difference. Labels that came as feedback are in `route-switch traces`, not here.

    Example: `route-switch dataset export support --output labels.jsonl`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_gateway.whole_file import whole_file
    from rs_pipelines.dataset_file import line_of
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    bench.registry.get(template_id)
    rows = bench.datasets.rows(template_id)
    lines = (line_of(row) + "\n" for row in rows)
    if output is None:
        sys.stdout.writelines(lines)
        words.print(f"{counted(len(rows), 'row')}.")
        return
    with whole_file(output, overwrite=overwrite) as file:
        file.writelines(lines)
    if as_json:
        print_json({"rows": len(rows), "file": str(output)})
    else:
        words.print(f"{counted(len(rows), 'row')} written to {output}.")


@dataset_app.command("show")
def show_dataset(
    template_id: TemplateArgument,
    n: Annotated[int, typer.Option("--rows", "-n", min=0, help="How many rows to show, the first ones.")] = 5,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """How many imported rows a template has, on which sides, with which labels, and the first ones.

    Example: `route-switch dataset show support --rows 20`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines.inputs import split_of
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    bench.registry.get(template_id)
    rows = bench.datasets.rows(template_id)
    sides = [(row.split or split_of(row.key)).value for row in rows]
    by_split, labels = Counter(sides), Counter(row.expected for row in rows)
    if as_json:
        shown = [
            {"variables": row.variables, "messages": row.messages, "expected": row.expected, "split": side}
            for row, side in list(zip(rows, sides, strict=True))[:n]
        ]
        by_label = [{"expected": expected, "rows": count} for expected, count in labels.most_common()]
        facts = {"template_id": template_id, "rows": len(rows), "by_split": dict(by_split)}
        print_json({**facts, "labels": by_label, "first_rows": shown})
        return
    if not rows:
        words.print(f"No row was imported for {template_id!r}: `route-switch dataset import {template_id} FILE`.")
        return
    data.print(
        f"{counted(len(rows), 'row')}: " + ", ".join(f"{by_split[side]} {side}" for side in ("train", "val", "test"))
    )
    table = Table("label", "rows", title=counted(len(labels), "different label"), title_justify="left")
    for expected, count in labels.most_common(_SHOWN_LABELS):
        table.add_row(printable(expected[:_SHOWN_CHARACTERS]), str(count))
    data.print(table)
    if n:
        first = Table("split", "input", "expected", title="First rows", title_justify="left")
        for row, side in list(zip(rows, sides, strict=True))[:n]:
            asked = "; ".join([*(f"{k}={v}" for k, v in row.variables.items()), *map(str, row.messages)])
            cells = (asked, row.expected)
            first.add_row(side, *(printable(cell[:_SHOWN_CHARACTERS]) for cell in cells))
        data.print(first)


_SHOWN_LABELS = 20
_SHOWN_CHARACTERS = 200

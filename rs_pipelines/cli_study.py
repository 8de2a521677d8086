"""`route-switch study`: what searches have found, and on which proof."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from rs_gateway.cli_options import ConfigOption, JsonOption, OneTemplateArgument
from rs_gateway.completions import study_names
from rs_gateway.data_console import data, print_json, printable, words
from rs_gateway.domain.errors import StoreError
from rs_gateway.template_hint import template_hint

if TYPE_CHECKING:
    from rs_pipelines.answers import AnswerCache
    from rs_pipelines.comparison import Comparison
    from rs_pipelines.sample import Example
    from rs_pipelines.study_lines import StudyLine
    from rs_pipelines.workbench import Workbench

_CALLS = "calls: search + comparison"

study_app = typer.Typer(no_args_is_help=True, help="What optimisations have tried, found and proven.")


@study_app.command("list")
def list_studies(
    template_id: OneTemplateArgument = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List studies with what they found on validation rows and proved on held-out ones; the newest last.

    Calls are those of the search, and those of the comparison that followed; each retry is one.

    Example: `route-switch study list support`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines.packages.provenance import imported_studies
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    faults = bench.studies.faults()
    try:
        lines = _lines(bench, template_id, bench.known_answers())
    except StoreError as error:
        faults.append(str(error))
        lines = _lines(bench, template_id, None)
    for fault in faults:
        words.print(Text.assemble(("error:", "bold red"), " ", fault))
    if as_json:
        print_json([asdict(line) for line in lines])
    elif lines:
        _print_lines(lines)
    elif not faults:
        hint = template_hint(template_id, bench.settings)
        words.print(f"There is no study yet: `route-switch optimize {template_id or 'TEMPLATE'}` makes one.{hint}")
    own = {line.study_id for line in lines}
    brought = {
        study.study_id
        for store in imported_studies(bench.data)
        for study in store.readable()
        if template_id in (None, study.target.template_id) and study.study_id not in own
    }
    if brought and not as_json:
        words.print(f"With packages came {', '.join(sorted(brought))}: `route-switch study show` shows them.")
    if faults:
        raise typer.Exit(1)


def _lines(bench: "Workbench", template_id: str | None, answers: "AnswerCache | None") -> "list[StudyLine]":
    """With what the cache says was paid; closes it."""
    from rs_pipelines.spending import Spending
    from rs_pipelines.study_lines import study_lines

    if answers is None:
        return study_lines(bench.studies, bench.registry, spending=lambda study_id: Spending(), template_id=template_id)
    with closing(answers):
        return study_lines(bench.studies, bench.registry, spending=answers.spending, template_id=template_id)


def _print_lines(lines: "Sequence[StudyLine]") -> None:
    table = Table("study", "template", "model", "started", "state", "live", "best", "proven gain", _CALLS)
    for line in lines:
        became = f"version {line.published_version}" if line.published_version is not None else line.state
        gain = ""
        if line.gain is not None and line.interval is not None:
            gain = f"{line.gain:+.3f} [{line.interval[0]:+.3f}, {line.interval[1]:+.3f}]"
        compared = "unknown" if line.comparison_calls is None else str(line.comparison_calls)
        table.add_row(
            *(printable(cell) for cell in (line.study_id, line.template_id, line.model, line.started_at, became)),
            *(_score(line.live_value), _score(line.best_value), gain, f"{line.calls} + {compared}"),
        )
    data.print(table)


@study_app.command("show")
def show_study(
    study_id: Annotated[str, typer.Argument(help="Its id, or how it begins.", autocompletion=study_names)],
    rows: Annotated[
        int, typer.Option(min=0, help="How many rows won, and how many lost, to show with input and both outputs.")
    ] = 0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one study: the leading candidates, its course, the prompt that it chose, and the comparison that followed.

    Studies that came with an imported package are shown too.

    Example: `route-switch study show 4b77 --rows 3`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    import msgspec

    from rs_gateway.version_texts import text_yaml
    from rs_pipelines.packages.provenance import imported_studies
    from rs_pipelines.progress import print_comparison, print_study
    from rs_pipelines.study_lines import find_study, published_version
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    study, comparison = find_study([bench.studies, *imported_studies(bench.data)], study_id)
    published = None if comparison is None else published_version(bench.registry, comparison)
    if as_json:
        print_json(
            {
                "study": msgspec.to_builtins(study),
                "comparison": None if comparison is None else msgspec.to_builtins(comparison),
                "published_version": published,
            }
        )
        return
    data.print(
        f"Study {study.study_id} of {printable(study.target.template_id)} for {printable(study.target.model)}, "
        f"started {study.started_at}"
    )
    if study.study_id not in {own.study_id for own in bench.studies.readable()}:
        data.print("It came with a package: searched and proven there, not here.")
    print_study(data, study)
    if study.best_text is not None:
        data.print("Chosen prompt:")
        for line in text_yaml(study.best_text).splitlines():
            data.print(f"  {printable(line)}")
    if comparison is None:
        words.print("It was not compared on held-out rows: `route-switch optimize` goes on where it was.")
    else:
        examples = _rows_of(bench, comparison) if rows else {}
        print_comparison(data, comparison, published=published, show_rows=rows, examples=examples)


def _rows_of(bench: "Workbench", comparison: "Comparison") -> "dict[str, Example]":
    """Example id -> row of the comparison's sample; none, and why, where it is not here, as with a package."""
    try:
        sample = bench.samples.load(comparison.target, comparison.sample_id)
    except StoreError as error:
        words.print(f"Inputs are not shown. {error}")
        return {}
    return {example.example_id: example for example in sample.examples}


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"

"""`route-switch package export | import | verify`: one template with its history, labels, logs and figures."""

import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_gateway.cli_options import ConfigOption, JsonOption, TemplateArgument
from rs_gateway.data_console import words

if TYPE_CHECKING:
    from rs_pipelines.packages.content import PackageContent
    from rs_pipelines.packages.format import Watch
    from rs_pipelines.packages.importing import Imported

package_app = typer.Typer(no_args_is_help=True, help="Take a template with its whole history to another gateway.")

PackageArgument = Annotated[Path, typer.Argument(help="A package: a directory, or a .tar.zst file.")]


@package_app.command("export")
def export(
    template_id: TemplateArgument,
    place: Annotated[
        Path | None, typer.Argument(help="A directory that is not there yet, or a new file NAME.tar.zst.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="The same, as an option.")] = None,
    logs_limit: Annotated[
        int, typer.Option(min=0, help="How many traces to take along, the newest ones; 0 for none.")
    ] = 100,
    include_analytics: Annotated[
        bool, typer.Option("--include-analytics", help="Take this template's live figures along.")
    ] = False,
    git: Annotated[
        bool, typer.Option("--git", help="Add the versions as a git history: `git clone` reads it.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a package of one template: versions and publications, the proofs behind them, labelled rows, recent logs.

    The gateway may be running. `privacy.redact` and `privacy.hook` go over rows, logs, proofs, reasons and notes;
    versions go as they are, and those that hold such text are named.

    Example: `route-switch package export support support.tar.zst --git --include-analytics`
    """
    from rs_pipelines.cli import need_pipelines

    places = [named for named in (place, output_dir) if named is not None]
    if len(places) != 1:
        raise typer.BadParameter("Say once where the package goes: PLACE, or --output-dir PLACE.")
    (place,) = places
    need_pipelines()
    from rs_pipelines.packages.export import ExportOptions, export_package
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    options = ExportOptions(logs_limit, include_analytics, git)
    with _long_work() as watch:
        facts = export_package(bench, template_id, place, options, now=datetime.now(UTC), watch=watch)
    if as_json:
        _print_json(
            {
                "path": str(place),
                "template_id": template_id,
                "version": facts.version,
                "sha256": facts.sha256,
                "counts": facts.counts.model_dump(),
                "redaction": facts.redaction.model_dump(),
                "files": len(facts.files),
            }
        )
        return
    words.print(f"Exported {template_id!r} to {place}: {_counted(facts.counts.model_dump())}.")
    if not facts.redaction.rules:
        words.print("Nothing was redacted: `privacy.redact` names no rule.")
    if facts.redaction.versions_with_matches:
        numbers = ", ".join(map(str, facts.redaction.versions_with_matches))
        words.print(
            f"Versions {numbers} hold text that {', '.join(facts.redaction.rules)} would take out. They are in the "
            "package as they are: look at them before you pass it on."
        )


@package_app.command("import")
def import_(
    path: PackageArgument,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="For a template that is known here: add its versions as further drafts, take its labels and figures.",
        ),
    ] = False,
    restore_analytics: Annotated[
        bool, typer.Option("--restore-analytics", help="Bring in the live figures that the package has.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a package in, after checking all of it: everything or nothing. Its versions are drafts; nothing goes live.

    Packages of the original system (version 1.0) are read too. What is live here stays live.

    Example: `route-switch package import support.tar.zst --restore-analytics`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines.packages.importing import ImportOptions, import_package
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    with _long_work() as watch:
        done = import_package(bench, path, ImportOptions(overwrite, restore_analytics), watch=watch)
    if as_json:
        _print_json(
            {
                "template_id": done.template_id,
                "known": done.known,
                "versions": {str(number): here for number, here in done.numbers.items()},
                "drafts": list(done.added),
                "live": [],
                "dataset": {
                    "imported": done.dataset.added,
                    "corrected": done.dataset.corrected,
                    "duplicates": done.dataset.duplicates,
                },
                "unlabelled_rows": done.unlabelled,
                "figures": done.figures,
                "records": str(done.records),
                "notes": list(done.notes),
            }
        )
        return
    _print_imported(done)


def _print_imported(done: "Imported") -> None:
    n, dataset = len(done.added), done.dataset
    left = f", {done.unlabelled} left out: no person or file vouches for the label" if done.unlabelled else ""
    words.print(
        f"Imported {done.template_id!r}: {n} {'version' if n == 1 else 'versions'}, {dataset.added} labelled rows "
        f"({dataset.corrected} corrected, {dataset.duplicates} already known{left}), {done.figures} rows of figures."
    )
    moved = {number: here for number, here in done.numbers.items() if number != here}
    if moved:
        words.print("Numbers here: " + ", ".join(f"{number} is {here}" for number, here in moved.items()) + ".")
    for note in done.notes:
        words.print(f"- {note}")
    words.print(f"The package itself is kept in {done.records}.")
    if done.added:
        name, newest = done.template_id, max(done.added)
        words.print(
            f"All of it is draft: nothing of it is served. `route-switch template show {name}` shows the texts.\n"
            f'To serve a version: `route-switch template publish {name} {newest} --reason "..."`, on record as done by '
            "hand.\n"
            f"To have it proven on your own rows: with some version live, `route-switch optimize {name}` tries the "
            "drafts beside its own candidates, and publishes what the gate lets through."
        )


@package_app.command("verify")
def verify(path: PackageArgument, as_json: JsonOption = False) -> None:
    """Check a package from end to end without importing it: sums, schema, names, sizes, counts. Exit 1 if it is bad.

    The sums tell of damage and of careless changes. They are no signature: whoever makes a package can make its sums.

    Example: `route-switch package verify support.tar.zst --json`
    """
    from rs_gateway.domain.errors import RouteSwitchError
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines.packages.content import opened_package

    try:
        with _long_work() as watch, opened_package(path, watch=watch) as content:
            _print_verified(path, content, as_json=as_json)
    except RouteSwitchError as error:
        if as_json:
            _print_json({"ok": False, "path": str(path), "code": error.code, "problem": str(error)})
            raise typer.Exit(1) from None
        raise


def _print_verified(path: Path, content: "PackageContent", *, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "ok": True,
                "path": str(path),
                "version": content.version,
                "template_id": content.template.template_id,
                "exported_at": content.exported_at,
                "sha256": content.digest,
                "counts": dict(content.counts),
                "notes": list(content.notes),
            }
        )
        return
    words.print(
        f"{path} is a whole package (version {content.version}) of {content.template.template_id!r}, exported "
        f"{content.exported_at}: {_counted(content.counts)}."
    )
    for note in content.notes:
        words.print(f"- {note}")


@contextmanager
def _long_work() -> "Generator[Watch]":
    """A bar at a terminal; Ctrl-C and SIGTERM end the work in good order."""
    from rs_gateway.progress_bar import progress_steps
    from rs_pipelines.interrupts import sigterm_interrupts

    try:
        with sigterm_interrupts(), progress_steps() as watch:
            yield watch
    except KeyboardInterrupt:
        words.print("Stopped. Nothing is left half done: the same command begins anew.")
        raise typer.Exit(130) from None


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items() if n)


def _print_json(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")

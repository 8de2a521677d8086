"""`route-switch forget`: everything that is kept of a user or a trace, and everything that was made from it."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_gateway.data_console import words

if TYPE_CHECKING:
    from rs_pipelines.forgetting import Found, QuotingVersion
    from rs_pipelines.workbench import Workbench

_SAID: Mapping[str, tuple[str, str]] = {
    "traces": ("trace in the trace store, with its payload", "traces in the trace store, with their payloads"),
    "feedback": ("feedback row", "feedback rows"),
    "lake_rows": ("row in the lake", "rows in the lake"),
    "sample_rows": ("row of calibration samples", "rows of calibration samples"),
    "studies": ("study or comparison that shows their words", "studies and comparisons that show their words"),
    "dataset_rows": ("imported row of the same input", "imported rows of the same input"),
    "cached_answers": ("cached model answer that may be about them", "cached model answers that may be about them"),
    "dagster_runs": ("run in Dagster's history that may show them", "runs in Dagster's history that may show them"),
}
"""What was found, of one and of several."""
_FORGOTTEN = (
    "Forgotten. Not reached: backups that were made before (forget again after a restore), logs, exported packages and "
    "reports; data/known_examples keeps hashes of inputs, 16 digits each."
)


def forget(
    user: Annotated[str | None, typer.Option("--user", help="The `user` of the requests, exactly as stored.")] = None,
    trace: Annotated[list[str] | None, typer.Option("--trace", help="A trace id; may be given several times.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is; remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The configuration file.  [default: $RS_CONFIG, else route-switch.yaml]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")] = False,
) -> None:
    """Remove for good what is kept of a user or of traces, and list the prompt versions that quote it.

    From the trace store and the lake, and from what was made of it: samples, studies, imported rows of the same input,
    cached answers. The gateway goes on meanwhile. It shows what there is and asks before it removes anything.

    Example: `route-switch forget --user user-7 --dry-run`
    """
    from rs_pipelines.cli import need_pipelines

    if (user is None) == (not trace):
        raise typer.BadParameter("Say either --user USER or --trace ID.")
    need_pipelines()
    from rs_gateway.progress_bar import progress_steps
    from rs_pipelines.forgetting import find
    from rs_pipelines.forgetting import forget as remove
    from rs_pipelines.stores_lock import waiting_for
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    with progress_steps() as show:
        found = find(bench, end_user=user, trace_ids=trace or (), watch=show)
        runs = _runs(bench, found)
    counts = {**found.counts, "dagster_runs": len(runs)}
    if found.empty:
        words.print("There is nothing of it in any store.")
    for line in found_lines(counts, found.versions):
        words.print(line)
    for line in (*unreadable_lines(found.unreadable), *package_lines(found.packages)):
        words.print(line)
    forgotten = False
    if not dry_run and not found.empty and _agreed(yes=yes):
        try:
            with progress_steps() as show:
                remove(
                    bench,
                    found,
                    forget_runs=lambda: _forget_runs(bench, runs),
                    on_wait=lambda holder: words.print(waiting_for(holder)),
                    watch=show,
                )
        except KeyboardInterrupt:
            words.print("Stopped before all of it was removed: the same command finds what is left.")
            raise typer.Exit(130) from None
        forgotten = True
        words.print(_FORGOTTEN)
    if as_json:
        result = {
            "found": counts,
            "versions": [asdict(version) for version in found.versions],
            "packages": [str(folder) for folder in found.packages],
            "unreadable": list(found.unreadable),
            "forgotten": forgotten,
        }
        sys.stdout.write(json.dumps(result) + "\n")
    if not dry_run and not found.empty and not forgotten:
        raise typer.Exit(1)


def _runs(bench: "Workbench", found: "Found") -> list[str]:
    if not found.study_ids:
        return []
    history = bench.data / "dagster"
    if history.exists() and not os.access(history, os.W_OK):
        words.print(f"Dagster's history is not searched: it can be opened only where {history} may be written.")
        return []
    from rs_pipelines.defs.forgotten_runs import runs_of  # brings Dagster along

    return runs_of(bench, found.study_ids)


def _forget_runs(bench: "Workbench", runs: Sequence[str]) -> None:
    if runs:
        from rs_pipelines.defs.forgotten_runs import forget_runs

        forget_runs(bench, runs)


def found_lines(counts: Mapping[str, int], versions: Iterable["QuotingVersion"]) -> Iterator[str]:
    """What there is, kind by kind, and the prompt versions that quote it."""
    for name, n in counts.items():
        if n:
            one, several = _SAID[name]
            yield f"{n:>8,} {one if n == 1 else several}"
    for version in versions:
        live = f", live for {', '.join(version.live_for)}," if version.live_for else ""
        demos = "1 demo" if version.demos == 1 else f"{version.demos} demos"
        yield (
            f"Version {version.version} of {version.template_id!r}{live} quotes it in {demos}: versions are not "
            "changed, so publish one without."
        )


def unreadable_lines(unreadable: Mapping[str, str]) -> Iterator[str]:
    """Files of the lake that could not be searched, and what to do."""
    for path, why in unreadable.items():
        yield (
            f"{path} cannot be searched ({why}). It counts no more: it goes with whatever is forgotten; where nothing "
            "is, delete it."
        )


def package_lines(packages: Iterable[Path]) -> Iterator[str]:
    """Imported packages that show it, and what to do."""
    for folder in packages:
        yield f"The imported package {folder} shows it: packages are not changed, so delete the folder if it must go."


def _agreed(*, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        words.print("Nothing was removed: pass --yes to remove it without being asked.")
        return False
    return typer.confirm("Remove all of it for good?", err=True)

"""`route-switch backup` and `restore`. They need no more than the gateway does, so they work without the pipelines."""

import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rs_gateway.cli_options import ConfigOption, JsonOption
from rs_gateway.data_console import words


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that does not exist yet; it is made.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the backup that is there, once the new one is complete.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up everything that is kept, as one consistent set, while the gateway and the pipelines go on.

    Prompts, studies, samples, datasets, caches, lake, traces, client keys and the configuration, each file with its
    checksum. The folder appears when it is complete; it is as private as the traces in it.

    Example: `route-switch backup /backups/route-switch/monday`
    """
    from rs_gateway.settings import load_settings
    from rs_pipelines.backup import back_up
    from rs_pipelines.store_parts import parts_of
    from rs_pipelines.stores_lock import waiting_for

    began = time.monotonic()
    settings = load_settings(config)
    parts, elsewhere = parts_of(settings)
    with _bars() as bars:
        catalog = back_up(
            parts,
            target,
            data=settings.path(settings.data_dir),
            configuration=settings.config_path,
            program=version("route-switch"),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            elsewhere=elsewhere,
            overwrite=overwrite,
            on_copied=bars.show,
            on_wait=lambda holder: words.print(waiting_for(holder)),
        )
    for other in elsewhere:
        words.print(f"Left out: {other.name}. {other.remedy}.")
    seconds = time.monotonic() - began
    if as_json:
        _print_json(
            {
                "directory": str(target),
                "parts": list(catalog.parts),
                "left_out": dict(catalog.left_out),
                "files": len(catalog.files),
                "bytes": catalog.size_bytes,
                "seconds": round(seconds, 3),
            }
        )
    else:
        words.print(
            f"Backed up to {target}: {', '.join(catalog.parts)}; {len(catalog.files)} files, "
            f"{_megabytes(catalog.size_bytes)}, {seconds:.1f} s."
        )


def restore(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What `backup` made.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there; what the backup does not have is removed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Verify the backup and say what would be replaced; change nothing.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring back a backup, verified file by file, to where the configuration has its stores.

    Refused while a gateway or a pipeline runs on them, and where something is there already. Without a configuration,
    the one in the backup is used.

    Example: `route-switch restore /backups/route-switch/monday`
    """
    from rs_gateway.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, load_settings
    from rs_pipelines.backup import CONFIGURATION_FILE
    from rs_pipelines.durable_files import write_durably
    from rs_pipelines.restore import check_backup, in_the_way
    from rs_pipelines.restore import restore as put_back
    from rs_pipelines.store_parts import parts_of
    from rs_pipelines.stores_lock import waiting_for

    began = time.monotonic()
    with _bars() as bars:
        catalog = check_backup(directory, on_bytes=lambda done, total: bars.show("verifying", done, total))
    place = config or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))
    kept_configuration = directory / CONFIGURATION_FILE
    brings_configuration = not place.exists()
    settings = load_settings(kept_configuration if brings_configuration else place)
    if brings_configuration:
        settings = settings.model_copy(update={"config_path": place})
    parts, _ = parts_of(settings)
    there = in_the_way(parts)
    if not dry_run:
        put_back(
            directory,
            catalog,
            parts,
            data=settings.path(settings.data_dir),
            overwrite=overwrite,
            on_wait=lambda holder: words.print(waiting_for(holder)),
        )
        if brings_configuration:
            write_durably(place, kept_configuration.read_bytes())
    result: dict[str, object] = {
        "directory": str(directory),
        "made_at": catalog.made_at,
        "parts": list(catalog.parts),
        "left_out": dict(catalog.left_out),
        "replaced": [part.name for part in there],
        "configuration": "restored" if brings_configuration else "kept",
        "files": len(catalog.files),
        "bytes": catalog.size_bytes,
        "restored": not dry_run,
        "seconds": round(time.monotonic() - began, 3),
    }
    if as_json:
        _print_json(result)
        return
    size = f"{len(catalog.files)} files, {_megabytes(catalog.size_bytes)}, made {catalog.made_at}"
    if dry_run:
        words.print(f"The backup is whole: {', '.join(catalog.parts)}; {size}.")
        words.print(f"It would replace: {', '.join(str(part.path) for part in there) or 'nothing'}.")
    else:
        words.print(f"Restored {', '.join(catalog.parts)}; {size}.")
        if any(part.name == "access.db" for part in there):
            words.print(
                "The client keys are those of then: what was revoked since is in force again, and where there was none "
                "yet, everybody who reaches the gateway may use it. `route-switch keys list --all` shows them."
            )
    if not brings_configuration:
        words.print(f"{place} stays as it is; the backup's own is {kept_configuration}.")
    for name, remedy in catalog.left_out.items():
        words.print(f"Not in the backup: {name}. {remedy.partition(':')[0]}.")


class _Bars:
    """One bar for what is under way; silent where nobody looks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, what: str, done: int, total: int) -> None:
        """Bytes done, and in all."""
        if what not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[what] = self._progress.add_task(what)
        self._progress.update(self._tasks[what], completed=done, total=total)


@contextmanager
def _bars() -> Generator[_Bars]:
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=words, transient=True, disable=not words.is_terminal) as progress:
        yield _Bars(progress)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def _print_json(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")

"""`route-switch ingest`: from the gateway's store into the lake."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rs_gateway.data_console import words


def ingest(
    compact: Annotated[
        bool, typer.Option("--compact", help="Then merge all small files of each day; readers are not disturbed.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The configuration file.  [default: $RS_CONFIG, else route-switch.yaml]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")] = False,
) -> None:
    """Bring new traces and feedback from the gateway's store into the lake, each row exactly once.

    The gateway may be running. Interrupted or killed, it goes on where it was when started again.

    Example: `route-switch ingest --compact --json`
    """
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines import steps
    from rs_pipelines.progress import RunProgress
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    try:
        with RunProgress(words) as progress:
            report = steps.ingest(bench, watch=progress)
            merged = bench.lake.compact(on_merge=progress.merged) if compact else None
    except KeyboardInterrupt:
        words.print("Stopped. What came is kept: the same command goes on where it was.")
        raise typer.Exit(130) from None
    if as_json:
        found = {
            "rows": report.rows,
            "feedback_rows": report.feedback_rows,
            "files": report.files,
            "seconds": round(report.seconds, 3),
        }
        if merged is not None:
            found |= {"files_merged": merged.merged, "files_after": merged.parts}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    words.print(
        f"{report.rows} new traces, {report.feedback_rows} new feedback rows in {report.files} files, "
        f"{report.seconds:.1f} s"
    )
    if merged is not None:
        words.print(f"{merged.merged} small files merged into {merged.into}; the lake has {merged.parts} files")

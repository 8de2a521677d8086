"""`route-switch ingest`: from the gateway's store into the lake."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_gateway.data_console import words
from rs_gateway.domain.wording import counted

if TYPE_CHECKING:
    from rs_pipelines.workbench import Workbench


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

    Then `daily_figures.parquet` and `live_scores.parquet` in the data directory are made anew, as the pipelines do. The
    gateway may be running. Interrupted or killed, it goes on where it was when started again.

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
            _make_tables(bench, anew=report.rows + report.feedback_rows > 0)
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
        f"{counted(report.rows, 'new trace')}, {counted(report.feedback_rows, 'new feedback row')} in "
        f"{counted(report.files, 'file')}, {report.seconds:.1f} s"
    )
    if merged is not None:
        words.print(
            f"{counted(merged.merged, 'small file')} merged into {merged.into}; the lake has "
            f"{counted(merged.parts, 'file')}"
        )


def _make_tables(bench: "Workbench", *, anew: bool) -> None:
    """What analysts read beside the lake: the tables of the assets `daily_figures` and `live_scores`."""
    from rs_pipelines.analysis.traffic import daily_figures
    from rs_pipelines.live_scores import score_live
    from rs_pipelines.parquet_files import replace_parquet

    if anew or not bench.daily_figures.exists():
        replace_parquet(daily_figures(bench.lake), bench.daily_figures)
    if anew or not bench.live_scores.exists():
        replace_parquet(score_live(bench).frame, bench.live_scores)

"""Records -> what the Dagster UI shows: numbers that it plots over time, tables, and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from rs_gateway.domain.prompts import PromptText
from rs_pipelines.comparison import Comparison
from rs_pipelines.ingest import IngestReport
from rs_pipelines.live_scores import ScoreTable, series_of
from rs_pipelines.mipro.records import StudyRecord, TrialRecord
from rs_pipelines.preflight import Preflight
from rs_pipelines.publishing import Published
from rs_pipelines.report import (
    call_changes,
    candidate_name,
    comparison_svg,
    history_svg,
    labels_markdown,
    preflight_markdown,
    rows_markdown,
    trials_markdown,
    verdict_line,
)
from rs_pipelines.sample import CalibrationSample, Split
from rs_pipelines.upkeep import Upkeep

STUDY_ID = "study_id"
"""Where the id of a study stands in the metadata of the assets that belong to it."""
_PLAIN = "/:=',+-.;[]"
"""What may stand as it is in the address of a picture, in Markdown."""
_MOST_TRIALS = 200
_MOST_TRACES = 100
_NO_TRACES = "none: all rows were imported"
Metadata = Mapping[str, dg.MetadataValue[Any]]

TRIAL_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("trial", "int", description="Counts from 0, the full evaluation of the live version."),
        dg.TableColumn("kind", description="minibatch: some validation rows; full: all of them."),
        dg.TableColumn(
            "candidate", description="Instruction x demo set, and the output format where several are tried."
        ),
        dg.TableColumn("score", "float", description="Mean over its rows, in [0, 1]; empty when too many are missing."),
        dg.TableColumn("rows", "int", description="Validation rows that this candidate has seen by now."),
        dg.TableColumn("calls", "int", description="Model calls that were paid for; answers in the cache are not."),
        dg.TableColumn("seconds", "float", description="How long it took."),
    ]
)
"""The table of a study."""


def of_ingest(report: IngestReport, *, new: int, rows: int) -> Metadata:
    """What one ingest brought to one table.

    Args:
        new: rows that came; rows: all that there are now.
    """
    return {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "new_rows": dg.MetadataValue.int(new),
        "files": dg.MetadataValue.int(report.files),
        "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
    }


def of_upkeep(done: Upkeep) -> Metadata:
    """What was packed, and what was let go."""
    compaction, expired = done.compaction, done.expired
    numbers = {
        "parts_merged": compaction.merged,
        "into": compaction.into,
        "rows_packed": compaction.rows,
        "parts": compaction.parts,
        "days_expired": expired.lake_days,
        "rows_expired": expired.lake_rows,
        "answers_expired": expired.answers,
    }
    return {name: dg.MetadataValue.int(number) for name, number in numbers.items()}


def of_live_scores(table: ScoreTable) -> Metadata:
    """One number a target and measure, which Dagster plots over time, and all of them in a table."""
    series = series_of(table.frame)
    columns = [
        dg.TableColumn("target"),
        dg.TableColumn("version", "int"),
        dg.TableColumn("measure"),
        dg.TableColumn("scores", "int"),
        dg.TableColumn("mean", "float"),
    ]
    records = [
        dg.TableRecord(
            {
                "target": s.target.key,
                "version": s.version,
                "measure": s.kind,
                "scores": len(s.values),
                "mean": round(s.mean, 4),
            }
        )
        for s in series
    ]
    unscored = "\n".join(f"- `{target}`: {why}" for target, why in table.unscored.items())
    return {
        "dagster/row_count": dg.MetadataValue.int(table.frame.height),
        "means": dg.MetadataValue.table(records, dg.TableSchema(columns)),
        **{f"{s.target.key} {s.kind}": dg.MetadataValue.float(round(s.mean, 4)) for s in series},
        **({"not_scored": dg.MetadataValue.md(unscored)} if unscored else {}),
    }


def of_sample(sample: CalibrationSample) -> Metadata:
    """How many rows there are, on which side, and who vouches for them."""
    by_provenance: dict[str, int] = {}
    for example in sample.examples:
        by_provenance[example.provenance] = by_provenance.get(example.provenance, 0) + 1
    return {
        "sample_id": dg.MetadataValue.text(sample.sample_id),
        "dagster/row_count": dg.MetadataValue.int(len(sample.examples)),
        **{split.value: dg.MetadataValue.int(len(sample.rows(split))) for split in Split},
        "provenance": dg.MetadataValue.json(by_provenance),
    }


def of_preflight(preflight: Preflight) -> Metadata:
    """What the rows can prove, and what the search costs where that is known."""
    return {"preflight": dg.MetadataValue.md(preflight_markdown(preflight))}


def of_new_best(trial: TrialRecord, best: float) -> Metadata:
    """A candidate that is better than all before it, while the search goes on."""
    return {
        "best_value": dg.MetadataValue.float(best),
        "trial": dg.MetadataValue.int(trial.number),
        "rows": dg.MetadataValue.int(trial.n_rows),
    }


def of_study(study: StudyRecord) -> Metadata:
    """The study's course and what it chose; for a person first the picture, then what it was, then the numbers."""
    chosen = study.best_text
    return {
        "history": _picture("study history", history_svg(study)),
        "leaders": dg.MetadataValue.md(trials_markdown(study)),
        "chosen": dg.MetadataValue.md(f"```\n{chosen.instruction if chosen else ''}\n```"),
        "chosen_output_format": dg.MetadataValue.text(chosen.output.value if chosen else ""),
        "live_value": dg.MetadataValue.float(round(study.live_value or 0.0, 4)),
        "best_value": dg.MetadataValue.float(round(study.best_value or 0.0, 4)),
        "trial_table": _trial_table(study),
        "dagster/row_count": dg.MetadataValue.int(len(study.trials)),
        "model_calls": dg.MetadataValue.int(study.calls),
        "input_tokens": dg.MetadataValue.int(study.input_tokens),
        "output_tokens": dg.MetadataValue.int(study.output_tokens),
        "usd": dg.MetadataValue.float(study.usd),
        "seconds": dg.MetadataValue.float(round(study.seconds, 1)),
        "evaluator": dg.MetadataValue.text(study.evaluator),
        "output_formats": dg.MetadataValue.text(", ".join(study.output_formats)),
        STUDY_ID: dg.MetadataValue.text(study.study_id),
    }


def of_comparison(comparison: Comparison) -> Metadata:
    """Before and after on the held-out rows, with the interval and the rows themselves."""
    verdict, won, lost = comparison.verdict, comparison.rows_with("won"), comparison.rows_with("lost")
    return {
        "summary": dg.MetadataValue.text(verdict_line(comparison)),
        "before_after": _picture("before and after", comparison_svg(comparison)),
        "publish": dg.MetadataValue.bool(verdict.publish),
        "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in verdict.reasons)),
        "rows_won": dg.MetadataValue.md(rows_markdown(won) if won else "none"),
        "rows_lost": dg.MetadataValue.md(rows_markdown(lost) if lost else "none"),
        **({"by_label": dg.MetadataValue.md(labels_markdown(comparison.by_label))} if comparison.by_label else {}),
        "calls": dg.MetadataValue.md(_calls_markdown(comparison)),
        "mean_live": dg.MetadataValue.float(round(verdict.mean_live, 4)),
        "mean_candidate": dg.MetadataValue.float(round(verdict.mean_candidate, 4)),
        "interval_low": dg.MetadataValue.float(round(verdict.interval_low, 4)),
        "interval_high": dg.MetadataValue.float(round(verdict.interval_high, 4)),
        "dagster/row_count": dg.MetadataValue.int(len(comparison.rows)),
        "test_rows": dg.MetadataValue.int(verdict.n),
        "comparison_id": dg.MetadataValue.text(comparison.comparison_id),
        STUDY_ID: dg.MetadataValue.text(comparison.study_id),
    }


def of_publication(
    published: Published,
    compared: Comparison,
    *,
    live: PromptText,
    sample: CalibrationSample,
    folder: Path,
    run_id: str | None,
) -> Metadata:
    """The way back: to the study, its run and its files, and to the traces that its rows and demos came from."""
    demos = {demo.example_id for demo in live.demos}
    traced = [e for e in sample.examples if e.trace_id is not None]
    # Demos first: they are in the prompt itself.
    traced.sort(key=lambda e: (e.example_id not in demos, e.split.value, e.example_id))
    partition = quote(compared.target.key)
    records = [
        dg.TableRecord(
            {
                "used_as": "demo" if e.example_id in demos else e.split.value,
                "trace_id": e.trace_id,
                "example_id": e.example_id,
                "provenance": e.provenance,
            }
        )
        for e in traced[:_MOST_TRACES]
    ]
    columns = dg.TableSchema([dg.TableColumn(name) for name in ("used_as", "trace_id", "example_id", "provenance")])
    return {
        "template_id": dg.MetadataValue.text(compared.target.template_id),
        "model": dg.MetadataValue.text(compared.target.model),
        "version": dg.MetadataValue.int(published.version),
        "summary": dg.MetadataValue.text(verdict_line(compared)),
        "study": dg.MetadataValue.url(f"/assets/study?view=partitions&partition={partition}"),
        "comparison": dg.MetadataValue.url(f"/assets/comparison?view=partitions&partition={partition}"),
        **({} if run_id is None else {"study_run": dg.MetadataValue.dagster_run(run_id)}),
        "study_files": dg.MetadataValue.path(folder),
        "traces": dg.MetadataValue.asset(dg.AssetKey("traces")),
        "rows_with_traces": dg.MetadataValue.int(len(traced)),
        "trace_ids": dg.MetadataValue.table(records, columns) if records else dg.MetadataValue.text(_NO_TRACES),
        STUDY_ID: dg.MetadataValue.text(compared.study_id),
        "comparison_id": dg.MetadataValue.text(compared.comparison_id),
    }


def _calls_markdown(comparison: Comparison) -> str:
    rows = [f"| {what} | {live} | {new} |" for what, live, new in call_changes(comparison)]
    return "\n".join(["| an average call | live | candidate |", "|---|---|---|", *rows])


def _picture(name: str, svg: str) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.md(f"![{name}](data:image/svg+xml,{quote(svg, safe=_PLAIN)})" if svg else "")


def _trial_table(study: StudyRecord) -> dg.MetadataValue[Any]:
    records = [
        dg.TableRecord(
            {
                "trial": trial.number,
                "kind": trial.kind,
                "candidate": candidate_name(study, trial.candidate),
                "score": None if trial.value is None else round(trial.value, 4),
                "rows": trial.n_rows,
                "calls": trial.calls,
                "seconds": round(trial.seconds, 2),
            }
        )
        for trial in study.trials[-_MOST_TRIALS:]
    ]
    return dg.MetadataValue.table(records, TRIAL_COLUMNS)

"""Records -> what the Dagster UI shows: numbers that it plots over time, tables, and pictures."""

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg

from rs_pipelines.comparison import Comparison
from rs_pipelines.ingest import IngestReport
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.preflight import Preflight
from rs_pipelines.report import (
    call_changes,
    history_svg,
    labels_markdown,
    preflight_markdown,
    rows_markdown,
    trials_markdown,
    verdict_line,
)
from rs_pipelines.sample import CalibrationSample, Split

STUDY_ID = "study_id"
"""Where the id of a study stands in the metadata of the assets that belong to it."""
Metadata = Mapping[str, dg.MetadataValue[Any]]


def of_ingest(report: IngestReport) -> Metadata:
    """What one ingest brought."""
    return {
        "dagster/row_count": dg.MetadataValue.int(report.rows),
        "feedback_rows": dg.MetadataValue.int(report.feedback_rows),
        "files": dg.MetadataValue.int(report.files),
        "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
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


def of_study(study: StudyRecord) -> Metadata:
    """The study's course and what it chose."""
    picture = base64.b64encode(history_svg(study).encode()).decode()
    return {
        STUDY_ID: dg.MetadataValue.text(study.study_id),
        "live_value": dg.MetadataValue.float(study.live_value or 0.0),
        "best_value": dg.MetadataValue.float(study.best_value or 0.0),
        "trials": dg.MetadataValue.int(len(study.trials)),
        "model_calls": dg.MetadataValue.int(study.calls),
        "input_tokens": dg.MetadataValue.int(study.input_tokens),
        "output_tokens": dg.MetadataValue.int(study.output_tokens),
        "seconds": dg.MetadataValue.float(round(study.seconds, 1)),
        "history": dg.MetadataValue.md(f"![study history](data:image/svg+xml;base64,{picture})"),
        "leaders": dg.MetadataValue.md(trials_markdown(study)),
        "output_formats": dg.MetadataValue.text(", ".join(study.output_formats)),
        "chosen_output_format": dg.MetadataValue.text(study.best_text.output.value if study.best_text else ""),
        "chosen": dg.MetadataValue.md(f"```\n{study.best_text.instruction if study.best_text else ''}\n```"),
    }


def of_comparison(comparison: Comparison) -> Metadata:
    """Before and after on the held-out rows, with the interval and the rows themselves."""
    verdict = comparison.verdict
    return {
        "summary": dg.MetadataValue.text(verdict_line(comparison)),
        "publish": dg.MetadataValue.bool(verdict.publish),
        "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in verdict.reasons)),
        "mean_live": dg.MetadataValue.float(verdict.mean_live),
        "mean_candidate": dg.MetadataValue.float(verdict.mean_candidate),
        "interval_low": dg.MetadataValue.float(verdict.interval_low),
        "interval_high": dg.MetadataValue.float(verdict.interval_high),
        "test_rows": dg.MetadataValue.int(verdict.n),
        "calls": dg.MetadataValue.json({what: [live, new] for what, live, new in call_changes(comparison)}),
        "by_label": dg.MetadataValue.md(labels_markdown(comparison.by_label)),
        "rows_won": dg.MetadataValue.md(rows_markdown(comparison.rows_with("won"))),
        "rows_lost": dg.MetadataValue.md(rows_markdown(comparison.rows_with("lost"))),
        "comparison_id": dg.MetadataValue.text(comparison.comparison_id),
        STUDY_ID: dg.MetadataValue.text(comparison.study_id),
    }

"""How good the answers were that the live versions gave, as far as anybody said: one series a target and measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeAlias

import msgspec
import polars as pl

from rs_gateway.domain.errors import RouteSwitchError, StoreError
from rs_gateway.domain.evaluation import Answer, Evaluator, JudgingEvaluator
from rs_gateway.domain.feedback import FeedbackKind
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import PromptTemplate
from rs_pipelines.examples import served_answer
from rs_pipelines.lake import Lake
from rs_pipelines.sample import Target
from rs_pipelines.workbench import Workbench

Measure: TypeAlias = Literal["score", "outcome", "label"]

LIVE_SCORE_SCHEMA = pl.Schema(
    {
        "target": pl.String(),
        "template_id": pl.String(),
        "model": pl.String(),
        "version": pl.Int64(),
        "measure": pl.String(),
        "said_seq": pl.Int64(),
        "trace_id": pl.String(),
        "value": pl.Float64(),
    }
)
"""`measure`: `score` and `outcome` as sent in feedback, `label`: the served answer beside the one that was right."""

_ONE_SCORE = {name: LIVE_SCORE_SCHEMA[name] for name in ("version", "said_seq", "trace_id", "value", "measure")}


@dataclass(frozen=True, slots=True)
class LiveScores:
    """What was said about the answers of one live version, by one measure.

    Attributes:
        values: in [0, 1], in the order in which they were said; of a trace, the latest.
    """

    target: Target
    version: int
    kind: Measure
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all of them."""
        return fmean(self.values)


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of every target's live version, with LIVE_SCORE_SCHEMA.

    Attributes:
        unscored: target keys whose scores are not all there, and why.
    """

    frame: pl.DataFrame
    unscored: Mapping[str, str]


def score_live(bench: Workbench) -> ScoreTable:
    """Score what the live versions served. Asks no model: what only a judge can tell about labels stays untold."""
    frames = [pl.DataFrame(schema=LIVE_SCORE_SCHEMA)]
    unscored: dict[str, str] = {}
    for target in bench.targets():
        parts: list[pl.DataFrame] = []
        try:
            registered, live = bench.registry.get(target.template_id), bench.live(target)
            said = bench.lake.settled(partial(_said, bench.lake, target, live.number))
            parts += [_plain(said, FeedbackKind.SCORE), _plain(said, FeedbackKind.OUTCOME)]
            evaluator = bench.evaluator(registered.template)
            if isinstance(evaluator, JudgingEvaluator):
                unscored[target.key] = f"{evaluator.name} asks a model about every labelled answer"
            else:
                parts.append(_labelled(said, evaluator, live.text.output))
        except RouteSwitchError as error:
            unscored[target.key] = str(error)
        for part in parts:
            names = {"target": target.key, "template_id": target.template_id, "model": target.model}
            named = part.with_columns(pl.lit(value).alias(name) for name, value in names.items())
            frames.append(named.select(list(LIVE_SCORE_SCHEMA)))
    return ScoreTable(pl.concat(frames), unscored)


def score_versions(bench: Workbench, template_id: str) -> pl.DataFrame:
    """How good the answers of each version that served were, as far as anybody said; asks no model.

    Returns:
        Columns `version`, `model`, `measure` (as in LIVE_SCORE_SCHEMA), `scores` (how many) and `mean`. Labels are left
        out where the evaluator is a judge, or cannot be made from this configuration.

    Raises:
        TemplateNotFoundError: there is no such template.
    """
    registered = bench.registry.get(template_id)
    evaluator = _own_evaluator(bench, registered.template)
    served = bench.lake.settled(lambda: _served(bench.lake, template_id))
    frames = [pl.DataFrame(schema={"model": pl.String(), **_ONE_SCORE})]
    for model, number in served:
        version = registered.versions.get(number)
        said = bench.lake.settled(partial(_said, bench.lake, Target(template_id, model), number))
        parts = [_plain(said, FeedbackKind.SCORE), _plain(said, FeedbackKind.OUTCOME)]
        if version is not None and evaluator is not None:
            parts.append(_labelled(said, evaluator, version.text.output))
        frames += [part.select(pl.lit(model).alias("model"), *_ONE_SCORE) for part in parts]
    return (
        pl.concat(frames)
        .group_by("version", "model", "measure")
        .agg(pl.len().alias("scores"), pl.col("value").mean().alias("mean"))
        .sort("model", "measure", "version")
    )


def load_live_scores(path: Path) -> tuple[LiveScores, ...]:
    """The table as series, in the order of the targets; empty where none was ever saved.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return series_of(pl.read_parquet(path, glob=False, hive_partitioning=False))
    except FileNotFoundError:  # an erasure removes it, too
        return ()
    except pl.exceptions.PolarsError as error:
        raise StoreError(
            f"{path} cannot be read ({' '.join(str(error).split())}): remove it, and the next ingest makes it again."
        ) from error


def series_of(frame: pl.DataFrame) -> tuple[LiveScores, ...]:
    """One series for each target, version and measure."""
    groups = frame.sort("said_seq").partition_by(
        ["target", "template_id", "model", "version", "measure"], as_dict=True, maintain_order=True
    )
    return tuple(
        LiveScores(Target(template_id, model), version, measure, tuple(part["value"]))
        for (_, template_id, model, version, measure), part in sorted(groups.items(), key=lambda item: item[0])
    )


def _own_evaluator(bench: Workbench, template: PromptTemplate) -> Evaluator | None:
    """None where it would ask a model, or where there is none; the analyst's copy of the data may lack its options."""
    try:
        evaluator = bench.evaluator(template)
    except RouteSwitchError:
        return None
    return None if isinstance(evaluator, JudgingEvaluator) else evaluator


def _served(lake: Lake, template_id: str) -> list[tuple[str, int]]:
    """Model and version of all answers."""
    pairs = lake.traces(["template_id", "model", "version"]).filter(pl.col("template_id") == template_id)
    return sorted(pairs.select("model", "version").drop_nulls().unique().collect().iter_rows())


def _said(lake: Lake, target: Target, version: int) -> pl.DataFrame:
    """Feedback on complete answers of that version, the latest of a kind on each trace, in the order it came."""
    traces = (
        lake.traces(["trace_id", "template_id", "model", "version", "outcome", "finish_reason", "response"])
        .filter(
            pl.col("template_id") == target.template_id,
            pl.col("model") == target.model,
            pl.col("version") == version,
            pl.col("outcome") == "complete",
        )
        .drop("template_id", "model")
    )
    return (
        lake.feedback(["seq", "trace_id", "kind", "value"])
        .filter(pl.col("kind") != FeedbackKind.COMMENT.value)
        .sort("seq")
        .unique(["trace_id", "kind"], keep="last", maintain_order=True)
        .rename({"seq": "said_seq"})
        .join(traces, on="trace_id", how="inner")
        .sort("said_seq")
        .collect()
    )


def _plain(said: pl.DataFrame, kind: FeedbackKind) -> pl.DataFrame:
    values = pl.when(pl.col("value") == "true").then(pl.lit("1")).when(pl.col("value") == "false").then(pl.lit("0"))
    return (
        said.filter(pl.col("kind") == kind.value)
        .with_columns(values.otherwise(pl.col("value")).cast(pl.Float64(), strict=False).alias("value"))
        .drop_nulls("value")
        .select("version", "said_seq", "trace_id", "value", pl.lit(kind.value).alias("measure"))
    )


def _labelled(said: pl.DataFrame, evaluator: Evaluator, output: OutputFormat) -> pl.DataFrame:
    rows: list[tuple[int, int, str]] = []
    answers: list[Answer] = []
    for row in said.filter(pl.col("kind") == FeedbackKind.LABEL.value).iter_rows(named=True):
        answer, expected = served_answer(row, {row["version"]: output}), _text(row["value"])
        if answer is not None and expected is not None:
            rows.append((row["version"], row["said_seq"], row["trace_id"]))
            answers.append(Answer(answer, expected))
    scores: Sequence[float] = [score.value for score in evaluator.score(answers)] if answers else []
    schema = {name: LIVE_SCORE_SCHEMA[name] for name in ("version", "said_seq", "trace_id")}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.Series("value", scores, dtype=pl.Float64()), pl.lit(FeedbackKind.LABEL.value).alias("measure")
    )


def _text(value: object) -> str | None:
    try:
        return msgspec.json.decode(value, type=str) if isinstance(value, str) else None
    except msgspec.MsgspecError:
        return None

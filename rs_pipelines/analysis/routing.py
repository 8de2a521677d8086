"""What the strategies chose, how likely that was, who answered in the end, and why somebody else had to."""

import msgspec
import polars as pl

from rs_pipelines.analysis.traffic import figures


class _Odds(msgspec.Struct):
    probabilities: dict[str, float] = {}


def routed_traces(traces: pl.LazyFrame) -> pl.LazyFrame:
    """The `scored_traces` for which a strategy decided, and its decision.

    New columns: `strategy`; `chosen`, the combination that it picked; `fell_back`, whether another one had the last
    word; `first_error`, the error code of the first attempt, None where that went well.
    """
    return (
        traces.filter(pl.col("decision").is_not_null(), pl.col("combination_id").is_not_null())
        .with_columns(
            strategy=pl.col("decision").str.json_path_match("$.strategy"),
            chosen=pl.col("decision").str.json_path_match("$.chosen"),
            first_error=pl.col("attempts").str.json_path_match("$[0].error_code"),
        )
        .with_columns(fell_back=pl.col("chosen") != pl.col("combination_id"))
    )


def count(routed: pl.LazyFrame) -> int:
    """How many requests were routed."""
    return int(routed.select(pl.len()).collect().item())


def pool_shares(routed: pl.LazyFrame) -> pl.DataFrame:
    """Of each template's requests, what share a combination was meant to get, was chosen for, and answered.

    Columns: `template_id`, `combination_id`, `meant` (mean probability over the template's requests), `chosen`,
    `answered`; the shares of a template sum to 1 each.
    """
    counts = (
        routed.group_by("template_id", "decision", "chosen", "combination_id").agg(pl.len().alias("requests")).collect()
    )
    odds = _odds_of(counts["decision"].unique())
    total = counts.group_by("template_id").agg(pl.col("requests").sum().alias("total"))
    meant = (
        counts.join(odds, on="decision")
        .group_by("template_id", pl.col("option").alias("combination_id"))
        .agg((pl.col("probability") * pl.col("requests")).sum().alias("meant"))
    )
    chosen = counts.group_by("template_id", pl.col("chosen").alias("combination_id")).agg(
        pl.col("requests").sum().alias("chosen")
    )
    answered = counts.group_by("template_id", "combination_id").agg(pl.col("requests").sum().alias("answered"))
    keys = ["template_id", "combination_id"]
    return (
        meant.join(chosen, on=keys, how="full", coalesce=True)
        .join(answered, on=keys, how="full", coalesce=True)
        .join(total, on="template_id", nulls_equal=True)
        .select(*keys, *(pl.col(name).fill_null(0) / pl.col("total") for name in ("meant", "chosen", "answered")))
        .sort(keys, nulls_last=True)
    )


def fallbacks(routed: pl.LazyFrame) -> pl.DataFrame:
    """Requests whose chosen combination did not have the last word.

    Columns: `template_id`, `chosen`, `answered` (the last one tried), `first_error`, `requests`, `complete`.
    """
    return (
        routed.filter(pl.col("fell_back"))
        .group_by("template_id", "chosen", pl.col("combination_id").alias("answered"), "first_error")
        .agg(pl.len().alias("requests"), (pl.col("outcome") == "complete").sum().alias("complete"))
        .sort("requests", "template_id", "chosen", "answered", descending=[True, False, False, False])
        .collect()
    )


def bills(routed: pl.LazyFrame) -> pl.DataFrame:
    """What each combination gave for its money, with `complete_share` and `usd_per_1000`, dear ones first.

    The money is that of a call whose price is known; the columns are otherwise those of `figures`.
    """
    priced = routed.group_by("template_id", "combination_id").agg(
        (1_000 * pl.col("cost_usd").mean()).alias("usd_per_1000")
    )
    keys = ["template_id", "combination_id"]
    return (
        figures(routed, by=(*keys, "model"))
        .join(priced.collect(), on=keys, nulls_equal=True)
        .with_columns(complete_share=pl.col("complete") / pl.col("requests"))
        .sort("usd_per_1000", descending=True, nulls_last=True)
    )


def _odds_of(decisions: pl.Series) -> pl.DataFrame:
    """Each decision's text with one row for every combination that was eligible."""
    decoder = msgspec.json.Decoder(_Odds)
    rows = [
        (text, option, probability)
        for text in decisions
        for option, probability in decoder.decode(text).probabilities.items()
    ]
    schema = {"decision": pl.String(), "option": pl.String(), "probability": pl.Float64()}
    return pl.DataFrame(rows, schema=schema, orient="row")

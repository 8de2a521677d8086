"""Charts of a version's past and present: the rows that it stands on, and what it served since it went live."""

import altair as alt
import polars as pl

from rs_pipelines.analysis.chart_style import BAD, WIDTH, Drawing, nothing_to_show, period_name, time_axis, titled


def evidence_chart(examples: pl.DataFrame) -> alt.Chart:
    """What the examples were used for and who vouches for them; takes `examples_behind(...)`."""
    if examples.is_empty():
        return nothing_to_show("No example stands behind this version", "A person wrote it, or its sample is lost.")
    traced = examples["trace_id"].count()
    title = titled(
        f"{examples.height} examples stand behind it, {traced} of them from traces",
        "Demos are in the prompt; train and val rows were searched on; test rows were seen by the proof alone.",
    )
    counts = examples.group_by("use", "provenance").agg(pl.len().alias("examples"))
    return (
        alt.Chart(counts, title=title)
        .mark_bar()
        .encode(
            x=alt.X("examples:Q", title="examples", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("use:N", title="used as", sort=["demo", "train", "val", "test"]),
            color=alt.Color("provenance:N", title="right answer by"),
        )
        .properties(width=WIDTH, height=alt.Step(30))
    )


def service_chart(by_version: pl.DataFrame, made_live: pl.DataFrame) -> Drawing:
    """Requests by version over time, and when each went live.

    Takes `over_time(...)` of one template by `version` and `model`, and `times_made_live(...)`.
    """
    if by_version.is_empty():
        return nothing_to_show("No request of this template is in the lake", "`route-switch ingest` brings new ones.")
    period = period_name(by_version)
    per_version = by_version.group_by("version").agg(pl.col("requests").sum()).drop_nulls().sort("version")
    served = ", ".join(f"v{version} {n:,}" for version, n in per_version.iter_rows())
    title = titled(f"Requests served: {served}", "A dashed line: a version was made live, or rolled back to.")
    named = by_version.filter(pl.col("version").is_not_null()).with_columns(
        name=pl.format("v{} on {}", "version", "model")
    )
    bars = (
        alt.Chart(named)
        .mark_bar()
        .encode(
            x=time_axis(by_version),
            y=alt.Y("requests:Q", title=f"requests per {period}"),
            color=alt.Color("name:N", title="version"),
        )
    )
    inside = made_live.filter(pl.col("at").is_between(by_version["at"].min(), by_version["until"].max()))
    if inside.is_empty():
        return alt.layer(bars).properties(title=title)
    marks = alt.Chart(inside.with_columns(name=pl.format("v{}", "version"))).encode(x="at:T")
    rules = marks.mark_rule(color=BAD, strokeDash=[5, 4])
    names = marks.mark_text(align="left", dx=3, color=BAD).encode(y=alt.value(-4), text="name:N")
    return alt.layer(bars, rules, names).properties(title=title)

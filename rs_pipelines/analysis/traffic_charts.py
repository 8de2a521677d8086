"""Charts of the traffic: how much, how it ended, how long it took, what it cost, how good it was."""

import altair as alt
import polars as pl

from rs_gateway.domain.traces import Outcome
from rs_pipelines.analysis.chart_style import (
    WIDTH,
    Drawing,
    nothing_to_show,
    outcome_colour,
    period_name,
    time_axis,
    titled,
)

_NO_TEMPLATE = "(no template)"
_NAMED = 3
"""Prompts whose figures a title names, those with the most scores."""


def requests_chart(by_template: pl.DataFrame) -> alt.Chart:
    """Requests by time and template; takes `over_time(..., by=["template_id"])`."""
    total, period = int(by_template["requests"].sum()), period_name(by_template)
    first, last = by_template["at"].min(), by_template["until"].max()
    busiest = by_template.group_by("at").agg(pl.col("requests").sum())["requests"].max()
    title = titled(
        f"{total:,} requests, at most {busiest:,} per {period}",
        f"From {first:%-d %b %Y %H:%M} to {last:%-d %b %Y %H:%M} UTC; a bar is one {period}.",
    )
    return (
        alt.Chart(by_template.with_columns(pl.col("template_id").fill_null(_NO_TEMPLATE)), title=title)
        .mark_bar()
        .encode(
            x=time_axis(by_template),
            y=alt.Y("requests:Q", title=f"requests per {period}", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("template_id:N", title="template"),
        )
    )


def trouble_chart(by_time: pl.DataFrame) -> alt.Chart:
    """The share of requests that did not end complete, by outcome; takes `over_time(...)`."""
    others = [outcome.value for outcome in Outcome if outcome is not Outcome.COMPLETE]
    total = int(by_time["requests"].sum())
    counts = {name: int(by_time[name].sum()) for name in others}
    if not any(counts.values()):
        return nothing_to_show(f"All {total:,} requests ended complete", "Nothing was cut, cancelled or refused.")
    worst = max(counts, key=lambda name: counts[name])
    seen = [name for name in others if counts[name]]
    # Times at which nothing went wrong stay in: the axis spans all of them.
    shares = by_time.unpivot(seen, index=["at", "until", "requests"], variable_name="outcome", value_name="n")
    title = titled(
        f"{sum(counts.values()) / total:.1%} of requests did not end complete; most of them: {worst}",
        f"{counts[worst]:,} of {total:,} requests ended as {worst}.",
    )
    return (
        alt.Chart(shares.with_columns(share=pl.col("n") / pl.col("requests")), title=title)
        .mark_bar()
        .encode(
            x=time_axis(by_time),
            y=alt.Y("share:Q", title=f"share of the {period_name(by_time)}'s requests", axis=alt.Axis(format=".1%")),
            color=outcome_colour(seen),
        )
    )


def latency_chart(by_model: pl.DataFrame) -> Drawing:
    """Percentiles of latency by model; takes `figures(..., by=["model"])`."""
    known = by_model.filter(pl.col("model").is_not_null())
    busiest = known.sort("requests", descending=True).row(0, named=True)
    words = {50: "50%", 95: "95%", 99: "99%"}
    parts = [
        known.select(
            name=pl.col("model") + suffix, percentile=pl.lit(words[q]), seconds=pl.col(f"{kind}_p{q}_s")
        ).drop_nulls()
        for kind, suffix, percentiles in (("latency", "", (50, 95, 99)), ("first_token", ", first token", (50, 95)))
        for q in percentiles
    ]
    points = pl.concat(parts)
    title = titled(
        f"Half of {busiest['model']}'s requests took under {busiest['latency_p50_s']:.2g} s, "
        f"95% under {busiest['latency_p95_s']:.2g} s",
        "Until the last byte, failed requests included; first token: of streams. Logarithmic scale.",
    )
    x = alt.X("seconds:Q", title="seconds", scale=alt.Scale(type="log", nice=False, padding=12))
    base = alt.Chart(points).encode(y=alt.Y("name:N", title=None))
    line = base.mark_rule(color="#bbb", strokeWidth=2).encode(x=alt.X("min(seconds):Q"), x2="max(seconds):Q")
    order = alt.Scale(domain=list(words.values()))
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x,
        color=alt.Color("percentile:N", title="requests under", scale=order),
        shape=alt.Shape("percentile:N", title="requests under", scale=order),
    )
    return alt.layer(line, dots).properties(title=title, width=WIDTH, height=alt.Step(34))


def spend_chart(by_model: pl.DataFrame) -> alt.Chart:
    """What was spent by time and model; takes `over_time(..., by=["model"])`."""
    total, unpriced = by_model["cost_usd"].sum(), int(by_model["unpriced"].sum())
    unknown = f"{unpriced:,} requests at a price that nobody knows are not in it." if unpriced else ""
    if by_model["cost_usd"].count() == 0:
        return nothing_to_show(
            "Nobody knows what these requests cost",
            "Give the price of a model in its provider's `prices`; a model at 0 costs nothing, an unknown one unknown.",
        )
    per_model = by_model.group_by("model").agg(pl.col("cost_usd").sum()).sort("cost_usd", descending=True)
    dearest = per_model.row(0, named=True)
    share = f", {dearest['cost_usd'] / total:.0%} of it for {dearest['model']}" if total else ""
    period = period_name(by_model)
    return (
        alt.Chart(
            by_model.filter(pl.col("cost_usd").is_not_null()),
            title=titled(f"{total:,.{2 if total >= 1 else 4}f} USD{share}", unknown),
        )
        .mark_bar()
        .encode(
            x=time_axis(by_model),
            y=alt.Y("cost_usd:Q", title=f"USD per {period}"),
            color=alt.Color("model:N", title="model"),
        )
    )


def quality_chart(by_version: pl.DataFrame) -> Drawing:
    """Mean score by time and prompt; takes `over_time(..., by=["template_id", "version", "model"])`."""
    scored = by_version.filter(pl.col("scored") > 0, pl.col("template_id").is_not_null()).with_columns(
        prompt=pl.format("{} v{} on {}", "template_id", "version", "model")
    )
    if scored.is_empty():
        return nothing_to_show(
            "No request has a score yet",
            "POST /v1/feedback with kind `score` gives one. What labels say of the answers: notebook 04_publication.",
        )
    share = int(scored["scored"].sum()) / int(by_version["requests"].sum())
    means = (
        scored.group_by("prompt")
        .agg((pl.col("mean_score") * pl.col("scored")).sum() / pl.col("scored").sum(), n=pl.col("scored").sum())
        .sort("n", "prompt", descending=[True, False])
    )
    words = ", ".join(f"{prompt} {mean:.2f}" for prompt, mean, _ in means.head(_NAMED).iter_rows())
    base = alt.Chart(scored).encode(x=time_axis(by_version), color=alt.Color("prompt:N", title="prompt"))
    y = alt.Y("mean_score:Q", title="mean score (0 to 1)", scale=alt.Scale(domain=[0, 1]))
    title = titled(
        f"Mean score: {words}{' ...' if means.height > _NAMED else ''}",
        f"{share:.0%} of the requests were scored; a dot's area is the number of scores behind it.",
    )
    dots = base.mark_point(filled=True, opacity=1).encode(
        y=y, size=alt.Size("scored:Q", title="scores", scale=alt.Scale(range=[15, 120]))
    )
    return alt.layer(base.mark_line(strokeWidth=1.5).encode(y=y), dots).properties(title=title)

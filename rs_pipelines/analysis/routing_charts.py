"""Charts of the routing: what was meant, chosen and fallen back to, and what each combination gave for its money."""

import altair as alt
import polars as pl

from rs_pipelines.analysis.chart_style import (
    CHOSEN,
    GOOD,
    LIVE,
    WIDTH,
    Drawing,
    nothing_to_show,
    period_name,
    time_axis,
    titled,
)

_NAMED = 2
"""Templates whose figures a title names, those asked most."""


def shares_chart(shares: pl.DataFrame) -> Drawing:
    """Meant, chosen and answered shares of each combination; takes `pool_shares(...)`."""
    if shares.is_empty():
        return _no_decisions()
    drift = (shares["chosen"] - shares["meant"]).abs().max()
    moved = (shares["answered"] - shares["chosen"]).abs().max()
    title = titled(
        f"Choices within {_points(drift)} of what was meant; fallbacks moved up to {_points(moved)}",
        "Meant: mean probability at the moment of the decision. Answered: had the last word, after fallbacks.",
    )
    kinds = ["meant", "chosen", "answered"]
    long = shares.unpivot(kinds, index=["template_id", "combination_id"], variable_name="kind", value_name="share")
    return (
        alt.Chart(long)
        .mark_point(size=100, strokeWidth=2, opacity=0.9)
        .encode(
            x=alt.X("share:Q", title="share of the template's requests", axis=alt.Axis(format=".0%")),
            y=alt.Y("combination_id:N", title=None),
            color=alt.Color(
                "kind:N", sort=kinds, scale=alt.Scale(domain=kinds, range=[LIVE, CHOSEN, GOOD]), title=None
            ),
            shape=alt.Shape("kind:N", sort=kinds, scale=alt.Scale(domain=kinds, range=["square", "circle", "cross"])),
        )
        .properties(width=WIDTH, height=alt.Step(30))
        .facet(row=alt.Row("template_id:N", title=None, header=alt.Header(labelOrient="top")))
        .resolve_scale(y="independent")
        .properties(title=title)
    )


def choices_chart(by_choice: pl.DataFrame) -> Drawing:
    """What was chosen, by time; takes `over_time(routed, by=["template_id", "chosen"])`."""
    if by_choice.is_empty():
        return _no_decisions()
    totals = (
        by_choice.group_by("template_id", "chosen")
        .agg(pl.col("requests").sum())
        .with_columns(total=pl.col("requests").sum().over("template_id"))
        .sort("total", "template_id", "requests", descending=[True, False, True])
        .group_by("template_id", maintain_order=True)
        .first()
    )
    most = [f"{t['chosen']} got {t['requests'] / t['total']:.0%} of {t['template_id']}" for t in totals.to_dicts()]
    title = titled("; ".join(most[:_NAMED]) + (" ..." if len(most) > _NAMED else ""))
    return (
        alt.Chart(by_choice)
        .mark_bar()
        .encode(
            x=time_axis(by_choice),
            y=alt.Y(
                "requests:Q",
                stack="normalize",
                title=f"share of the {period_name(by_choice)}",
                axis=alt.Axis(format=".0%"),
            ),
            color=alt.Color("chosen:N", title="combination chosen"),
        )
        .properties(width=WIDTH, height=130)
        .facet(row=alt.Row("template_id:N", title=None, header=alt.Header(labelOrient="top")))
        .properties(title=title)
    )


def fallbacks_chart(fallbacks: pl.DataFrame, *, n_requests: int) -> alt.Chart:
    """From which combination to which, and after which error; takes `fallbacks(...)` and all routed requests."""
    if fallbacks.is_empty():
        return nothing_to_show(
            f"None of {n_requests:,} requests needed a fallback", "The chosen combination always had the last word."
        )
    n, complete = int(fallbacks["requests"].sum()), int(fallbacks["complete"].sum())
    title = titled(
        f"{n:,} requests ({n / n_requests:.1%}) went to another combination than was chosen",
        f"{complete / n:.0%} of them still ended complete. Colour: what the first attempt failed of.",
    )
    return (
        alt.Chart(fallbacks.with_columns(way=pl.format("{} → {}", "chosen", "answered")), title=title)
        .mark_bar()
        .encode(
            x=alt.X("requests:Q", title="requests"),
            y=alt.Y("way:N", title=None, sort="-x"),
            color=alt.Color("first_error:N", title="first error"),
        )
        .properties(width=WIDTH, height=alt.Step(30))
    )


def bills_chart(bills: pl.DataFrame) -> Drawing:
    """Cost against quality, a dot a combination; takes `bills(...)`. Quality is the mean score, or what completed."""
    priced = bills.filter(pl.col("usd_per_1000").is_not_null())
    if priced.is_empty():
        return nothing_to_show(
            "Nobody knows what these combinations cost", "Give the price of a model in its provider's `prices`."
        )
    scored = priced["mean_score"].count() == priced.height
    measure, words = ("mean_score", "mean score (0 to 1)") if scored else ("complete_share", "share that completed")
    base = alt.Chart(priced).encode(
        x=alt.X(
            "usd_per_1000:Q",
            title="USD per 1,000 requests",
            scale=alt.Scale(zero=True),
            # Small prices have long labels.
            axis=alt.Axis(tickCount=6, labelOverlap=True),
        ),
        y=alt.Y(f"{measure}:Q", title=words, scale=alt.Scale(domain=[0, 1])),
    )
    dots = base.mark_circle(opacity=0.85).encode(
        size=alt.Size("requests:Q", title="requests", scale=alt.Scale(range=[40, 500])),
        color=alt.Color("template_id:N", title="template"),
    )
    middle = priced.select(pl.col("usd_per_1000").max() / 2).item()
    cheap, dear = (base.transform_filter(f"datum.usd_per_1000 {half} {middle}") for half in ("<=", ">"))
    names = (cheap.mark_text(align="left", dx=14), dear.mark_text(align="right", dx=-14))
    layers = (dots, *(name.encode(text="combination_id:N") for name in names))
    return alt.layer(*layers).properties(title=_bills_title(priced, measure, words))


def _bills_title(priced: pl.DataFrame, measure: str, words: str) -> alt.TitleParams:
    """The dearest and the cheapest combination of the template that was asked most."""
    busiest = priced.group_by("template_id").agg(pl.col("requests").sum()).sort("requests")["template_id"][-1]
    pool = priced.filter(pl.col("template_id") == busiest).sort("usd_per_1000", measure, descending=[True, False])
    dear, cheap = pool.row(0, named=True), pool.row(-1, named=True)
    text = f"{dear['combination_id']} costs {dear['usd_per_1000']:.2g} USD per 1,000 requests"
    values = f"{dear[measure]:.2f}"
    if pool.height > 1:
        text += f", {cheap['combination_id']} {cheap['usd_per_1000']:.2g}"
        values += f" and {cheap[measure]:.2f}"
    return titled(text, f"{words.partition(' (')[0].capitalize()}: {values}. A dot's area: requests.")


def _points(share: object) -> str:
    assert isinstance(share, float)
    return f"{100 * share:.1f} points"


def _no_decisions() -> alt.Chart:
    return nothing_to_show(
        "No strategy had anything to decide",
        "Requests for a registered template are routed; pass-through ones are not.",
    )

"""Charts of a study: its course, what it combined, and which held-out rows the chosen prompt won and lost."""

import altair as alt
import polars as pl

from rs_pipelines.analysis.chart_style import (
    BAD,
    CHOSEN,
    GOOD,
    HEIGHT,
    LIVE,
    NEUTRAL,
    WIDTH,
    Drawing,
    nothing_to_show,
    titled,
)
from rs_pipelines.analysis.study_tables import compared_rows, instruction_demo_grid, label_changes, study_history
from rs_pipelines.comparison import Comparison
from rs_pipelines.mipro.records import StudyRecord

_SCORE = alt.Scale(domain=[0, 1])


def history_chart(study: StudyRecord) -> Drawing:
    """Every evaluation in order, beside the live version's mean."""
    history = study_history(study)
    if history.is_empty() or study.live_value is None:
        return nothing_to_show(
            "Nothing was evaluated yet", "The study goes on when `route-switch optimize` runs again."
        )
    best = study.best_value if study.best_value is not None else study.live_value
    title = titled(
        f"From {study.live_value:.2f} (live) to {best:.2f} on validation rows, in {history.height} evaluations",
        "A dot is one evaluation; the more rows it stands on, the larger and the surer. The chosen candidate's score "
        "is optimistic: only the held-out rows prove.",
    )
    kinds = ["chosen candidate", "other candidate"]
    dots = (
        alt.Chart(
            history.with_columns(kind=pl.when(pl.col("chosen")).then(pl.lit(kinds[0])).otherwise(pl.lit(kinds[1])))
        )
        .mark_circle(opacity=0.8, stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X("number:Q", title="evaluation, in order", axis=alt.Axis(grid=False, tickMinStep=1)),
            y=alt.Y("value:Q", title="mean score (0 to 1)", scale=_SCORE),
            size=alt.Size("rows:Q", title="rows seen", scale=alt.Scale(range=[20, 180])),
            color=alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds, range=[CHOSEN, NEUTRAL])),
            tooltip=["number", "candidate", "value", "rows"],
        )
    )
    live = pl.DataFrame({"value": [study.live_value], "text": [f"live {study.live_value:.2f}"]})
    rule = alt.Chart(live).mark_rule(color=BAD, strokeDash=[5, 4]).encode(y="value:Q")
    name = (
        alt.Chart(live).mark_text(align="right", dy=-7, color=BAD).encode(x=alt.value(WIDTH), y="value:Q", text="text")
    )
    return alt.layer(dots, rule, name).properties(title=title, height=HEIGHT + 40)


def grid_chart(study: StudyRecord) -> Drawing:
    """Instruction x demo set: the mean score of each pair that was tried, and on how many rows."""
    grid = instruction_demo_grid(study)
    tried = grid.filter(pl.col("value").is_not_null())
    if tried.is_empty():
        return nothing_to_show(
            "No pair was evaluated yet", "The study goes on when `route-switch optimize` runs again."
        )
    chosen = tried.filter(pl.col("chosen"))
    text = f"{tried.height} of {grid.height} pairs of instruction and demo set were tried"
    if not chosen.is_empty():
        text = (
            f"Chosen: {chosen['instruction'][0]} x {chosen['demo_set'][0]}; {tried.height} of {grid.height} pairs tried"
        )
    title = titled(text, "In a cell: mean score (validation rows that it stands on). Empty: not tried. Framed: chosen.")
    shown = grid.with_columns(
        label=pl.Series([None if v is None else f"{v:.2f} ({n})" for v, n in grid.select("value", "rows").iter_rows()])
    )
    base = alt.Chart(shown).encode(
        x=alt.X("demo_set:N", title="demo set", sort=None, axis=alt.Axis(labelAngle=-20, grid=False)),
        y=alt.Y("instruction:N", title="instruction", sort=None, axis=alt.Axis(grid=False)),
    )
    blank = base.mark_rect(fill="#f5f5f5", stroke="white")
    cells = base.transform_filter("datum.label != null").mark_rect(stroke="white")
    scores = alt.Color("value:Q", title="mean score", scale=alt.Scale(scheme="blues", domain=[0, 1]))
    frame = base.transform_filter("datum.chosen").mark_rect(fillOpacity=0, stroke=BAD, strokeWidth=2.5)
    numbers = base.transform_filter("datum.label != null").mark_text(fontSize=11)
    ink = alt.condition("datum.value > 0.55", alt.value("white"), alt.value("#222"))
    return alt.layer(blank, cells.encode(color=scores), frame, numbers.encode(text="label:N", color=ink)).properties(
        title=title, width=WIDTH, height=alt.Step(34)
    )


def rows_chart(comparison: Comparison) -> Drawing:
    """The held-out rows by how much the candidate's score differs, with the mean and its 95% interval."""
    verdict = comparison.verdict
    rows = compared_rows(comparison).filter(pl.col("outcome") != "missing")
    if rows.is_empty():
        return nothing_to_show("No held-out row has both scores", "Compare again when the model can be asked.")
    ranked = (
        rows.with_columns(difference=pl.col("candidate_score") - pl.col("live_score"))
        .sort("difference", "example_id", descending=[True, False])
        .with_row_index("rank")
        .with_columns(next=pl.col("rank") + 1)
    )
    verb = "proven better" if verdict.publish else "not proven better"
    title = titled(
        f"{verdict.won} held-out rows won, {verdict.lost} lost, {verdict.n - verdict.won - verdict.lost} tied: {verb}",
        f"Mean difference {verdict.difference:+.3f}, 95% interval [{verdict.interval_low:+.3f}, "
        f"{verdict.interval_high:+.3f}] (line and band). A bar is one row.",
    )
    outcomes = {"won": GOOD, "lost": BAD, "tied": NEUTRAL}
    present = [outcome for outcome in outcomes if outcome in ranked["outcome"]]
    base = alt.Chart(ranked).encode(
        x=alt.X(
            "rank:Q",
            title="held-out rows, best change first",
            scale=alt.Scale(domain=[0, verdict.n], nice=False),
            axis=alt.Axis(grid=False, tickMinStep=1),
        ),
        x2="next:Q",
        color=alt.Color(
            "outcome:N", title="row", scale=alt.Scale(domain=present, range=[outcomes[outcome] for outcome in present])
        ),
        tooltip=["expected", "live", "candidate"],
    )
    y = alt.Y("difference:Q", title="score difference, candidate − live")
    bars = base.mark_bar(stroke="white", strokeWidth=0.4).encode(y=y, y2=alt.Y2Datum(0))
    ties = base.transform_filter("datum.outcome == 'tied'").mark_rule(strokeWidth=4).encode(y=y)
    mean = pl.DataFrame({"mean": [verdict.difference], "low": [verdict.interval_low], "high": [verdict.interval_high]})
    band = alt.Chart(mean).mark_rect(color=CHOSEN, opacity=0.2).encode(y="low:Q", y2="high:Q")
    line = alt.Chart(mean).mark_rule(color=CHOSEN, strokeWidth=2).encode(y="mean:Q")
    return alt.layer(bars, ties, band, line).properties(title=title)


def labels_chart(comparison: Comparison) -> Drawing:
    """Mean scores by expected answer, from the live version to the candidate."""
    changes = label_changes(comparison)
    if changes.is_empty():
        return nothing_to_show("The right answers are no closed list", "So there is no breakdown by answer.")
    better, worse = (int((changes["change"] * sign > 0).sum()) for sign in (1, -1))
    title = titled(
        f"Better on {better} of {changes.height} answers, worse on {worse}",
        "From the live version (grey) to the candidate (blue), by the right answer (and its held-out rows).",
    )
    named = changes.with_columns(name=pl.format("{} ({})", "label", "rows"))
    y = alt.Y("name:N", title=None, sort=None)
    base = alt.Chart(named).encode(y=y)
    line = base.mark_rule(strokeWidth=2, color="#ccc").encode(
        x=alt.X("live:Q", title="mean score (0 to 1)", scale=_SCORE), x2="candidate:Q"
    )
    live = base.mark_circle(size=90, opacity=1, color=LIVE).encode(x="live:Q")
    candidate = base.mark_circle(size=90, opacity=1, color=CHOSEN).encode(x="candidate:Q")
    return alt.layer(line, live, candidate).properties(title=title, height=alt.Step(24))

"""How notebooks look: titles that say what is seen, one set of colours, pictures that need no network to be shown."""

import textwrap
from collections.abc import Collection, Mapping
from typing import TypeAlias

import altair as alt
import polars as pl

from rs_gateway.domain.traces import Outcome

Drawing: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart
WIDTH, HEIGHT = 640, 240
GOOD, BAD, NEUTRAL, LIVE, CHOSEN = "#2f7d5b", "#b5403a", "#b9bec5", "#8a8f98", "#2b62b3"
OUTCOME_COLOURS: Mapping[str, str] = {
    Outcome.COMPLETE.value: GOOD,
    Outcome.TRUNCATED.value: "#e0b04a",
    Outcome.CONTENT_FILTERED.value: "#8d6cab",
    Outcome.CLIENT_CANCELLED.value: NEUTRAL,
    Outcome.PROVIDER_CUT.value: "#d98148",
    Outcome.PROVIDER_ERROR.value: BAD,
    Outcome.REJECTED.value: "#5c6370",
}
_CATEGORIES = ["#2b62b3", "#d98148", "#2f7d5b", "#8d6cab", "#b5403a", "#e0b04a", "#4aa3a8", "#8a8f98"]
_TITLE_CHARACTERS, _SUBTITLE_CHARACTERS = 88, 118
_TIME_UNITS = {
    60: (alt.UtcMultiTimeUnit("utcyearmonthdatehoursminutes"), "%H:%M", "minute"),
    3_600: (alt.UtcMultiTimeUnit("utcyearmonthdatehours"), "%-d %b %H:%M", "hour"),
    86_400: (alt.UtcMultiTimeUnit("utcyearmonthdate"), "%-d %b", "day"),
}


@alt.theme.register("route_switch", enable=False)
def _theme() -> alt.theme.ThemeConfig:
    return {
        "config": {
            "font": "Liberation Sans, Arial, Helvetica, sans-serif",
            "background": "white",
            "padding": 12,
            "view": {"continuousWidth": WIDTH, "continuousHeight": HEIGHT, "stroke": None},
            "title": {
                "anchor": "start",
                "fontSize": 15,
                "subtitleFontSize": 12,
                "subtitleColor": "#555",
                "subtitlePadding": 4,
                "offset": 12,
            },
            "axis": {
                "labelFontSize": 11,
                "titleFontSize": 11,
                "titleFontWeight": "normal",
                "labelColor": "#333",
                "labelLimit": 260,
                "gridColor": "#ececec",
                "domainColor": "#999",
            },
            "legend": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelLimit": 260},
            "header": {"labelFontSize": 12, "labelAnchor": "start"},
            "range": {"category": _CATEGORIES},
        }
    }


def use_our_style() -> None:
    """Charts look as ours do and are drawn as SVG, so nothing is fetched to show them; tables show whole texts."""
    alt.theme.enable("route_switch")
    alt.renderers.enable("svg")
    pl.Config.set_tbl_rows(20).set_tbl_cols(-1).set_fmt_str_lengths(200).set_float_precision(3)
    pl.Config.set_tbl_hide_dataframe_shape(active=True).set_tbl_hide_column_data_types(active=True)


def titled(text: str, *subtitles: str) -> alt.TitleParams:
    """A title that states what is seen, and under it how to read the chart; both are wrapped to its width."""
    lines = [line for subtitle in subtitles if subtitle for line in _wrapped(subtitle, _SUBTITLE_CHARACTERS)]
    return alt.TitleParams(_wrapped(text, _TITLE_CHARACTERS), subtitle=lines)


def nothing_to_show(text: str, remedy: str) -> alt.Chart:
    """In place of a chart that has no data: what is missing, and how it comes about."""
    return (
        alt.Chart(pl.DataFrame({"text": [remedy]}), title=titled(text), width=WIDTH, height=40)
        .mark_text(align="left", fontSize=12, color="#555")
        .encode(x=alt.value(0), text="text:N")
    )


def time_axis(frame: pl.DataFrame) -> alt.X:
    """The x axis of a table by `at` and `until`, as wide as a period, in UTC."""
    unit, form, name = _time_units(frame)
    return alt.X(
        "at:T", timeUnit=unit, title=f"{name} (UTC)", axis=alt.Axis(format=form, labelOverlap=True, grid=False)
    )


def period_name(frame: pl.DataFrame) -> str:
    """`minute`, `hour` or `day`: what a row of a table by `at` and `until` stands for."""
    return _time_units(frame)[2]


def outcome_colour(present: Collection[str]) -> alt.Color:
    """A trace's outcome, in the same colour everywhere; the legend names those that are `present`."""
    shown = {outcome: colour for outcome, colour in OUTCOME_COLOURS.items() if outcome in present}
    return alt.Color("outcome:N", title="outcome", scale=alt.Scale(domain=list(shown), range=list(shown.values())))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _time_units(frame: pl.DataFrame) -> tuple[alt.UtcMultiTimeUnit, str, str]:
    return _TIME_UNITS[int((frame["until"][0] - frame["at"][0]).total_seconds())]

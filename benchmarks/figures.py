"""From measurements to the table of ratios and the line of JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.load import Kind

Figure = float | None
KINDS: tuple[Kind, ...] = ("plain", "stream")


@dataclass(frozen=True)
class Reading:
    """One load on one contender."""

    per_s: float
    p50_ms: float
    cpu_us_per_request: float


@dataclass
class Measurements:
    """Everything a run has seen, by contender, one entry a round; a contender or step left out has none.

    Attributes:
        loads: (contender, load) -> readings; load is `plain`, `stream` or `one` (plain calls over one connection).
        starts_s: from the start of the process to its first healthy answer.
        rss_mb: the most that was resident under load, descendants included.
        growth_mb: of ours over the long mixed load; None when it was left out.
    """

    loads: dict[tuple[str, str], list[Reading]] = field(default_factory=dict[tuple[str, str], list[Reading]])
    starts_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    rss_mb: dict[str, float] = field(default_factory=dict[str, float])
    growth_mb: Figure = None

    def of(self, contender: str, load: str, pick: Callable[[Reading], float]) -> list[float]:
        """One number of each round."""
        return [pick(reading) for reading in self.loads.get((contender, load), [])]


def middle(values: Sequence[float]) -> Figure:
    """The median; None when there is nothing."""
    return median(values) if values else None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """The median over rounds of ours to theirs: both of a round met the same state of the machine."""
    return middle([a / b for a, b in zip(ours, theirs, strict=False) if b > 0])


def summary(seen: Measurements) -> dict[str, object]:
    """The figures by their fixed names; None where what they need was left out.

    Every ratio is ours to theirs: rates above 1 and times below 1 are in our favour.
    """

    def rate(reading: Reading) -> float:
        return reading.per_s

    figures: dict[str, object] = {}
    for kind in KINDS:
        mine = seen.of("ours", kind, rate)
        against = {f"vs_{peer}": ratio(mine, seen.of(peer, kind, rate)) for peer in ("litellm", "portkey", "bare")}
        figures[kind] = {"ours_rps": middle(mine), **against}
    p50 = [seen.of(name, "one", lambda reading: reading.p50_ms) for name in ("ours", "litellm")]
    cpu = [seen.of(name, "plain", lambda reading: reading.cpu_us_per_request) for name in ("ours-2-workers", "ours")]
    figures["p50_vs_litellm"] = ratio(*p50)
    figures["workers2_cpu_ratio"] = ratio(*cpu)
    figures["rss_mb"] = seen.rss_mb.get("ours")
    figures["rss_growth_mb"] = seen.growth_mb
    figures["start_vs_litellm"] = ratio(seen.starts_s.get("ours", []), seen.starts_s.get("litellm", []))
    return figures


def as_json(seen: Measurements) -> str:
    """`summary` on one line, rounded to four digits."""
    return json.dumps(_rounded(summary(seen)))


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Goal:
    """A line of the table: what was measured, and what it should be."""

    words: str
    path: tuple[str, ...]
    limit: float
    at_least: bool

    def verdict(self, figure: Figure) -> str:
        """`met`, `missed`, or `-` when it was not measured."""
        if figure is None:
            return "-"
        return "met" if (figure >= self.limit if self.at_least else figure <= self.limit) else "missed"


GOALS = (
    Goal("plain calls, to LiteLLM", ("plain", "vs_litellm"), 40, True),
    Goal("plain calls, to Portkey", ("plain", "vs_portkey"), 4, True),
    Goal("plain calls, to the bare pass-through", ("plain", "vs_bare"), 0.6, True),
    Goal("streams, to LiteLLM", ("stream", "vs_litellm"), 60, True),
    Goal("streams, to Portkey", ("stream", "vs_portkey"), 3, True),
    Goal("streams, to the bare pass-through", ("stream", "vs_bare"), 0.6, True),
    Goal("p50 at 1 connection, to LiteLLM", ("p50_vs_litellm",), 1 / 20, False),
    Goal("CPU a request, 2 workers to 1", ("workers2_cpu_ratio",), 1.15, False),
    Goal("resident memory under load, MB", ("rss_mb",), 100, False),
    Goal("memory growth over the mixed load, MB", ("rss_growth_mb",), 5, False),
    Goal("time to start, to LiteLLM", ("start_vs_litellm",), 1 / 5, False),
)


def table(seen: Measurements, contenders: Sequence[str]) -> str:
    """What each contender did, and then the ratios with their goals."""
    heads = ["", "plain/s", "CPU us", "streams/s", "CPU us", "p50 ms at 1", "start s", "memory MB"]
    rows = [heads, *([name, *_row(seen, name)] for name in contenders)]
    figures = summary(seen)
    ratios = [["ours, as a ratio", "measured", "goal", ""]]
    for goal in GOALS:
        figure = _lookup(figures, goal.path)
        sign = "at least" if goal.at_least else "at most"
        ratios.append([goal.words, _short(figure), f"{sign} {goal.limit:g}", goal.verdict(figure)])
    return f"{_aligned(rows)}\n\n{_aligned(ratios)}"


def _row(seen: Measurements, name: str) -> list[str]:
    cells: list[Figure] = []
    for kind in KINDS:
        cells.append(middle(seen.of(name, kind, lambda reading: reading.per_s)))
        cells.append(middle(seen.of(name, kind, lambda reading: reading.cpu_us_per_request)))
    cells.append(middle(seen.of(name, "one", lambda reading: reading.p50_ms)))
    cells.append(middle(seen.starts_s.get(name, [])))
    cells.append(seen.rss_mb.get(name))
    return [_short(cell) for cell in cells]


def _lookup(figures: Mapping[str, object], path: Sequence[str]) -> Figure:
    value: object = figures
    for key in path:
        value = value[key] if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _short(figure: Figure) -> str:
    if figure is None:
        return "-"
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(line))
        for line in (list(zip(row, widths, strict=True)) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)

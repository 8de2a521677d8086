"""What a comparison of models looks like to a person: tables for the terminal, a page with a plot for the browser."""

import html
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rs_pipelines.best_model import BestModel, Ranked
from rs_pipelines.sample import TEACHER, VOUCHED_FOR

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 380, 60, 50
_STYLE = (
    "body{font:15px sans-serif;margin:2rem;max-width:60rem}table{border-collapse:collapse;margin:1rem 0}"
    "td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:right}td:first-child,th:first-child{text-align:left}"
)
_HEAD = (
    "model",
    "quality",
    "95 % interval",
    "behind the best",
    "USD per 1,000 calls",
    "tokens a call",
    "p50 s",
    "p95 s",
)


def print_best_model(console: Console, found: BestModel) -> None:
    """The models, what follows from them, and the transfer matrix."""
    table = Table(*_HEAD, title=f"{found.template_id} on {found.n_test} test rows", title_justify="left")
    for one in found.models:
        table.add_row(*(Text(cell) for cell in _cells(one)))
    console.print(table)
    for line in conclusions(found):
        console.print(line, soft_wrap=True)
    if len(found.models) == 1:
        return
    names = [one.model for one in found.models]
    matrix = Table("prompt tuned for", *names, title="Transfer: which prompt on which model", title_justify="left")
    for source in names:
        matrix.add_row(Text(source), *(_number(found.transfer[source][target], 3) for target in names))
    console.print(matrix)


def conclusions(found: BestModel) -> list[str]:
    """What the figures say, in sentences."""
    if len(found.models) == 1 and {*found.unfinished, *found.failed} - {found.best}:
        return [
            *_label_words(found),
            *_gap_words(found),
            f"There is nothing to choose from yet: {found.best} is the only model that was finished. Nothing was "
            "published.",
        ]
    if len(found.models) == 1:
        return [
            *_label_words(found),
            f"There was nothing to choose from: {found.best} is the only model that was asked. Name more as --models, "
            f"or give {found.template_id} combinations with other models in gateway.combinations.",
            "Nothing was published; `route-switch optimize` proves a prompt against its own live version.",
        ]
    front = ", ".join(one.model for one in found.models if one.on_front)
    what = "price" if found.cost_basis == "usd" else "tokens, for not every price is known"
    lines = [
        *_label_words(found),
        *_gap_words(found),
        f"Best: {found.best}.",
        f"Nobody is better and cheaper than: {front} (quality against {what}).",
    ]
    if found.cheapest_within_bound is not None:
        lines.append(
            f"Cheapest within the quality bound: {found.cheapest_within_bound}. At the lower end of the 95 % interval "
            f"it is worse than the best by no more than {found.quality_bound:g}."
        )
    else:
        lines.append(
            "Which is the cheapest within the quality bound cannot be said: nothing is known of what they cost."
        )
    lines.append(
        "These test rows have now been used to choose among models: the score of the chosen one is optimistic. Nothing "
        "was published; `route-switch optimize` proves each model's prompt against its own live version."
    )
    return lines


def _label_words(found: BestModel) -> list[str]:
    """Who vouches for the test rows, where it is not people alone, and what a model that gave labels means."""
    teachers = {f"{TEACHER}{one.model}" for one in found.models}
    models = [(n, who) for who, n in found.test_by_provenance.items() if who not in VOUCHED_FOR]
    lines = [f"{n} of {found.n_test} test rows labelled by {who}." for n, who in models]
    lines += [
        f"Warning: {who} labelled {n} of the test rows and is compared: it is judged by its own answers."
        for n, who in models
        if who in teachers
    ]
    return lines + [
        f"Warning: {n} more test rows are left out, for {who} labelled them and is among the models compared."
        for who, n in found.left_out_by_provenance.items()
        if who in teachers
    ]


def _gap_words(found: BestModel) -> list[str]:
    """Which models lack answers, are not in the ranking, or not in all of the transfer matrix."""
    ranked = {one.model for one in found.models}
    words = [
        (
            f"Warning: not every prompt has run on {model}. {why}"
            if model in ranked
            else f"Warning: {model} is not finished, so it is not ranked. {why}"
        )
        for model, why in found.unfinished.items()
    ]
    words += [f"Warning: {model} failed, so it is not ranked. {why}" for model, why in found.failed.items()]
    return words + [
        f"{one.model} answered {one.answered} of {found.n_test} test rows: its figures are of these."
        for one in found.models
        if one.answered < found.n_test
    ]


def best_model_page(found: BestModel) -> str:
    """One HTML page without anything from elsewhere."""
    head = "".join(f"<th>{cell}</th>" for cell in _HEAD)
    rows = "".join(_row(_cells(one)) for one in found.models)
    told = "".join(f"<p>{html.escape(line)}</p>" for line in conclusions(found))
    transfer = _transfer_table(found) if len(found.models) > 1 else ""
    title = f"{html.escape(found.template_id)}: which model"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{told}{quality_svg(found)}<table><tr>{head}</tr>{rows}</table>{transfer}</html>"
    )


def _transfer_table(found: BestModel) -> str:
    names = [one.model for one in found.models]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("prompt tuned for", *names))
    rows = "".join(
        _row([source, *(_number(found.transfer[source][target], 3) for target in names)]) for source in names
    )
    return f"<h2>Transfer</h2><table><tr>{head}</tr>{rows}</table>"


def quality_svg(found: BestModel) -> str:
    """Quality with its interval against cost; filled dots are the Pareto front. Empty where no cost is known."""
    placed = [(cost, one) for one in found.models if (cost := _cost(one, found.cost_basis)) is not None]
    if not placed:
        return ""
    dearest = max(cost for cost, _ in placed) or 1.0

    def x(cost: float) -> float:
        return _LEFT + cost / (1.1 * dearest) * (_WIDTH - _LEFT - 20)

    def y(value: float) -> float:
        return 20 + (1 - value) * (_HEIGHT - _BOTTOM - 20)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for part in (0.0, 0.5, 1.0):
        parts.append(
            f'<text x="{x(part * dearest):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{part * dearest:.3g}</text>"
        )
    unit = "USD per 1,000 calls" if found.cost_basis == "usd" else "tokens a call"
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{unit}</text>')
    parts.append(
        f'<text x="14" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {_HEIGHT / 2})">mean score on '
        f"{found.n_test} test rows, 95 % interval</text>"
    )
    for cost, one in placed:
        fill = "#26c" if one.on_front else "white"
        parts.append(
            f'<line x1="{x(cost):.1f}" x2="{x(cost):.1f}" y1="{y(one.low):.1f}" y2="{y(one.high):.1f}" stroke="#26c"/>'
            f'<circle cx="{x(cost):.1f}" cy="{y(one.mean):.1f}" r="5" fill="{fill}" stroke="#26c"/>'
            f'<text x="{x(cost) + 9:.1f}" y="{y(one.mean) + 4:.1f}">{html.escape(one.model)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _cells(one: Ranked) -> list[str]:
    tokens = None
    if one.input_tokens is not None and one.output_tokens is not None:
        tokens = one.input_tokens + one.output_tokens
    marks = (" (live prompt)" if one.is_live else "") + (" *" if one.on_front else "")
    behind = "" if one.behind == 0 and one.behind_low == 0 else f"{one.behind:+.3f}, {one.behind_low:+.3f} at worst"
    return [
        one.model + marks,
        f"{one.mean:.3f}",
        f"[{one.low:.3f}, {one.high:.3f}]",
        behind,
        "unknown" if one.usd_per_1000_calls is None else f"{one.usd_per_1000_calls:.4g}",
        _number(tokens, 0),
        _number(one.p50_s, 3),
        _number(one.p95_s, 3),
    ]


def _row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cost(one: Ranked, basis: str) -> float | None:
    if basis == "usd":
        return one.usd_per_1000_calls
    return None if one.input_tokens is None or one.output_tokens is None else one.input_tokens + one.output_tokens

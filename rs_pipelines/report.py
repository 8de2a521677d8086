"""What a run looks like to a person: the same pictures and tables for the terminal, Dagster and the notebooks."""

import html
from collections.abc import Sequence

from rs_pipelines.comparison import Comparison
from rs_pipelines.gate import ComparedRow
from rs_pipelines.mipro.records import Candidate, StudyRecord

_WIDTH, _HEIGHT, _MARGIN = 640, 240, 40
_SHOWN_CHARACTERS = 160


def candidate_name(study: StudyRecord, candidate: Candidate) -> str:
    """`instruction x demo set`, in words, and `x output format` where the study tried several."""
    instruction = study.instructions[candidate.instruction]
    demo_set = study.demo_sets[candidate.demo_set]
    demos = f"{len(demo_set.demos)} {demo_set.kind} demos" if demo_set.demos else "no demos"
    output = f" x {study.output_formats[candidate.output_format]}" if len(study.output_formats) > 1 else ""
    return f"i{candidate.instruction} ({instruction.source}) x d{candidate.demo_set} ({demos}){output}"


def leaders(study: StudyRecord, *, limit: int = 10) -> list[tuple[Candidate, float, int]]:
    """Candidates with their mean over the rows that they have seen, and how many those are; full evaluations first."""
    ranked: list[tuple[Candidate, float, int]] = []
    for entry in study.rows:
        seen = [value for value in entry.values if value is not None]
        if seen:
            ranked.append((entry.candidate, sum(seen) / len(seen), len(seen)))
    ranked.sort(key=lambda item: (item[2] == len(study.row_order), item[1]), reverse=True)
    return ranked[:limit]


def history_svg(study: StudyRecord) -> str:
    """The study's course: a dot a trial, filled for full evaluations; the line is the live version."""
    trials = [t for t in study.trials if t.value is not None]
    if not trials:
        return ""
    right = max(t.number for t in trials) or 1

    def x(number: float) -> float:
        return _MARGIN + number / right * (_WIDTH - 2 * _MARGIN)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - value * (_HEIGHT - 2 * _MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            f'<text x="{_MARGIN - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    if study.live_value is not None:
        level = y(study.live_value)
        parts.append(
            f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{level:.1f}" y2="{level:.1f}" stroke="#c44" '
            f'stroke-dasharray="5 4"/><text x="{_WIDTH - _MARGIN}" y="{level - 5:.1f}" text-anchor="end" fill="#c44">'
            f"live version {study.live_value:.3f}</text>"
        )
    for trial in trials:
        filled = "#26c" if trial.kind == "full" else "white"
        title = (
            f"trial {trial.number}: {candidate_name(study, trial.candidate)} = {trial.value:.3f} on {trial.n_rows} rows"
        )
        parts.append(
            f'<circle cx="{x(trial.number):.1f}" cy="{y(trial.value or 0):.1f}" r="4" fill="{filled}" stroke="#26c">'
            f"<title>{html.escape(title)}</title></circle>"
        )
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">trial (hollow: minibatch, filled: all '
        f"{len(study.row_order)} validation rows)</text></svg>"
    )
    return "".join(parts)


def rows_markdown(rows: Sequence[ComparedRow], *, limit: int = 10) -> str:
    """A table of rows with both outputs."""
    lines = ["| expected | live | candidate |", "|---|---|---|"]
    lines += [f"| {_cell(r.expected)} | {_cell(r.live_output)} | {_cell(r.candidate_output)} |" for r in rows[:limit]]
    if len(rows) > limit:
        lines.append(f"| ... {len(rows) - limit} more | | |")
    return "\n".join(lines)


def trials_markdown(study: StudyRecord, *, limit: int = 10) -> str:
    """A table of the leading candidates."""
    lines = ["| candidate | mean score | rows |", "|---|---|---|"]
    lines += [f"| {candidate_name(study, c)} | {mean:.3f} | {n} |" for c, mean, n in leaders(study, limit=limit)]
    return "\n".join(lines)


def verdict_line(comparison: Comparison) -> str:
    """The comparison in one sentence."""
    v = comparison.verdict
    return (
        f"{v.mean_live:.3f} -> {v.mean_candidate:.3f} on {v.n} held-out rows: {v.difference:+.3f}, "
        f"95 % interval [{v.interval_low:+.3f}, {v.interval_high:+.3f}], {v.won} rows won, {v.lost} lost"
    )


def _cell(text: str | None) -> str:
    if text is None:
        return "(no answer)"
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " ..."
    return html.escape(shown.replace("\n", " ")).replace("|", "\\|")

"""What a run looks like to a person: the same pictures and tables for the terminal, Dagster and the notebooks."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rs_pipelines.comparison import Comparison, LabelChange
from rs_pipelines.cost_estimate import CostEstimate
from rs_pipelines.evaluator_sanity import EvaluatorSanity
from rs_pipelines.gate import ComparedRow
from rs_pipelines.live_probe import LiveProbe
from rs_pipelines.mipro.choice import rule_of
from rs_pipelines.mipro.records import LIVE, Candidate, StudyRecord, TrialKind, TrialRecord, Weighed
from rs_pipelines.preflight import Preflight
from rs_pipelines.provable import Provable
from rs_pipelines.sample import VOUCHED_FOR, Split

_DOT_COLOURS: Mapping[TrialKind, str] = {"minibatch": "lightblue", "full": "royalblue"}
_SHOWN_CHARACTERS = 160
_SHOWN_ROWS = 10


def candidate_name(study: StudyRecord, candidate: Candidate) -> str:
    """`instruction x demo set`, in words, and `x output format` where the study tried several."""
    instruction = study.instructions[candidate.instruction]
    demo_set = study.demo_sets[candidate.demo_set]
    kind = "" if demo_set.kind == "nearest" else f"{demo_set.kind} "
    demos = f"{len(demo_set.demos)} {kind}demos" if demo_set.demos else "no demos"
    demos = f"the {demo_set.nearest} nearest of {demos}" if demo_set.nearest else demos
    output = f" x {study.output_formats[candidate.output_format]}" if len(study.output_formats) > 1 else ""
    return f"i{candidate.instruction} ({instruction.source}) x d{candidate.demo_set} ({demos}){output}"


def look_words(trial: TrialRecord) -> str:
    """What was looked at, and what it is worth by now."""
    levels = f"i{trial.candidate.instruction} x d{trial.candidate.demo_set}"
    levels += f" x f{trial.candidate.output_format}" if trial.candidate.output_format else ""
    return f"{levels}: void" if trial.value is None else f"{levels}: {trial.value:.3f} on {trial.n_rows} rows"


@dataclass(frozen=True, slots=True)
class Leader:
    """A candidate that was looked at.

    Attributes:
        mean: over the `n_rows` validation rows that it has an answer to.
        weighed: what the choice knew of it; None in a study that has not ended.
    """

    candidate: Candidate
    mean: float
    n_rows: int
    weighed: Weighed | None

    def cells(self, study: StudyRecord) -> tuple[str, ...]:
        """One row under `leader_columns`."""
        is_live = self.candidate == LIVE
        marks = (" *" if self.candidate == study.best else "") + (", live version" if is_live else "")
        name, weighed = candidate_name(study, self.candidate) + marks, self.weighed
        if weighed is None:
            return name, f"{self.mean:.3f}", str(self.n_rows), "", "", ""
        figures = (f"{weighed.believed:.3f}", _probability(weighed.probability), str(weighed.length))
        return name, f"{self.mean:.3f}", str(self.n_rows), *figures


def _probability(value: float | None) -> str:
    """Whole per cents; what is not quite certain is not said to be."""
    if value is None:
        return ""
    return ">99%" if value > 0.99 else "<1%" if value < 0.01 else f"{value:.0%}"


def leader_columns(study: StudyRecord) -> tuple[str, ...]:
    """Headings of a table of leaders."""
    probable = "within loss" if study.objective == "cost" else "beats live"
    return "candidate", "mean", "rows", "believed", probable, "length"


def leaders(study: StudyRecord, *, limit: int = 10) -> list[Leader]:
    """The candidates that stood out: the chosen one first, then by what they are believed to score.

    The live version is always among them, so that there is something to hold the others against.
    """
    known = {weighed.candidate: weighed for weighed in study.weighed}
    found: list[Leader] = []
    for entry in study.rows:
        seen = [value for value in entry.values if value is not None]
        if seen:
            found.append(Leader(entry.candidate, sum(seen) / len(seen), len(seen), known.get(entry.candidate)))

    def place(leader: Leader) -> tuple[bool, float, int]:
        believed = leader.mean if leader.weighed is None else leader.weighed.believed
        return leader.candidate == study.best, believed, leader.n_rows

    found.sort(key=place, reverse=True)
    shown = found[:limit]
    return [*shown, *(leader for leader in found[limit:] if leader.candidate == LIVE)]


def nearest_words(study: StudyRecord) -> str | None:
    """What became of the pool of which each request is shown the demos most like it; None where it was not wanted."""
    if not study.plan.nearest_pool:
        return None
    pool = next((n for n, demo_set in enumerate(study.demo_sets) if demo_set.kind == "nearest"), None)
    if pool is None:
        return (
            "mipro_v2.nearest_demos: no pool was tried. It takes more train rows than a request is shown demos "
            f"({study.plan.max_labeled_demos}), and a place among the {study.plan.num_candidates} demo sets."
        )
    demo_set = study.demo_sets[pool]
    tried = [leader for leader in leaders(study, limit=len(study.rows)) if leader.candidate.demo_set == pool]
    shown = f"each request is shown the {demo_set.nearest} most like it of {len(demo_set.demos)} train rows"
    if not tried:
        return f"mipro_v2.nearest_demos: d{pool} is such a pool ({shown}); the search looked at no candidate with it."
    best = max(tried, key=lambda leader: leader.mean if leader.weighed is None else leader.weighed.believed)
    believed = "" if best.weighed is None else f", believed {best.weighed.believed:.3f}"
    score = f"i{best.candidate.instruction} x d{pool}, {best.mean:.3f} on {best.n_rows} rows{believed}"
    return f"mipro_v2.nearest_demos: d{pool} is such a pool ({shown}); its best candidate is {score}."


def history_svg(study: StudyRecord) -> str:
    """The study's course: a dot a trial, blue on all rows and pale on some; the red line is the live version.

    Short, so that Dagster shows it at once: it hides what takes more than a thousand characters behind a click.
    """
    trials = [t for t in study.trials if t.value is not None]
    if not trials:
        return ""
    right, bottom = 560, 150
    last = max(t.number for t in trials) or 1

    def y(value: float) -> int:
        return round(bottom - value * (bottom - 10))

    def dots(kind: TrialKind) -> str:
        return "".join(f"M{30 + t.number * (right - 40) // last},{y(t.value or 0)}h0" for t in trials if t.kind == kind)

    parts = [_svg_head(right + 70, bottom + 20), f"<path d='M20,10V{bottom}H{right}' fill='none' stroke='silver'/>"]
    if study.live_value is not None:
        level = y(study.live_value)
        parts.append(
            f"<path d='M20,{level}H{right}' stroke='red'/>"
            f"<text x='{right + 4}' y='{level + 4}'>live {study.live_value:.3f}</text>"
        )
    parts.append("<g stroke-width='7' stroke-linecap='round'>")
    parts += [
        f"<path d='{dots(kind)}' stroke='{colour}'/>"
        for kind, colour in _DOT_COLOURS.items()
        if any(t.kind == kind for t in trials)
    ]
    parts.append(
        f"</g><text y='14'>1</text><text y='{bottom}'>0</text><text x='250' y='{bottom + 16}'>trial</text></svg>"
    )
    return "".join(parts)


def comparison_svg(comparison: Comparison) -> str:
    """Both means as bars, and below them the difference with its interval beside 0. Short, as above."""
    verdict = comparison.verdict
    left, width = 80, 360

    def x(difference: float) -> int:
        return round(left + (difference + 1) / 2 * width)

    bars = (
        (f"live v{comparison.live_version}", verdict.mean_live, "silver"),
        ("candidate", verdict.mean_candidate, "royalblue"),
    )
    parts = [_svg_head(640, 90)]
    for y, (name, mean, colour) in zip((14, 40), bars, strict=True):
        end = round(mean * width)
        parts.append(
            f"<text y='{y}'>{name}</text><path d='M{left},{y - 4}h{end}' stroke='{colour}' stroke-width='18'/>"
            f"<text x='{left + end + 5}' y='{y}'>{mean:.3f}</text>"
        )
    low, high = x(verdict.interval_low), x(verdict.interval_high)
    parts.append(
        f"<text y='74'>difference</text><path d='M{left},70h{width}M{x(0)},60v20' stroke='gray'/>"
        f"<path d='M{low - 1},70H{high + 1}' stroke='{'green' if verdict.publish else 'black'}' stroke-width='6'/>"
        f"<text x='{left + width + 5}' y='74'>{verdict.difference:+.3f} [{verdict.interval_low:+.3f}, "
        f"{verdict.interval_high:+.3f}]</text></svg>"
    )
    return "".join(parts)


def _svg_head(width: int, height: int) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' font-family='sans-serif' "
        "font-size='12' style='background:white'>"
    )


def rows_markdown(rows: Sequence[ComparedRow]) -> str:
    """A table of the first rows, with both outputs."""
    lines = ["| expected | live | candidate |", "|---|---|---|"]
    lines += [
        f"| {_cell(r.expected)} | {_cell(r.live_output)} | {_cell(r.candidate_output)} |" for r in rows[:_SHOWN_ROWS]
    ]
    if len(rows) > _SHOWN_ROWS:
        lines.append(f"| ... {len(rows) - _SHOWN_ROWS} more | | |")
    return "\n".join(lines)


def labels_markdown(changes: Sequence[LabelChange]) -> str:
    """A table of the mean scores by expected answer; empty when the answers are no closed list."""
    if not changes:
        return ""
    lines = ["| expected | rows | live | candidate |", "|---|---|---|---|"]
    lines += [f"| {_cell(c.label)} | {c.n} | {c.mean_live:.3f} | {c.mean_candidate:.3f} |" for c in changes]
    return "\n".join(lines)


def call_changes(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(what, live version, candidate) of an average call, as far as it is known."""
    v = comparison.verdict
    found: list[tuple[str, str, str]] = []
    if v.tokens_live is not None and v.tokens_candidate is not None:
        found.append(("input tokens a call", f"{v.tokens_live:.0f}", f"{v.tokens_candidate:.0f}"))
    if v.output_tokens_live is not None and v.output_tokens_candidate is not None:
        found.append(("output tokens a call", f"{v.output_tokens_live:.1f}", f"{v.output_tokens_candidate:.1f}"))
    if v.cost_usd_live is not None and v.cost_usd_candidate is not None:
        live, candidate = 1_000 * v.cost_usd_live, 1_000 * v.cost_usd_candidate
        found.append(("USD per 1,000 calls", f"{live:.4g}", f"{candidate:.4g}"))
    return found


def preflight_lines(preflight: Preflight) -> list[tuple[str, str]]:
    """(what, how it is) for a table of two columns."""
    by = _counted(preflight.by_provenance)
    drawn = f", {preflight.drawn} drawn" if preflight.drawn < preflight.usable else ""
    lines = [
        ("usable rows", f"{preflight.usable} ({by}){drawn}; {preflight.duplicates} duplicate labels left out"),
        ("split", ", ".join(f"{n} {split}{_used_words(preflight, split)}" for split, n in preflight.by_split.items())),
    ]
    if not preflight.test_by_provenance.keys() <= VOUCHED_FOR:
        lines.append(("test rows by", _counted(preflight.test_by_provenance)))
    if preflight.labels:
        lines.append(("labels", ", ".join(f"{label} {n}" for label, n in preflight.labels.items())))
    lines.append(_provable_line(preflight.provable))
    if preflight.evaluator is not None:
        lines.append(("evaluator", _evaluator_words(preflight.evaluator)))
    elif preflight.judged:
        lines.append(("evaluator", "not measured: a judge costs calls"))
    if preflight.live is not None:
        lines.append(("live prompt", _live_words(preflight.live)))
    if preflight.cost is not None:
        lines.append(("cost at most", _cost_words(preflight.cost)))
    lines += [("warning", warning) for warning in preflight.warnings]
    return lines + [("refused", objection) for objection in preflight.objections]


def preflight_markdown(preflight: Preflight) -> str:
    """The same as a table for Dagster."""
    lines = [
        f"| {what} | {html.escape(words).replace('|', chr(92) + '|')} |" for what, words in preflight_lines(preflight)
    ]
    return "\n".join(["| pre-flight | |", "|---|---|", *lines])


def _used_words(preflight: Preflight, split: str) -> str:
    used = preflight.val_used
    return "" if split != Split.VAL or used in (None, preflight.by_split[split]) else f" ({used} of them used)"


def _provable_line(provable: Provable) -> tuple[str, str]:
    best = "" if provable.best_case is None else f"; {provable.best_case:.3f} if no row is lost"
    if provable.kind == "loss":
        smallest = "none" if provable.smallest is None else f"{provable.smallest:.3f}"
        return "smallest loss ruled out", f"{smallest} with 80 % probability{best} ({provable.basis})"
    smallest = "none" if provable.smallest is None else f"+{provable.smallest:.3f}"
    best = best.replace("; ", "; +")
    return "smallest provable gain", f"{smallest} with 80 % probability{best} ({provable.basis})"


def _evaluator_words(sanity: EvaluatorSanity) -> str:
    wrong = "untested" if sanity.mean_wrong is None else f"{sanity.mean_wrong:.3f}"
    return f"right answers score {sanity.mean_right:.3f}, other rows' answers {wrong} ({sanity.n} rows)"


def _live_words(live: LiveProbe) -> str:
    if not live.values:
        return f"no answer to {live.asked} rows"
    mean = sum(live.values) / len(live.values)
    return f"scores {mean:.3f} on {len(live.values)} rows; {_noise_words(live)}"


def _noise_words(live: LiveProbe) -> str:
    if live.noise is not None:
        return f"differs from itself by {live.noise:.3f} ({live.asked_twice} rows asked twice)"
    why = "no row was answered twice" if live.asked_twice else "temperature 0, so each row was asked once"
    return f"not measured how much it differs from itself ({why})"


def _cost_words(cost: CostEstimate) -> str:
    tokens = "tokens unknown"
    if cost.input_tokens is not None and cost.output_tokens is not None:
        tokens = f"{cost.input_tokens:,} input and {cost.output_tokens:,} output tokens"
    usd = "USD unknown (no price)" if cost.usd is None else f"{cost.usd:.4g} USD"
    seconds = "seconds unknown" if cost.seconds is None else f"about {cost.seconds:.0f} s"
    return f"{cost.calls:,} calls, {tokens}, {usd}, {seconds}"


def trials_markdown(study: StudyRecord) -> str:
    """A table of the leading candidates, and how the choice among them was made."""
    columns = leader_columns(study)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_escaped(cell) for cell in one.cells(study))} |" for one in leaders(study)]
    return "\n\n".join(["\n".join(lines), *study_notes(study)])


def study_notes(study: StudyRecord) -> list[str]:
    """What a reader of that table should know."""
    pool = nearest_words(study)
    return [f"* {rule_of(study)}", *([pool] if pool is not None else [])]


def verdict_line(comparison: Comparison) -> str:
    """The comparison in one sentence."""
    v = comparison.verdict
    return (
        f"{v.mean_live:.3f} -> {v.mean_candidate:.3f} on {v.n} held-out rows: {v.difference:+.3f}, "
        f"95 % interval [{v.interval_low:+.3f}, {v.interval_high:+.3f}], {v.won} rows won, {v.lost} lost"
    )


def provenance_line(comparison: Comparison) -> str | None:
    """Who vouches for the held-out rows' right answers; None where nobody but people does, or it was not recorded."""
    found = comparison.by_provenance
    if not found or found.keys() <= VOUCHED_FOR:
        return None
    return f"right answers by: {_counted(found)}"


def _counted(by_provenance: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {provenance}" for provenance, n in by_provenance.items())


def shortened(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " ..."


def _cell(text: str | None) -> str:
    if text is None:
        return "(no answer)"
    return _escaped(shortened(text))


def _escaped(text: str) -> str:
    return html.escape(text.replace("\n", " ")).replace("|", "\\|")

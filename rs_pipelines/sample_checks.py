"""What should hold of a sample before anybody learns from it, and of a study's bill. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from rs_gateway.domain.prompts import PromptText
from rs_pipelines.evaluator_sanity import EvaluatorSanity
from rs_pipelines.inputs import input_key
from rs_pipelines.mipro.labels import label_shape
from rs_pipelines.sample import CalibrationSample, Split
from rs_pipelines.sample_draw import MIN_PER_SPLIT
from rs_pipelines.spending import Allowance, Spending

MAX_LABEL_SHARE = 0.9
"""Above it, always giving the commonest answer looks good, and the rare answers decide nothing."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether it holds, in words with the remedy where it does not, and the figures behind them."""

    passed: bool
    words: str
    figures: Mapping[str, int | float | str] = field(default_factory=dict[str, int | float | str])


def short_sides(sides: Mapping[Split, int], *, min_test_rows: int) -> list[str]:
    """The sides with too few rows, in words; empty when a search could start."""
    needed = {Split.TRAIN: MIN_PER_SPLIT, Split.VAL: MIN_PER_SPLIT, Split.TEST: max(MIN_PER_SPLIT, min_test_rows)}
    return [f"{split} has {sides[split]} rows and needs {n}" for split, n in needed.items() if sides[split] < n]


def enough_rows(sample: CalibrationSample, *, min_test_rows: int) -> Finding:
    """Rows on every side: what a search needs at least, and what the gate wants of the test side."""
    sides = {split: len(sample.rows(split)) for split in Split}
    short = short_sides(sides, min_test_rows=min_test_rows)
    words = ", ".join(f"{n} {split}" for split, n in sides.items())
    if short:
        words = f"{'; '.join(short)}: label more answers (POST /v1/feedback) or import rows."
    return Finding(not short, words, {split.value: n for split, n in sides.items()})


def kept_apart(sample: CalibrationSample, live: PromptText) -> Finding:
    """No input stands on two sides, and no demo of the live version among the test rows."""
    sides: dict[str, set[Split]] = defaultdict(set)
    for example in sample.examples:
        sides[input_key(example.variables, example.messages)].add(example.split)
    shared = [e.example_id for e in sample.examples if len(sides[input_key(e.variables, e.messages)]) > 1]
    test = {e.example_id for e in sample.rows(Split.TEST)}
    shown = sorted({d.example_id for d in live.demos if d.example_id is not None} & test)
    figures = {"inputs": len(sides), "on_two_sides": len(set(shared)), "live_demos_in_test": len(shown)}
    if not shared and not shown:
        return Finding(True, f"{len(sides)} inputs, each on one side", figures)
    words: list[str] = []
    if shared:
        named = ", ".join(list(dict.fromkeys(shared))[:_SHOWN])
        words.append(
            f"{len(set(shared))} rows have an input that stands on two sides ({named}): import the file again without "
            "`split`, and draw the sample anew."
        )
    if shown:
        words.append(
            f"Demos of the live version are test rows ({', '.join(shown[:_SHOWN])}): publish a version without them "
            "(`route-switch template edit`), for a gain on rows that the prompt quotes would be no proof."
        )
    return Finding(False, " ".join(words), figures)


def balanced(sample: CalibrationSample) -> Finding:
    """No answer is nearly all there is, and every answer of a closed list is on every side."""
    counts = Counter(e.expected for e in sample.examples)
    closed = label_shape([e.expected for e in sample.examples]).closed
    if not closed:
        return Finding(True, f"{len(counts)} different answers: no closed list", {"answers": len(counts)})
    label, n = counts.most_common(1)[0]
    share = n / len(sample.examples)
    absent = [
        f"{label!r} in {split}"
        for split in Split
        for label in sorted(set(closed) - {e.expected for e in sample.rows(split)})
    ]
    figures = {"answers": len(counts), "largest_share": round(share, 3), "absent": len(absent)}
    problems = [f"{label!r} is the answer to {share:.0%} of the rows"] if share > MAX_LABEL_SHARE else []
    problems += [f"there is no {', no '.join(absent[:_SHOWN])}"] if absent else []
    if problems:
        return Finding(False, f"{'; '.join(problems)}: label more of the rare ones.", figures)
    return Finding(True, f"{len(counts)} answers; the commonest, {label!r}, is {share:.0%} of the rows", figures)


def tells_right_from_wrong(sanity: EvaluatorSanity | None) -> Finding:
    """Expected answers score higher than other rows' answers. None: a judge, which is asked about real answers only."""
    if sanity is None:
        return Finding(True, "a judge is not asked here; its calibration says whether it agrees with people")
    figures: dict[str, int | float | str] = {"rows": sanity.n, "right": round(sanity.mean_right, 4)}
    if sanity.mean_wrong is None:
        return Finding(True, f"expected answers score {sanity.mean_right:.3f}; all rows expect the same", figures)
    figures["wrong"] = round(sanity.mean_wrong, 4)
    words = f"expected answers score {sanity.mean_right:.3f}, those of other rows {sanity.mean_wrong:.3f}"
    if sanity.mean_right > sanity.mean_wrong:
        return Finding(True, words, figures)
    return Finding(False, f"{words}: give the template another `evaluator`, or mend its options.", figures)


def within_budget(spent: Spending, allowance: Allowance) -> Finding:
    """What was paid is not more than what was allowed; where nothing was, it says what was paid."""
    bill = (
        ("calls", spent.calls, allowance.calls, "max_calls"),
        ("tokens", spent.input_tokens + spent.output_tokens, allowance.tokens, "max_tokens"),
        ("usd", round(spent.usd, 6), allowance.usd, "max_cost_usd"),
    )
    figures: dict[str, int | float | str] = {what: paid for what, paid, _, _ in bill}
    figures |= {f"allowed_{what}": limit for what, _, limit, _ in bill if limit is not None}
    over = [
        f"{paid:,} of {limit:,} {what} ({key})" for what, paid, limit, key in bill if limit is not None and paid > limit
    ]
    if over:
        return Finding(
            False, f"over budget: {', '.join(over)}. Give the combination a `max_tokens`, or a margin.", figures
        )
    words = ", ".join(
        f"{paid:,} {what}" + (f" of {limit:,}" if limit is not None else "") for what, paid, limit, _ in bill
    )
    return Finding(True, words, figures)

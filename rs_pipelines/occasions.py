"""When an optimisation is worth starting by itself: enough new labels, a falling live score, or an interval over."""

from collections.abc import Sequence
from dataclasses import dataclass

from rs_gateway.domain.errors import RouteSwitchError
from rs_pipelines import planning
from rs_pipelines.drift import newest_shift
from rs_pipelines.known_examples import mark_of
from rs_pipelines.live_scores import LiveScores
from rs_pipelines.sample import Example, Split, Target
from rs_pipelines.sample_checks import short_sides
from rs_pipelines.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Occasion:
    """Whether to start, and why or why not, in one sentence for a person."""

    start: bool
    why: str


@dataclass(frozen=True, slots=True)
class NewExamples:
    """What there is to learn from, and how much of it no study has seen.

    Attributes:
        new: new or corrected examples since the study that ended last; all of them when there was none.
        short_of: what no run could start without; None when nothing is missing.
    """

    usable: int
    new: int
    since: str | None
    short_of: str | None


def count_new(
    examples: Sequence[Example], *, known: frozenset[str], since: str | None, min_test_rows: int
) -> NewExamples:
    """How many of the examples are not known, and whether there are enough on every side for a run to start.

    Args:
        known: marks of the examples that the last study could have drawn.
        since: that study's id; None when there was none.
    """
    sides = {split: sum(e.split is split for e in examples) for split in Split}
    return NewExamples(
        usable=len(examples),
        new=len({mark_of(e) for e in examples} - known),
        since=since,
        short_of="; ".join(short_sides(sides, min_test_rows=min_test_rows)) or None,
    )


def enough_new(found: NewExamples, *, min_new: int) -> Occasion:
    """Start when at least `min_new` examples are new and nothing is missing."""
    since = "no study yet" if found.since is None else f"since study {found.since}"
    why = f"{found.new} new examples of {found.usable} ({since}), {min_new} wanted"
    if found.new < min_new:
        return Occasion(False, why)
    return Occasion(found.short_of is None, why if found.short_of is None else f"{why}; but {found.short_of}")


def fallen(scores: LiveScores, *, window: int, min_drop: float, after_block: int) -> tuple[Occasion, int]:
    """Start when the live version's scores have fallen, as a block shows that was not looked at before.

    Args:
        after_block: the newest block that was looked at already; -1 for none.

    Returns:
        The occasion, and the newest block.
    """
    shift = newest_shift(scores.values, window=window)
    if shift is None or shift.block <= after_block:
        return Occasion(False, f"{scores.kind}: no {window} new scores yet"), after_block
    words = (
        f"{scores.kind} of version {scores.version}: {shift.before:.3f} -> {shift.recent:.3f} over the last "
        f"{shift.n_recent} scores (p = {shift.p_value:.4f})"
    )
    return Occasion(shift.is_drift(min_drop=min_drop), words), shift.block


def due(found: NewExamples, *, live_changed: bool, since_last_s: float | None, interval_s: float) -> Occasion:
    """Start when the interval is over and there is anything that the last study has not seen.

    Args:
        live_changed: another version went live since that study.
        since_last_s: seconds since a run of the target was last launched; None when none ever was.
    """
    if since_last_s is not None and since_last_s < interval_s:
        return Occasion(False, f"due in {interval_s - since_last_s:.0f} s")
    if found.short_of is not None:
        return Occasion(False, found.short_of)
    if not found.new and not live_changed:
        return Occasion(False, f"nothing new since study {found.since}")
    if found.since is None:
        return Occasion(True, f"no study yet: {found.new} examples")
    return Occasion(True, f"the interval is over: {found.new} new examples" + ", another version" * live_changed)


def new_examples(bench: Workbench, target: Target) -> NewExamples:
    """The target's examples beside those of its last study. Raises RouteSwitchError."""
    examples = planning.gathered(bench, target).examples
    study = bench.studies.latest(target)
    known: frozenset[str] | None = frozenset()
    if study is not None:
        known = bench.known_examples.load(target, study.sample_id)
        if known is None:
            known = frozenset(mark_of(e) for e in bench.samples.load(target, study.sample_id).examples)
    return count_new(
        examples,
        known=known,
        since=None if study is None else study.study_id,
        min_test_rows=bench.settings.evaluation.min_test_rows,
    )


def live_changed(bench: Workbench, target: Target) -> bool:
    """Whether another version is live than the last study started from, and than the one that it led to."""
    study = bench.studies.latest(target)
    if study is None:
        return True
    return bench.live(target).text.content_hash not in (study.live_hash, study.best_hash)


def label_state(bench: Workbench) -> str:
    """Changes whenever there may be new examples: with every ingested row of feedback or traces and every import."""
    manifest = bench.lake.manifest()
    # An imported file is never changed, only followed by another one.
    imports = sum(1 for _ in bench.settings.datasets_path.glob("*/*.jsonl"))
    return f"{manifest.traces.cursor}.{manifest.feedback.cursor}.{imports}"


def registered_targets(bench: Workbench) -> tuple[Target, ...]:
    """The configuration's targets whose template the registry knows."""
    found: list[Target] = []
    for target in bench.targets():
        try:
            bench.live(target)
        except RouteSwitchError:
            continue
        found.append(target)
    return tuple(found)

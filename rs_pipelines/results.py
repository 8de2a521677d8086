"""What the steps of the loop have left behind: samples, studies, comparisons, what was published and what was paid."""

from rs_gateway.domain.errors import RouteSwitchError
from rs_pipelines.comparison import Comparison
from rs_pipelines.mipro.records import LIVE, StudyRecord
from rs_pipelines.publishing import objections
from rs_pipelines.sample import CalibrationSample, Target
from rs_pipelines.spending import Spending
from rs_pipelines.workbench import Workbench


class StepMissingError(RouteSwitchError):
    """A step needs the result of an earlier one that has not run."""

    code = "step_missing"


def study_of(bench: Workbench, target: Target, study_id: str | None = None) -> StudyRecord:
    """The study of that id; None: the one that ended last. Raises StepMissingError."""
    studies = bench.studies
    study = studies.latest(target) if study_id is None else studies.load_study(target, study_id)
    if study is None:
        raise StepMissingError(f"{target.key} has no study yet: materialize `study` first.")
    return study


def comparison_of(bench: Workbench, target: Target, study_id: str | None = None) -> Comparison:
    """The comparison of a study; None: of the one that ended last. Raises StepMissingError."""
    study = study_of(bench, target, study_id)
    comparison = bench.studies.load_comparison(target, study.study_id)
    if comparison is None:
        raise StepMissingError(f"Study {study.study_id} was not compared yet: materialize `comparison` first.")
    return comparison


def published_version(bench: Workbench, comparison: Comparison) -> int | None:
    """The live version, if this comparison made it live; None when it published nothing."""
    live = bench.live(comparison.target)
    return live.number if live.origin.comparison_id == comparison.comparison_id else None


def reasons(bench: Workbench, comparison: Comparison) -> tuple[str, ...]:
    """What stands against publishing a comparison's candidate; the proof in one line when nothing does."""
    target = comparison.target
    study = study_of(bench, target, comparison.study_id)
    if study.best_text is None or published_version(bench, comparison) is not None:
        return comparison.verdict.reasons
    against = objections(comparison, study.best_text, bench.registry.get(target.template_id))
    found = against or comparison.verdict.reasons
    if study.ending == "budget" and study.best == LIVE:
        limits = study.plan.allowance
        settings = {"max_calls": limits.calls, "max_tokens": limits.tokens, "max_cost_usd": limits.usd}
        named = ", ".join(f"`mipro_v2.{name}` ({value:,})" for name, value in settings.items() if value is not None)
        found = (*found, f"The budget ended the search: raise {named} to look at more.")
    return found


def spending(bench: Workbench, study_id: str) -> Spending:
    """What a study and its comparison have paid for, interrupted runs included."""
    cache = bench.open_answers()
    try:
        return cache.spending(study_id)
    finally:
        cache.close()


def sample_of_study(bench: Workbench, target: Target, study_id: str | None = None) -> CalibrationSample:
    """The rows of a study; None: of the one that ended last. Raises StepMissingError, StoreError."""
    return bench.samples.load(target, study_of(bench, target, study_id).sample_id)


def latest_sample(bench: Workbench, target: Target) -> CalibrationSample:
    """The target's sample that was drawn last. Raises StepMissingError."""
    sample = bench.samples.latest(target)
    if sample is None:
        raise StepMissingError(f"{target.key} has no calibration sample yet: materialize `calibration_sample` first.")
    return sample

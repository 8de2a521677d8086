"""Studies at a glance: what each searched, what it found, and what became of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rs_gateway.domain.errors import RouteSwitchError, StoreError
from rs_gateway.domain.ports import PromptRegistry
from rs_gateway.domain.publication import Action
from rs_pipelines.comparison import Comparison
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.spending import Spending
from rs_pipelines.studies import StudyFiles


class StudyNotFoundError(RouteSwitchError):
    """No study has that id, or several begin so."""

    code = "study_not_found"


@dataclass(frozen=True, slots=True)
class StudyLine:
    """One study.

    Attributes:
        state: `searching` also where it was interrupted and may go on; `searched`: not compared yet.
        calls, usd: of the search. comparison_calls, comparison_usd: of what was run with its prompts after the search,
            by `optimize` or `find-best-model`; None where the answer cache that counted them is not there any more.
            No dollars are None as well: nothing is booked on a model whose price is not known.
        live_value, best_value: means over validation rows; gain, interval: on the held-out rows, None before that.
        published_version: the version that its comparison made live at some time.
    """

    study_id: str
    template_id: str
    model: str
    started_at: str
    state: Literal["searching", "searched", "compared", "published"]
    seed: int
    evaluations: int
    calls: int
    usd: float | None
    comparison_calls: int | None
    comparison_usd: float | None
    live_value: float | None
    best_value: float | None
    gain: float | None
    interval: tuple[float, float] | None
    published_version: int | None


def study_lines(
    studies: StudyFiles,
    registry: PromptRegistry,
    *,
    spending: Callable[[str], Spending],
    template_id: str | None = None,
) -> list[StudyLine]:
    """All studies that can be read, or those of a template, in the order of their start.

    Args:
        spending: study id -> everything that was booked on it; `Spending()` where that is not known.
    Raises:
        RegistryError, StoreError: of `spending` too.
    """
    published = _published(registry)
    lines = [
        _line(study, _comparison_of(studies, study), published, spending(study.study_id))
        for study in studies.readable()
        if template_id in (None, study.target.template_id)
    ]
    return sorted(lines, key=lambda line: line.started_at)


def find_study(stores: Sequence[StudyFiles], study_id: str) -> tuple[StudyRecord, Comparison | None]:
    """The study whose id is, or alone begins with, `study_id`, and its comparison, from the first store that has it.

    Raises:
        StudyNotFoundError: there is none, or there are several.
    """
    matching: dict[str, tuple[StudyFiles, StudyRecord]] = {}
    for store in stores:
        for study in store.readable():
            if study.study_id.startswith(study_id):
                matching.setdefault(study.study_id, (store, study))
    found = list(matching.values())
    if not found:
        raise StudyNotFoundError(
            f"There is no study {study_id!r} that can be read: `route-switch study list` names all that there are."
        )
    if len(found) > 1:
        raise StudyNotFoundError(
            f"{len(found)} studies begin with {study_id!r}: "
            f"{', '.join(study.study_id for _, study in found[:10])}. Write more of the one that you mean."
        )
    store, study = found[0]
    return study, store.load_comparison(study.target, study.study_id)


def published_version(registry: PromptRegistry, comparison: Comparison) -> int | None:
    """The version that a comparison made live at some time, here or where its package comes from."""
    published = _published(registry).get(comparison.comparison_id)
    return published if published is not None else _brought(registry).get(comparison.comparison_id)


def _comparison_of(studies: StudyFiles, study: StudyRecord) -> Comparison | None:
    try:
        return studies.load_comparison(study.target, study.study_id)
    except StoreError:  # which is named among the faults
        return None


def _published(registry: PromptRegistry) -> dict[str, int]:
    """Comparison id -> the version that it made live."""
    return {
        change.comparison_id: change.version
        for registered in registry.load().templates.values()
        for change in registered.history
        if change.action is Action.PUBLISH and change.comparison_id is not None and change.version is not None
    }


def _brought(registry: PromptRegistry) -> dict[str, int]:
    """Comparison id -> the version that names it as its proof."""
    return {
        version.origin.comparison_id: version.number
        for registered in registry.load().templates.values()
        for version in registered.versions.values()
        if version.origin.comparison_id is not None
    }


def _line(study: StudyRecord, comparison: Comparison | None, published: dict[str, int], booked: Spending) -> StudyLine:
    version = None if comparison is None else published.get(comparison.comparison_id)
    if comparison is None:
        state = "searched" if study.finished else "searching"
    else:
        state = "compared" if version is None else "published"
    verdict = None if comparison is None else comparison.verdict
    # What a search that goes on has booked since it was last saved is its own.
    counted = Spending(study.calls, usd=study.usd) if state == "searching" else booked
    known = counted.calls >= study.calls
    return StudyLine(
        study_id=study.study_id,
        template_id=study.target.template_id,
        model=study.target.model,
        started_at=study.started_at,
        state=state,
        seed=study.seed,
        evaluations=len(study.trials),
        calls=study.calls,
        usd=study.usd or None,
        comparison_calls=counted.calls - study.calls if known else None,
        comparison_usd=(max(0.0, counted.usd - study.usd) or None) if known else None,
        live_value=study.live_value,
        best_value=study.best_value,
        gain=None if verdict is None else verdict.mean_candidate - verdict.mean_live,
        interval=None if verdict is None else (verdict.interval_low, verdict.interval_high),
        published_version=version,
    )

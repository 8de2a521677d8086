"""The studies and comparisons behind a template's versions: which there are, and redacted copies of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rs_gateway.domain.prompts import Demo, PromptText
from rs_gateway.domain.redaction import Redactor
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_pipelines.comparison import Comparison
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.packages.format import STUDIES_DIR
from rs_pipelines.sample import Target
from rs_pipelines.studies import StudyFiles


def imported_records(data: Path, template_id: str) -> list[Path]:
    """Folders with the records of the packages that were imported for a template."""
    return sorted(p for p in (data / "packages" / template_id).glob("*") if p.is_dir() and not p.name.startswith("."))


def imported_studies(data: Path) -> list[StudyFiles]:
    """The studies of every package that was imported, template by template."""
    templates = sorted(p.name for p in (data / "packages").glob("*") if p.is_dir())
    folders = (folder / STUDIES_DIR for template_id in templates for folder in imported_records(data, template_id))
    return [StudyFiles(folder) for folder in folders if folder.is_dir()]


def study_stores(data: Path, own: StudyFiles, template_id: str) -> list[StudyFiles]:
    """Where studies of a template may lie: those made here, then those that came with packages."""
    folders = (folder / STUDIES_DIR for folder in imported_records(data, template_id))
    return [own, *(StudyFiles(folder) for folder in folders if folder.is_dir())]


@dataclass(frozen=True, slots=True)
class StudyBehind:
    """A study that a version names, where it lies; its record, its comparison, or both are there."""

    store: StudyFiles
    target: Target
    study_id: str
    study: StudyRecord | None
    comparison: Comparison | None


def studies_behind(registered: RegisteredTemplate, stores: Sequence[StudyFiles]) -> Iterator[StudyBehind]:
    """Each study that a version names, as far as it is there. Raises StoreError."""
    named = {
        (Target(registered.template.template_id, version.model), version.origin.study_id): None
        for version in registered.versions.values()
        if version.model is not None and version.origin.study_id is not None
    }
    for target, study_id in named:
        for store in stores:
            study, comparison = store.load_study(target, study_id), store.load_comparison(target, study_id)
            if study is not None or comparison is not None:
                yield StudyBehind(store, target, study_id, study, comparison)
                break


def write_study(folder: Path, behind: StudyBehind, redactor: Redactor | None) -> None:
    """Write its record and its comparison under `folder`, each as StudyFiles has it, redacted.

    A comparison in which something was redacted no longer has the content that its id stands for: it is a record to
    be read, and no proof.
    """
    files = StudyFiles(folder)
    study, comparison = behind.study, behind.comparison
    if study is not None:
        files.save_study(study if redactor is None else _redacted_study(study, redactor))
    if comparison is not None:
        redacted = comparison if redactor is None else _redacted_comparison(comparison, redactor)
        if redacted == comparison:
            behind.store.copy_comparison(behind.target, behind.study_id, to=files)
        else:
            files.save_comparison(redacted)


def _redacted_study(study: StudyRecord, redactor: Redactor) -> StudyRecord:
    return replace(
        study,
        live_text=_redacted_text(study.live_text, redactor),
        best_text=None if study.best_text is None else _redacted_text(study.best_text, redactor),
        instructions=tuple(replace(i, text=redactor.text(i.text)) for i in study.instructions),
        demo_sets=tuple(replace(s, demos=_redacted_demos(s.demos, redactor)) for s in study.demo_sets),
    )


def _redacted_comparison(comparison: Comparison, redactor: Redactor) -> Comparison:
    rows = tuple(
        replace(
            row,
            expected=redactor.text(row.expected),
            live_output=None if row.live_output is None else redactor.text(row.live_output),
            candidate_output=None if row.candidate_output is None else redactor.text(row.candidate_output),
        )
        for row in comparison.rows
    )
    labels = tuple(replace(label, label=redactor.text(label.label)) for label in comparison.by_label)
    return replace(comparison, rows=rows, by_label=labels)


def _redacted_text(text: PromptText, redactor: Redactor) -> PromptText:
    user = None if text.user is None else redactor.text(text.user)
    return replace(
        text, instruction=redactor.text(text.instruction), user=user, demos=_redacted_demos(text.demos, redactor)
    )


def _redacted_demos(demos: Sequence[Demo], redactor: Redactor) -> tuple[Demo, ...]:
    return tuple(replace(d, user=redactor.text(d.user), assistant=redactor.text(d.assistant)) for d in demos)


def is_changed_by(text: PromptText, redactor: Redactor) -> bool:
    """Whether a version's text holds something that the rules would take out."""
    return _redacted_text(text, redactor) != text

"""From a package into the stores of this gateway: all of it or nothing, and nothing of it live.

What can be seen of an import comes in this order: the package's records, its labelled rows, its figures, and last, in
one step of the registry, its versions. Until that step an import can be taken back, and it is: at once when something
goes wrong, by the next import when the process was killed. A journal says how.
"""

import shutil
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import msgspec

from rs_gateway.domain.errors import (
    ConfigurationError,
    RegistryError,
    StoreError,
    TemplateExistsError,
    TemplateNotFoundError,
)
from rs_gateway.domain.evaluation import names_python
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.domain.registered_template import RegisteredTemplate, number_drafts
from rs_gateway.domain.stats import StatsRow
from rs_gateway.wiring import open_template_figures
from rs_pipelines.dataset_file import DatasetFile
from rs_pipelines.datasets import ImportReport
from rs_pipelines.durable_files import sync_path, temporary_for, unwritable, write_durably
from rs_pipelines.evaluators.registry import check_template
from rs_pipelines.inputs import normal_text
from rs_pipelines.labelled_rows import LabelledRow
from rs_pipelines.packages.content import PackageContent, opened_package
from rs_pipelines.packages.format import ORIGINAL_VERSION, Limits, PackageError, Watch, unwatched
from rs_pipelines.workbench import Workbench

_JOURNAL, _LOCK, _STAGING = ".import.json", ".lock", ".staging-"
_LOCK_TIMEOUT_S = 30.0
_SHORT_DIGEST = 16


class FiguresExistError(StoreError):
    """The store has figures of this template already."""

    code = "figures_exist"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What an import may do.

    Attributes:
        overwrite: whether a template that is known here gets the package's versions as further drafts, its labels in
            place of others for the same inputs, and its figures in place of those that are here.
        restore_analytics: whether the package's live figures come in.
    """

    overwrite: bool = False
    restore_analytics: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        known: whether the template was here before.
        numbers: number that a version has in the package -> its number here; added: those that are new here.
        dataset: what became of the labelled rows; unlabelled: rows that are no labels, which stay in the record.
        figures: rows of live figures that were restored.
        records: where the package itself is kept.
        notes: what a reader should know, in sentences.
    """

    template_id: str
    known: bool
    numbers: dict[int, int]
    added: tuple[int, ...]
    dataset: ImportReport
    unlabelled: int
    figures: int
    records: Path
    notes: tuple[str, ...]


class _Journal(msgspec.Struct, frozen=True):
    """How to take an import back that did not come to its last step."""

    template_id: str
    records: str
    had_records: bool
    added: list[tuple[str, str | None]]
    """Content hash and model of each version that is new here."""
    rows: list[LabelledRow]
    dataset_files: list[str]
    figures: list[StatsRow] | None


def import_package(
    bench: Workbench,
    path: Path,
    options: ImportOptions,
    *,
    limits: Limits = Limits(),  # noqa: B008 it is frozen
    watch: Watch = unwatched,
) -> Imported:
    """Check the package, then bring it in. The gateway may be running; what it serves stays as it is.

    Raises:
        PackageError: the package is no whole, unchanged, harmless one.
        TemplateExistsError, DatasetError, FiguresExistError: it would change what is here, and may not.
        RegistryError, StoreError: a store cannot be written. In every case nothing was changed.
    """
    with _alone(bench) as home, opened_package(path, staging=home, limits=limits, watch=watch) as content:
        template_id = content.template.template_id
        before = _registered(bench, template_id)
        _check_known(before, content, options)
        template, notes = _template(bench, content, before)
        rows = [packed.row for packed in content.rows if packed.is_label]
        dataset = _check_labels(bench, template_id, rows, options)
        versions = list(content.versions)
        numbers, added = (
            number_drafts(before, versions)
            if before is not None
            else ({v.number: v.number for v in versions}, versions)
        )
        figures = content.figures if options.restore_analytics else ()
        records = home / template_id / content.digest[:_SHORT_DIGEST]
        journal = _Journal(
            template_id,
            str(records.relative_to(home)),
            records.exists(),
            [(version.text.content_hash, version.model) for version in added],
            rows,
            bench.datasets.names(template_id),
            _figures(bench, template_id) if options.restore_analytics else None,
        )
        if journal.figures and not options.overwrite:
            raise FiguresExistError(
                f"There are live figures of {template_id!r} here already: leave out --restore-analytics, or pass "
                "--overwrite to have the package's in their place."
            )
        write_durably(home / _JOURNAL, msgspec.json.encode(journal))
        try:
            watch("keeping the package", 0, None)
            if not journal.had_records:
                _keep_records(content, records)
            watch("labelled rows", 0, None)
            if rows:
                dataset = bench.datasets.add(template_id, DatasetFile(str(path), tuple(rows), ()))
            if options.restore_analytics:
                _replace_figures(bench, template_id, figures)
            watch("versions", 0, None)
            bench.registry.add_drafts(template, versions)
        except BaseException:
            recover(bench, home)
            raise
        _forget_journal(home)
    return Imported(
        template_id=template_id,
        known=before is not None,
        numbers=numbers,
        added=tuple(version.number for version in added),
        dataset=dataset,
        unlabelled=len(content.rows) - len(rows),
        figures=len(figures),
        records=records,
        notes=(*content.notes, *notes),
    )


def recover(bench: Workbench, home: Path) -> None:
    """End what the journal tells of: take the import back, unless its last step was done. The lock is held."""
    path = home / _JOURNAL
    try:
        journal = msgspec.json.decode(path.read_bytes(), type=_Journal)
    except FileNotFoundError:
        return
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read ({error}): restore it from a backup, or move it away.") from error
    if not _is_done(bench, journal):
        if not journal.had_records:
            shutil.rmtree(home / journal.records, ignore_errors=True)
        if journal.rows:
            bench.datasets.take_back(journal.template_id, journal.rows, keep=journal.dataset_files)
        if journal.figures is not None:
            _replace_figures(bench, journal.template_id, journal.figures)
    _forget_journal(home)


def _figures(bench: Workbench, template_id: str) -> list[StatsRow]:
    with closing(open_template_figures(bench.settings)) as store:
        return store.read(template_id)


def _replace_figures(bench: Workbench, template_id: str, rows: Sequence[StatsRow]) -> None:
    with closing(open_template_figures(bench.settings)) as store:
        store.replace(template_id, rows)


def _forget_journal(home: Path) -> None:
    (home / _JOURNAL).unlink()
    sync_path(home)


def _is_done(bench: Workbench, journal: _Journal) -> bool:
    registered = _registered(bench, journal.template_id)
    there = set() if registered is None else {(v.text.content_hash, v.model) for v in registered.versions.values()}
    return bool(journal.added) and there.issuperset(journal.added)


@contextmanager
def _alone(bench: Workbench) -> Generator[Path]:
    """The folder of packages, held for one import; what a killed one left there is cleared away first."""
    home = bench.data / "packages"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / _LOCK, timeout=_LOCK_TIMEOUT_S):
            recover(bench, home)
            temporary_for(home / _JOURNAL).unlink(missing_ok=True)
            for left in home.glob(f"{_STAGING}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield home
    except filelock.Timeout as error:
        raise StoreError(f"Another import into {home} is under way: try again when it has ended.") from error
    except OSError as error:
        raise StoreError(f"Nothing was imported: {unwritable(bench.data, error)}") from error


def _registered(bench: Workbench, template_id: str) -> RegisteredTemplate | None:
    try:
        return bench.registry.get(template_id)
    except TemplateNotFoundError:
        return None


def _check_known(before: RegisteredTemplate | None, content: PackageContent, options: ImportOptions) -> None:
    if options.restore_analytics and not content.figures:
        raise PackageError("The package has no live figures to restore: export it with --include-analytics.")
    if before is not None and not options.overwrite:
        raise TemplateExistsError(
            f"Template {before.template.template_id!r} is registered here already. --overwrite adds the package's "
            "versions as further drafts and lets its labels replace others for the same inputs; what is live stays."
        )


def _template(
    bench: Workbench, content: PackageContent, before: RegisteredTemplate | None
) -> tuple[PromptTemplate, list[str]]:
    """The template's facts as they come in, and what is to be said about them."""
    packed, notes = content.template, list[str]()
    if before is not None:
        own = before.template
        differing = [name for name in ("name", "variables", "evaluator") if getattr(own, name) != getattr(packed, name)]
        if differing:
            notes.append(f"The package has another {' and '.join(differing)}; what is registered here stays.")
        return own, notes
    if packed.default:
        packed = replace(packed, default=False)
        notes.append("It was its gateway's default template; here it is not, unless you say `default: true`.")
    if names_python(packed.evaluator):
        packed = replace(packed, evaluator={})
        notes.append("Its evaluator names Python code, which a package may not: name it in template.yaml yourself.")
    try:
        check_template(packed, bench.settings)
    except ConfigurationError as error:
        notes.append(f"Its evaluator cannot be used here: {error} Change it in template.yaml before you optimise.")
    return packed, notes


def _check_labels(
    bench: Workbench, template_id: str, rows: Sequence[LabelledRow], options: ImportOptions
) -> ImportReport:
    """Raises RegistryError: without `overwrite`, another label is known here for one of the inputs."""
    known = {row.key: row for row in bench.datasets.rows(template_id)}
    other = [r for r in rows if r.key in known and normal_text(known[r.key].expected) != normal_text(r.expected)]
    if other and not options.overwrite:
        raise RegistryError(
            f"{len(other)} inputs of the package have another label here: pass --overwrite to have the package's in "
            "their place."
        )
    return ImportReport(0, 0, len(rows), ())


def _keep_records(content: PackageContent, records: Path) -> None:
    """Move the staged package to where it is kept."""
    for other_templates in content.folder.rglob("*.duckdb"):
        other_templates.unlink()
    if content.version == ORIGINAL_VERSION and content.rows:
        lines = [
            {"variables": packed.row.variables, "messages": packed.row.messages, "expected": packed.row.expected}
            for packed in content.rows
        ]
        unchecked = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        (content.folder / "unchecked.jsonl").write_bytes(unchecked)
    for path in [*content.folder.rglob("*"), content.folder]:
        sync_path(path)
    records.parent.mkdir(parents=True, exist_ok=True)
    content.folder.rename(records)
    sync_path(records.parent)

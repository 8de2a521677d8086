"""A package, looked at from end to end before anything is done with it."""

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from rs_gateway.adapters.file_schema import MARK_FILE
from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.adapters.stats_rows import encoded
from rs_gateway.domain.errors import RouteSwitchError, shown
from rs_gateway.domain.prompts import PromptTemplate, PromptVersion, check_template_id
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.domain.stats import ALL_TIME, HOUR_S, MINUTE_S, StatsRow
from rs_gateway.yaml_text import YamlTextError, parse_yaml
from rs_pipelines.packages.archive import stage
from rs_pipelines.packages.dataset import PackedRow, read_dataset
from rs_pipelines.packages.format import (
    BUNDLE_FILE,
    LOGS_FILE,
    MANIFEST_FILE,
    ORIGINAL_VERSION,
    PACKAGE_FILE,
    PROMPTS_DIR,
    STUDIES_DIR,
    VERSION,
    Limits,
    PackageError,
    PackageFacts,
    Watch,
    dataset_files,
    figures_file,
    read_facts,
    read_text_file,
    sha256_of,
    unwatched,
)
from rs_pipelines.packages.original import read_original
from rs_pipelines.sample import Target
from rs_pipelines.studies import StudyFiles

_MAX_LINE_BYTES = 64 * 2**20
_LARGEST = 2**53
_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""What JSON can do wrong; bytes that are no text are a ValueError."""


class _Record(msgspec.Struct):
    """What studies and comparisons have in common."""

    target: Target
    study_id: str


@dataclass(frozen=True, slots=True)
class PackageContent:
    """What a package holds, all of it checked.

    Attributes:
        version: of the format. digest: stands for the whole content.
        rows: labelled or not, see PackedRow.is_label.
        figures: live figures of this template; empty where the package has none.
        exported_at: as the package says.
        counts: how much of everything.
        notes: what a reader should know, in sentences.
        folder: the staged files; gone with the block that opened it.
    """

    version: str
    digest: str
    template: PromptTemplate
    versions: tuple[PromptVersion, ...]
    rows: tuple[PackedRow, ...]
    figures: tuple[StatsRow, ...]
    exported_at: str
    counts: Mapping[str, int]
    notes: tuple[str, ...]
    folder: Path


@contextmanager
def opened_package(
    path: Path,
    *,
    staging: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 it is frozen
    watch: Watch = unwatched,
) -> Generator[PackageContent]:
    """A checked copy of the package at `path`, for the length of the block.

    Args:
        staging: folder for the copy; None: the system's for temporary files.

    Raises:
        PackageError: it is no whole, unchanged, harmless package.
        StoreError: there is no room for the copy.
    """
    if path.is_dir() and not (path / PACKAGE_FILE).exists():
        raise PackageError(f"{path} is no package: it has no {PACKAGE_FILE}. Name what `package export` wrote.")
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=staging) as name:
        folder = Path(name) / "package"
        folder.mkdir()
        stage(path, folder, limits, watch=watch)
        yield _read(folder, limits, watch)


def _read(folder: Path, limits: Limits, watch: Watch) -> PackageContent:
    content = read_text_file(folder / PACKAGE_FILE, limits)
    for path in folder.rglob("*.yaml"):
        _refuse_aliases(path, limits)
    try:
        head = parse_yaml(content.decode())
    except (YamlTextError, UnicodeDecodeError) as error:
        raise PackageError(f"{PACKAGE_FILE}: {error}. The package is damaged: get it again.") from error
    version = str(head.get("version")) if isinstance(head, dict) else None
    if version == ORIGINAL_VERSION and isinstance(head, dict) and not {"files", "sha256"} & head.keys():
        return _read_original(folder, limits)
    if version not in (VERSION, ORIGINAL_VERSION, "None") and isinstance(head, dict) and "files" in head:
        raise PackageError(
            f"The package has version {shown(version)} and this program reads {ORIGINAL_VERSION} and {VERSION}: "
            "upgrade route-switch, or get the package again if it was damaged."
        )
    return _read_current(folder, limits, watch)


def _read_current(folder: Path, limits: Limits, watch: Watch) -> PackageContent:
    facts = read_facts(folder / PACKAGE_FILE, limits)
    template_id = _checked_id(facts.template_id)
    _check_files(folder, facts, template_id, watch)
    watch("reading", 0, None)
    registered = _registered(folder, template_id)
    database, _ = dataset_files(template_id)
    rows = read_dataset(folder / database, template_id)
    n_traces, n_feedback = _check_logs(folder / LOGS_FILE, template_id)
    figures = _read_figures(folder / figures_file(template_id), template_id)
    n_studies, n_comparisons = _check_studies(folder, facts, template_id)
    counts = {
        "versions": len(registered.versions),
        "changes": len(registered.history),
        "studies": n_studies,
        "comparisons": n_comparisons,
        "dataset_rows": len(rows),
        "traces": n_traces,
        "feedback": n_feedback,
        "figures": len(figures),
    }
    wrong = [f"{name} ({n}, not {counts[name]})" for name, n in facts.counts.model_dump().items() if n != counts[name]]
    if wrong:
        raise PackageError(f"{PACKAGE_FILE} counts otherwise than its files hold: {', '.join(wrong)}.")
    matching = ", ".join(map(str, facts.redaction.versions_with_matches))
    return PackageContent(
        version=VERSION,
        digest=facts.sha256,
        template=registered.template,
        versions=tuple(registered.versions.values()),
        rows=tuple(rows),
        figures=tuple(figures),
        exported_at=facts.exported_at,
        counts=counts,
        notes=(f"Versions {matching} hold text that the exporter's redaction rules would take out.",)
        if matching
        else (),
        folder=folder,
    )


def _read_original(folder: Path, limits: Limits) -> PackageContent:
    found = read_original(folder, limits)
    return PackageContent(
        version=ORIGINAL_VERSION,
        digest=found.digest,
        template=found.template,
        versions=(found.version,),
        rows=tuple(found.rows),
        figures=(),
        exported_at=found.exported_at,
        counts={"versions": 1, "dataset_rows": len(found.rows), "traces": found.n_logs},
        notes=found.notes,
        folder=folder,
    )


def _checked_id(template_id: str) -> str:
    try:
        return check_template_id(template_id)
    except RouteSwitchError as error:
        raise PackageError(f"{PACKAGE_FILE}: {error}") from error


def _check_files(folder: Path, facts: PackageFacts, template_id: str, watch: Watch) -> None:
    """The files are those of the list, with its sizes and sums, and those that a package has."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {PACKAGE_FILE}
    if there != facts.files.keys():
        missing, extra = sorted(facts.files.keys() - there), sorted(there - facts.files.keys())
        said = f"lacks {shown(missing[0])}" if missing else f"has {shown(extra[0])}, which its list does not name"
        raise PackageError(f"The package {said}: get it again, or export again.")
    checked, total = 0, sum(file.bytes for file in facts.files.values())
    for name, file in facts.files.items():
        watch("checking", checked, total)
        checked += file.bytes
        if (folder / name).stat().st_size != file.bytes or sha256_of(folder / name) != file.sha256:
            raise PackageError(f"{name} was changed or damaged since the export: get the package again.")
    own = f"{PROMPTS_DIR}/{template_id}/"
    database, parquet = dataset_files(template_id)
    needed = {MANIFEST_FILE, f"{own}template.yaml", f"{own}live.yaml", database, parquet, LOGS_FILE}
    lacking = sorted(needed - there)
    if lacking:
        raise PackageError(f"The package lacks {lacking[0]}.")
    for name in there - needed - {BUNDLE_FILE, figures_file(template_id)}:
        if not name.startswith((f"{own}versions/", f"{STUDIES_DIR}/")):
            raise PackageError(f"A package has no file {shown(name)}.")


def _registered(folder: Path, template_id: str) -> RegisteredTemplate:
    try:
        return PromptFiles(folder / PROMPTS_DIR).get(template_id)
    except RouteSwitchError as error:
        raise PackageError(str(error).replace(f"{folder}/", "")) from error


def _refuse_aliases(path: Path, limits: Limits) -> None:
    """A few lines of YAML with aliases can stand for more than any memory holds; we write none."""
    try:
        text = read_text_file(path, limits).decode()
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise PackageError(f"{path.name} uses YAML aliases, which no package has.")
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"{path.name} is no YAML: {' '.join(str(error).split())}.") from error


def _check_logs(path: Path, template_id: str) -> tuple[int, int]:
    """How many traces and how much feedback."""
    n_traces, n_feedback = 0, 0
    for line in lines_of(path):
        trace = _decoded(line, dict[str, Any], path.name)
        said = trace.get("feedback")
        if trace.get("template_id") != template_id or not isinstance(said, list):
            raise PackageError(f"{path.name} holds something else than traces of {template_id!r}.")
        n_traces, n_feedback = n_traces + 1, n_feedback + len(said)
    return n_traces, n_feedback


def _read_figures(path: Path, template_id: str) -> list[StatsRow]:
    rows = [_decoded(line, StatsRow, path.name) for line in lines_of(path)] if path.exists() else []
    for row in rows:
        if row.key.template_id != template_id or row.period_s not in (MINUTE_S, HOUR_S, ALL_TIME):
            raise PackageError(f"{path.name} holds figures that are not {template_id!r}'s.")
        if not (0 <= row.start_s < _LARGEST and 0 <= (row.key.version or 0) < _LARGEST and _is_storable(row)):
            raise PackageError(f"{path.name} holds numbers that are too large.")
    if len({(row.period_s, row.start_s, row.key) for row in rows}) < len(rows):
        raise PackageError(f"{path.name} has figures of the same time and key twice.")
    return rows


def _is_storable(row: StatsRow) -> bool:
    try:
        encoded(row.figures)
    except _UNREADABLE:
        return False
    return True


def _check_studies(folder: Path, facts: PackageFacts, template_id: str) -> tuple[int, int]:
    files, found = StudyFiles(folder / STUDIES_DIR), [0, 0]
    for name in facts.files:
        if not name.startswith(f"{STUDIES_DIR}/") or name == f"{STUDIES_DIR}/{MARK_FILE}":
            continue
        _, _, rest = name.partition("/")
        kind = rest.rsplit("/", 1)[-1]
        if kind not in ("study.json", "comparison.json"):
            raise PackageError(f"A package has no file {shown(name)}.")
        record: _Record = _decoded((folder / name).read_bytes(), _Record, name)
        target = record.target
        if target.template_id != template_id or rest != f"{target.key}/{record.study_id}/{kind}":
            raise PackageError(f"{name} is a record of something else.")
        try:
            load = files.load_study if kind == "study.json" else files.load_comparison
            load(target, record.study_id)
        except (RouteSwitchError, KeyError, TypeError, *_UNREADABLE) as error:
            raise PackageError(f"{name}: {error}") from error
        found[kind == "comparison.json"] += 1
    return found[0], found[1]


def lines_of(path: Path) -> Sequence[bytes]:
    """The lines of a JSONL file. Raises PackageError: one is too long."""
    lines: list[bytes] = []
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES + 1):
            if len(line) > _MAX_LINE_BYTES:
                raise PackageError(f"{path.name} has a line of more than {_MAX_LINE_BYTES:,} bytes.")
            lines.append(line)
    return lines


def _decoded(line: bytes, kind: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(line, type=kind)
    except _UNREADABLE as error:
        raise PackageError(f"{name} holds a line that cannot be read: {error}.") from error

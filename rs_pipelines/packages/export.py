"""From the stores of one gateway to a package of one template, while the gateway goes on writing."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version as distribution_version
from pathlib import Path

import msgspec
import yaml

from rs_gateway.adapters.prompt_yaml import dump_live, dump_template, dump_version
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.prompts import ANY_MODEL, PromptVersion
from rs_gateway.domain.redaction import Redactor
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.wiring import open_template_figures, open_trace_reader
from rs_pipelines.durable_files import folder_beside, sync_path
from rs_pipelines.packages.archive import is_archive, pack
from rs_pipelines.packages.dataset import rows_of, write_dataset
from rs_pipelines.packages.format import (
    BUNDLE_FILE,
    LOGS_FILE,
    MANIFEST_FILE,
    PACKAGE_FILE,
    PROMPTS_DIR,
    STUDIES_DIR,
    VERSION,
    Counts,
    PackageFacts,
    Watch,
    dataset_files,
    figures_file,
    read_facts,
    seal,
    sha256_of,
    unwatched,
)
from rs_pipelines.packages.format import Limits as _Limits
from rs_pipelines.packages.git_history import need_git, write_bundle
from rs_pipelines.packages.logs import recent_logs
from rs_pipelines.packages.provenance import is_changed_by, studies_behind, study_stores, write_study
from rs_pipelines.workbench import Workbench


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What goes into a package.

    Attributes:
        logs_limit: newest traces at most; 0 for none.
        git: whether the versions go in as a git history too.
    """

    logs_limit: int = 100
    include_analytics: bool = False
    git: bool = False


def export_package(
    bench: Workbench,
    template_id: str,
    place: Path,
    options: ExportOptions,
    *,
    now: datetime,
    watch: Watch = unwatched,
) -> PackageFacts:
    """Write the package to `place`: a directory that is not there yet or empty, or a new `.tar.zst` file.

    It appears whole or not at all. Every store is read in one short transaction or by immutable files, as of this
    moment; the gateway and the pipelines may be writing.

    Raises:
        ConfigurationError: `place` cannot be written, or there is no git. RedactionError: a rule of the operator's
        failed. RegistryError, StoreError: a store cannot be read, or another export to `place` is under way.
    """
    registered = bench.registry.get(template_id)
    if options.git:
        need_git()
    _check_name(place)
    try:
        with folder_beside(place) as beside:
            _check_free(place)  # now that what a killed export left beside it is gone
            folder = beside / "package"
            folder.mkdir()
            facts = _write(bench, registered, folder, options, now, watch)
            if is_archive(place):
                packed = beside / place.name
                pack(folder, packed, watch=watch)
                # Unlike a rename, it never overwrites.
                place.hardlink_to(packed)
            else:
                for path in [*folder.rglob("*"), folder]:
                    sync_path(path)
                if place.exists():
                    place.rmdir()
                folder.rename(place)
            sync_path(place.parent)
    except OSError as error:
        raise ConfigurationError(
            f"The package cannot be written to {place} ({error.strerror or error}): name another place."
        ) from error
    return facts


def _check_name(place: Path) -> None:
    if not place.name:
        raise ConfigurationError(f"{place} has no name of its own: name a folder or a file that is not there yet.")
    if place.name.endswith((".zip", ".gz", ".tgz", ".zst", ".tar")) and not is_archive(place):
        raise ConfigurationError(f"{place}: packages are directories or .tar.zst files; name one of these.")


def _check_free(place: Path) -> None:
    if place.is_symlink() or (
        place.exists() and not (place.is_dir() and not is_archive(place) and not any(place.iterdir()))
    ):
        raise ConfigurationError(f"{place} is there already, and an export overwrites nothing: name another place.")


def _write(
    bench: Workbench,
    registered: RegisteredTemplate,
    folder: Path,
    options: ExportOptions,
    now: datetime,
    watch: Watch,
) -> PackageFacts:
    template_id, redactor = registered.template.template_id, bench.redactor
    if redactor is not None:
        registered = _with_redacted_words(registered, redactor)
    _put(folder / MANIFEST_FILE, yaml.safe_dump(_manifest(bench, registered), sort_keys=False, allow_unicode=True))
    _write_versions(registered, folder / PROMPTS_DIR / template_id)
    n_studies, n_comparisons = 0, 0
    watch("studies", 0, None)
    for behind in studies_behind(registered, study_stores(bench.data, bench.studies, template_id)):
        write_study(folder / STUDIES_DIR, behind, redactor)
        n_studies += behind.study is not None
        n_comparisons += behind.comparison is not None
    (folder / STUDIES_DIR / ".schema.lock").unlink(missing_ok=True)
    watch("labelled rows", 0, None)
    rows = rows_of(registered, lake=bench.lake, datasets=bench.datasets, redactor=redactor)
    database, parquet = dataset_files(template_id)
    write_dataset(rows, template_id, database=folder / database, parquet=folder / parquet)
    with closing(open_trace_reader(bench.settings)) as reader:
        logs = recent_logs(reader, template_id, limit=options.logs_limit, redactor=redactor, watch=watch)
    _put(folder / LOGS_FILE, "".join(f"{line}\n" for line in logs.lines))
    n_figures = 0
    if options.include_analytics:
        with closing(open_template_figures(bench.settings)) as store:
            figures = store.read(template_id)
        _put(folder / figures_file(template_id), "".join(f"{msgspec.json.encode(row).decode()}\n" for row in figures))
        n_figures = len(figures)
    if options.git:
        watch("git history", 0, None)
        write_bundle(registered, folder / BUNDLE_FILE)
    counts = Counts(
        versions=len(registered.versions),
        changes=len(registered.history),
        studies=n_studies,
        comparisons=n_comparisons,
        dataset_rows=len(rows),
        traces=len(logs.lines),
        feedback=logs.n_feedback,
        figures=n_figures,
    )
    watch("checksums", 0, None)
    content = {
        "version": VERSION,
        "template_id": template_id,
        "exported_at": now.isoformat(timespec="seconds"),
        "exported_by": f"route-switch {distribution_version('route-switch')}",
        "counts": counts.model_dump(),
        "redaction": _redaction(registered, redactor),
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        },
    }
    (folder / PACKAGE_FILE).write_bytes(seal(content))
    return read_facts(folder / PACKAGE_FILE, _Limits())


def _write_versions(registered: RegisteredTemplate, folder: Path) -> None:
    """The template as the registry has it, so that a registry can be pointed at the package."""
    (folder / "versions").mkdir(parents=True)
    (folder / "template.yaml").write_bytes(dump_template(registered.template))
    (folder / "live.yaml").write_bytes(dump_live(registered))
    for number, version in registered.versions.items():
        (folder / "versions" / f"{number:04d}.yaml").write_bytes(dump_version(version))


def _manifest(bench: Workbench, registered: RegisteredTemplate) -> Mapping[str, object]:
    """The template at a glance, with the keys of the original system's manifests."""
    template = registered.template
    live = registered.live(ANY_MODEL) or registered.versions[max(registered.versions)]
    combinations = [c for c in bench.settings.gateway.combinations if c.template_id == template.template_id]
    first = next((c for c in combinations if c.enabled), None)
    times = sorted([*(v.origin.at for v in registered.versions.values()), *(c.at for c in registered.history)])
    return {
        "id": template.template_id,
        "name": template.name,
        "prompt": live.text.instruction,
        "variables": list(template.variables),
        "default_model": None if first is None else first.model,
        "default_provider": None if first is None else first.provider,
        "metadata": {"version": live.number, "serving": dict(registered.serving)},
        "created_at": times[0],
        "updated_at": times[-1],
    }


def _with_redacted_words(registered: RegisteredTemplate, redactor: Redactor) -> RegisteredTemplate:
    """What people said about versions and publications, redacted. The versions' own texts stay as they are."""

    def told(version: PromptVersion) -> PromptVersion:
        note = version.origin.note
        return version if note is None else replace(version, origin=replace(version.origin, note=redactor.text(note)))

    return replace(
        registered,
        versions={number: told(version) for number, version in registered.versions.items()},
        history=tuple(replace(change, reason=redactor.text(change.reason)) for change in registered.history),
    )


def _redaction(registered: RegisteredTemplate, redactor: Redactor | None) -> Mapping[str, object]:
    if redactor is None:
        return {"rules": [], "versions_with_matches": []}
    matching = [number for number, version in registered.versions.items() if is_changed_by(version.text, redactor)]
    return {"rules": list(redactor.names), "versions_with_matches": sorted(matching)}


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

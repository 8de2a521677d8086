"""Packages of the original system, version 1.0: a prompt, what a model answered, and logs, without checksums.

Their format is documented as: `manifest.yaml` (id, name, prompt, variables, default_model, default_provider, metadata,
created_at, updated_at), `package.yaml` (template_id, exported_at, dataset_file, logs_file, analytics_file,
git_initialized, version), a SQLite file with a table `examples` (id, prompt_id, model, input, output, variables,
success, cost, metadata, created_at), `logs/recent.jsonl`, `analytics/*.duckdb`. How variables are spelled, in which
unit times are and what a log line holds is not documented: several spellings of variables are read, times are kept as
they are, and logs are counted and kept, not understood.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict

from rs_gateway.domain.errors import RouteSwitchError, shown
from rs_gateway.domain.prompts import (
    Origin,
    PromptTemplate,
    PromptText,
    PromptVersion,
    check_template_id,
    check_text,
    check_variables,
)
from rs_pipelines.labelled_rows import LabelledRow
from rs_pipelines.packages.dataset import PackedRow, table_rows
from rs_pipelines.packages.format import (
    MANIFEST_FILE,
    PACKAGE_FILE,
    Limits,
    PackageError,
    check_name,
    read_text_file,
    read_yaml,
    sha256_of,
)

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class OriginalPackage:
    """What a version 1.0 package holds; see PackageContent."""

    digest: str
    template: PromptTemplate
    version: PromptVersion
    rows: list[PackedRow]
    n_logs: int
    exported_at: str
    notes: tuple[str, ...]


class _Package(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    template_id: str
    exported_at: Any = None
    dataset_file: str | None = None
    logs_file: str | None = None
    analytics_file: str | None = None


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str
    name: str | None = None
    prompt: str
    variables: Any = None
    default_model: str | None = None
    default_provider: str | None = None
    created_at: Any = None


def read_original(folder: Path, limits: Limits) -> OriginalPackage:
    """Read a staged version 1.0 package. Raises PackageError."""
    package = read_yaml(read_text_file(folder / PACKAGE_FILE, limits), _Package, PACKAGE_FILE)
    manifest = read_yaml(read_text_file(folder / MANIFEST_FILE, limits), _Manifest, MANIFEST_FILE)
    if package.template_id != manifest.id:
        raise PackageError(
            f"{PACKAGE_FILE} is of {shown(package.template_id)} and {MANIFEST_FILE} of {shown(manifest.id)}: they do "
            "not belong together."
        )
    notes = ["A version 1.0 package has no checksums: whether it was changed since its export cannot be told."]
    template, text = _template(manifest, notes)
    at = str(manifest.created_at or package.exported_at or "unknown")
    note = f"from a version 1.0 package, exported {package.exported_at or 'at an unknown time'}"
    version = PromptVersion(1, text, None, Origin("registered", "the original system", at, note=note))
    rows = _rows(folder, package.dataset_file, template, notes)
    logs = _inside(folder, package.logs_file)
    n_logs = 0
    if logs is not None:
        with logs.open("rb") as file:
            n_logs = sum(1 for line in file if line.strip())
    if package.analytics_file or any(folder.rglob("*.duckdb")):
        notes.append(
            "Its analytics are neither opened nor kept: they hold the figures of every template, not of this one."
        )
    return OriginalPackage(_digest(folder), template, version, rows, n_logs, str(package.exported_at), tuple(notes))


def _template(manifest: _Manifest, notes: list[str]) -> tuple[PromptTemplate, PromptText]:
    declared = _variables(manifest.variables)
    used = list(dict.fromkeys(_PLACEHOLDER.findall(manifest.prompt)))
    variables = declared or used
    if declared and (left := [name for name in used if name not in declared]):
        notes.append(f"{{{left[0]}}} is no variable of its manifest, so it is plain text here.")
    if manifest.default_model is not None:
        where = f" of {manifest.default_provider}" if manifest.default_provider else ""
        notes.append(f"It ran on {manifest.default_model}{where}: a combination in route-switch.yaml says so here.")
    try:
        template = PromptTemplate(
            check_template_id(manifest.id), manifest.name or manifest.id, check_variables(variables), {}
        )
        # The original replaced the placeholders that it knew and left every other brace alone.
        parts = (
            re.split(r"\{(" + "|".join(map(re.escape, variables)) + r")\}", manifest.prompt)
            if variables
            else [manifest.prompt]
        )
        instruction = "".join(
            f"{{{part}}}" if index % 2 else part.replace("{", "{{").replace("}", "}}")
            for index, part in enumerate(parts)
        )
        return template, check_text(PromptText(instruction), template=template)
    except RouteSwitchError as error:
        raise PackageError(f"{MANIFEST_FILE}: {error}") from error


def _variables(value: Any) -> list[str]:
    """Names, from a list of names or of objects with a `name`, or from an object whose keys they are."""
    if value is None:
        return []
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, Mapping):
        return [str(name) for name in value]
    if isinstance(value, list):
        return [str(item["name"]) if isinstance(item, Mapping) and "name" in item else str(item) for item in value]
    raise PackageError(f"{MANIFEST_FILE}: variables: a list of names is expected, not {shown(value)}.")


def _rows(folder: Path, named: str | None, template: PromptTemplate, notes: list[str]) -> list[PackedRow]:
    database = _inside(folder, named)
    if database is None:
        return []
    found: list[PackedRow] = []
    n_unusable = 0
    for cells in table_rows(database, ("input", "output")):
        row = _row(cells, template)
        if row is None:
            n_unusable += 1
        else:
            found.append(PackedRow(row, "captured:original"))
    if found:
        notes.append(
            f"{len(found)} recorded answers are no labels: a model's own past output is not what is right. Those that "
            "you have checked can be imported with `route-switch dataset import`: the records have unchecked.jsonl."
        )
    if n_unusable:
        notes.append(f"{n_unusable} recorded answers are empty, or lack a variable of the template.")
    return found


def _row(cells: Mapping[str, object], template: PromptTemplate) -> LabelledRow | None:
    text, output, given = cells["input"], cells["output"], cells.get("variables")
    if not isinstance(text, str) or not isinstance(output, str) or not output.strip():
        return None
    try:
        values = msgspec.json.decode(given, type=dict[str, Any]) if isinstance(given, str) and given.strip() else {}
    except (msgspec.MsgspecError, RecursionError):
        return None
    if any(name not in values for name in template.variables):
        return None
    variables = {name: str(values[name]) for name in template.variables}
    messages = ({"role": "user", "content": text},) if text.strip() else ()
    if not variables and not messages:
        return None
    return LabelledRow(variables, messages, output)


def _inside(folder: Path, name: str | None) -> Path | None:
    """The staged file that the package names; None where it names none. Raises PackageError: it is not there."""
    if not name:
        return None
    path = folder / check_name(name.removeprefix("./"))
    if not path.is_file():
        raise PackageError(f"{PACKAGE_FILE} names {shown(name)}, which is not in the package.")
    return path


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()

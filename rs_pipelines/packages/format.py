"""What a package of one template is: its files, the sealed list of them, and how large it may be."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rs_gateway.domain.errors import RouteSwitchError, shown
from rs_gateway.yaml_text import YamlTextError, parse_yaml

VERSION, ORIGINAL_VERSION = "2.0", "1.0"
PACKAGE_FILE, MANIFEST_FILE = "package.yaml", "manifest.yaml"
PROMPTS_DIR, STUDIES_DIR = "prompts", "studies"
LOGS_FILE, BUNDLE_FILE = "logs/recent.jsonl", "history.bundle"
ARCHIVE_SUFFIX = ".tar.zst"

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}\Z")
_DEEPEST, _LONGEST = 6, 250
_SEAL = re.compile(rb"sha256: ([0-9a-f]{64})\n\Z")
_SEAL_BYTES = 73


Watch: TypeAlias = Callable[[str, int, int | None], None]
"""Told of a step by name, how much of it is done, and of how much; None where that is not known."""


def unwatched(step: str, done: int, total: int | None) -> None:
    """For who does not look."""


class PackageError(RouteSwitchError):
    """A package is damaged, forged or of a kind that is not read; nothing was taken from it."""

    code = "invalid_package"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a package may be before it is refused.

    Attributes:
        max_bytes: of all files together, unpacked; max_text_bytes: of one YAML file.
    """

    max_bytes: int = 4 * 2**30
    max_files: int = 20_000
    max_text_bytes: int = 8 * 2**20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileFacts(_Section):
    """One file of the package."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Counts(_Section):
    """How much the package holds."""

    versions: Annotated[int, Field(ge=1)]
    changes: int
    studies: int
    comparisons: int
    dataset_rows: int
    traces: int
    feedback: int
    figures: int


class Redaction(_Section):
    """What was taken out.

    Attributes:
        rules: of `privacy.redact` and `privacy.hook`, in their order; none: nothing was taken out.
        versions_with_matches: versions with text that these rules would change. They are in the package as they are:
            a changed text would be another version.
    """

    rules: list[str]
    versions_with_matches: list[int]


class PackageFacts(_Section):
    """package.yaml. Its last line is the SHA-256 of all bytes before that line."""

    version: Literal["2.0"]
    template_id: str
    exported_at: str
    exported_by: str
    counts: Counts
    redaction: Redaction
    files: dict[str, FileFacts]
    sha256: str


def dataset_files(template_id: str) -> tuple[str, str]:
    """The dataset as SQLite and as Parquet."""
    return f"dataset/{template_id}.db", f"dataset/{template_id}.parquet"


def figures_file(template_id: str) -> str:
    """The live figures, one JSON object a line."""
    return f"analytics/{template_id}.jsonl"


def check_name(name: str) -> str:
    """Return the relative path of a file in a package, or raise PackageError: it could lead elsewhere."""
    parts = name.split("/")
    if len(name) > _LONGEST or len(parts) > _DEEPEST or not all(map(_PART.match, parts)):
        raise PackageError(
            f"The package names a file {shown(name)}: paths are at most {_DEEPEST} plain names (letters, digits and "
            "._@+-, beginning with a letter or digit) with / between them. Nothing was taken from it."
        )
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Raise PackageError: two names are one on a disk that does not tell capitals from small letters."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise PackageError(
                f"The package names both {shown(other)} and {shown(name)}: not every disk tells them apart."
            )


def seal(content: Mapping[str, object]) -> bytes:
    """package.yaml with its last line."""
    body = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=10**9).encode()
    return body + f"sha256: {hashlib.sha256(body).hexdigest()}\n".encode()


def read_facts(path: Path, limits: Limits) -> PackageFacts:
    """package.yaml, its seal checked. Raises PackageError."""
    content = read_text_file(path, limits)
    found = _SEAL.search(content)
    if found is None or hashlib.sha256(content[:-_SEAL_BYTES]).hexdigest().encode() != found[1]:
        raise PackageError(
            f"{PACKAGE_FILE} was changed or cut off after the export: its last line is not the SHA-256 of the lines "
            "before it. Export again, or get the package again."
        )
    facts = read_yaml(content, PackageFacts, PACKAGE_FILE)
    for name in facts.files:
        check_name(name)
    check_distinct(facts.files)
    return facts


def read_text_file(path: Path, limits: Limits) -> bytes:
    """A small file as a whole. Raises PackageError: it is missing or not small."""
    try:
        if path.stat().st_size > limits.max_text_bytes:
            raise PackageError(f"{path.name} is larger than {limits.max_text_bytes:,} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path.name} cannot be read ({error.strerror or error}): is this a package?") from error


_Model = TypeVar("_Model", bound=BaseModel)


def read_yaml(content: bytes, model: type[_Model], name: str) -> _Model:
    """A YAML file of the package as `model`. Raises PackageError naming file, field and fault."""
    try:
        return model.model_validate(parse_yaml(content.decode()))
    except (YamlTextError, UnicodeDecodeError) as error:
        raise PackageError(f"{name}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_context=False)[:5]
        )
        raise PackageError(f"{name}: {faults}.") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What a backup says about itself: which files it holds, with their checksums; and whether that is still true."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from rs_gateway.domain.errors import RouteSwitchError, SchemaTooNewError
from rs_pipelines.durable_files import replaced_folder

FORMAT = 1
CATALOG_FILE = "backup.json"
_CHUNK_BYTES = 1 << 20


class BackupError(RouteSwitchError):
    """A backup cannot be made or is not what it was when it was made."""

    code = "backup"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a backup; `path` is relative to it, with `/`."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """The content of `backup.json`.

    Attributes:
        program: version of the program that made it; made_at: UTC, ISO 8601.
        parts: name -> `database` or `folder`, in the order in which they were copied.
        left_out: name -> who backs it up.
    """

    format: int
    program: str
    made_at: str
    parts: Mapping[str, Literal["database", "folder"]]
    files: tuple[StoredFile, ...]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)


class _Format(msgspec.Struct):
    format: int


def encode_catalog(catalog: Catalog) -> bytes:
    """JSON, indented for people."""
    return msgspec.json.format(msgspec.json.encode(catalog), indent=1)


def read_catalog(directory: Path) -> Catalog:
    """The catalog of a backup. Raises BackupError: it is none; SchemaTooNewError."""
    path = directory / CATALOG_FILE
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found > FORMAT:
            raise SchemaTooNewError(
                f"The backup {directory} has format {found}, written by a newer program; this one knows up to "
                f"{FORMAT}: upgrade route-switch."
            )
        return msgspec.json.decode(content, type=Catalog)
    except OSError as error:
        said = f"{directory} is no backup: {path} cannot be read ({error.strerror})."
        if not directory.exists() and replaced_folder(directory).exists():
            said += f" It was being replaced: the earlier backup is {replaced_folder(directory)}."
        raise BackupError(said) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BackupError(f"{path} is damaged ({error}): use another backup.") from error


def verify(directory: Path, catalog: Catalog, *, on_bytes: Callable[[int], None] = lambda n: None) -> None:
    """Read every file and compare it with the catalog.

    Args:
        on_bytes: called with the number of bytes read since the last call.

    Raises:
        BackupError: a file is missing, was changed, or was added; names all of them.
    """
    faults: list[str] = []
    for file in catalog.files:
        try:
            if file.sha256 != sha256_of(directory / file.path, on_bytes=on_bytes):
                faults.append(f"{file.path} was changed")
        except FileNotFoundError:
            faults.append(f"{file.path} is missing")
        except OSError as error:
            faults.append(f"{file.path} cannot be read ({error.strerror})")
    known = {CATALOG_FILE, *(file.path for file in catalog.files)}
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    faults += [f"{name} does not belong to it" for name in sorted(there - known)]
    if faults:
        shown = "; ".join(faults[:10]) + (f"; and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise BackupError(f"The backup {directory} is not what it was: {shown}. Use another one.")


def sha256_of(path: Path, *, on_bytes: Callable[[int], None] = lambda n: None) -> str:
    """Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()

"""One consistent backup of everything that a running system keeps, made while the gateway and the pipelines go on."""

import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TypeAlias

from rs_gateway.adapters.sqlite_copy import copy_database
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.wording import counted
from rs_pipelines.backup_catalog import (
    CATALOG_FILE,
    FORMAT,
    BackupError,
    Catalog,
    StoredFile,
    encode_catalog,
    sha256_of,
)
from rs_pipelines.durable_files import folder_beside, put_folder_in_place, write_durably
from rs_pipelines.lake_check import damaged_parts, in_words
from rs_pipelines.lake_edit import refuse_missing_parts
from rs_pipelines.lake_files import LakeFiles
from rs_pipelines.lake_manifest import LakeCorruptError
from rs_pipelines.store_parts import Elsewhere, Part
from rs_pipelines.stores_lock import OnWait, stores_lock, wait_silently

OnCopied: TypeAlias = Callable[[str, int, int], None]
"""Called with (part, bytes copied of it, bytes of it in all as far as is known)."""
CONFIGURATION_FILE = "route-switch.yaml"
FIRST_FILE = "manifest.json"
"""Names what else counts in its folder, so it is copied before that."""
_CHUNK_BYTES = 1 << 20
_TRIES = 20


def back_up(
    parts: Sequence[Part],
    target: Path,
    *,
    data: Path,
    configuration: Path,
    program: str,
    made_at: str,
    elsewhere: Sequence[Elsewhere] = (),
    overwrite: bool = False,
    on_copied: OnCopied = lambda part, done, total: None,
    on_wait: OnWait = wait_silently,
) -> Catalog:
    """Copy all parts that are there to the new folder `target`, which appears as a whole or not at all.

    An erasure of the same data directory is waited for, and waits for this: no row is in one part and not in another.

    Args:
        data: the data directory.
        parts: in an order in which nothing refers to what comes before it; see `parts_of`.
        configuration: its file, kept with them.
        overwrite: replace a backup that is there already, as soon as the new one is complete.
        on_wait: told whom it waits for.

    Raises:
        BackupError: the target is there, or cannot be written.
        StoreError: a part is damaged or cannot be read, or another backup to the target is under way.
    """
    _refuse_target(target, overwrite=overwrite)
    try:
        with _held_still(data, on_wait), folder_beside(target) as folder:
            _refuse_target(target, overwrite=overwrite)  # one that was being replaced may be there again
            files = [_copy_file(configuration, folder / CONFIGURATION_FILE, folder)]
            kept = [part for part in parts if part.path.exists()]
            for part in kept:
                files += _copy_part(part, folder, on_copied)
            catalog = Catalog(
                format=FORMAT,
                program=program,
                made_at=made_at,
                parts={part.name: part.kind for part in kept},
                files=tuple(files),
                left_out={other.name: other.remedy for other in elsewhere},
            )
            write_durably(folder / CATALOG_FILE, encode_catalog(catalog))
            put_folder_in_place(folder, target)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise BackupError(
            f"The backup {target} cannot be written ({error.strerror or error}{where}): nothing is left of it. "
            "Make room, or name another place."
        ) from error
    return catalog


def copy_folder(
    source: Path,
    target: Path,
    *,
    on_file: Callable[[Path, int], None] = lambda path, size_bytes: None,
    is_whole: Callable[[], bool] = lambda: True,
) -> list[Path]:
    """Copy the files of a folder that others may be adding to; what they replace is copied as it was or as it is.

    Hidden files and locks are left out: they are a running program's own.

    Args:
        on_file: called with the path and the size of each copy.
        is_whole: asked at the end whether the copy has all that it needs; if not, it is made again.

    Returns:
        The copies.

    Raises:
        StoreError: files kept disappearing while it went on.
        OSError: a file cannot be read or written.
    """
    for _ in range(_TRIES):
        try:
            copies = list(_copied(source, target, on_file))
        except FileNotFoundError as error:
            # It was replaced by others since its folder was listed: what names them is read again too.
            missing = Path(str(error.filename))
            if not missing.is_relative_to(source):
                raise
        else:
            if is_whole():
                return copies
        shutil.rmtree(target, ignore_errors=True)
    raise StoreError(f"{source} is being rewritten all the time: back up again when its pipelines have ended.")


def _refuse_target(target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if not (target / CATALOG_FILE).is_file():
        raise BackupError(f"{target} is there and is no backup: name a folder that does not exist yet.")
    if not overwrite:
        raise BackupError(f"{target} is a backup already: name another folder, or replace it with --overwrite.")


def _held_still(data: Path, on_wait: OnWait) -> AbstractContextManager[None]:
    """Nothing is erased meanwhile. From a file system that is mounted read-only, such as a snapshot, nothing is."""
    if data.exists() and os.statvfs(data).f_flag & os.ST_RDONLY:
        return nullcontext()
    return stores_lock(data, "backup", on_wait=on_wait)


def _copy_part(part: Part, folder: Path, on_copied: OnCopied) -> list[StoredFile]:
    target = folder / part.name
    if part.kind == "database":
        copy_database(part.path, target, on_bytes=lambda done, total: on_copied(part.name, done, total))
        return [_stored(target, folder)]
    done, total = 0, _size_bytes(part.path)

    def on_file(_path: Path, size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        on_copied(part.name, done, max(done, total))

    def is_whole() -> bool:
        return part.name != "lake" or _has_its_parts(part.path, target)

    target.mkdir()
    copies = copy_folder(part.path, target, on_file=on_file, is_whole=is_whole)
    if part.name == "lake":
        _refuse_damaged(part.path, target)
    return [_stored(copy, folder) for copy in copies]


def _refuse_damaged(lake: Path, copy: Path) -> None:
    """Raises LakeCorruptError: a restore of the copy would bring back a lake that cannot be read."""
    damaged = damaged_parts(LakeFiles(copy))
    if damaged:
        raise LakeCorruptError(
            f"The lake has {counted(len(damaged), 'damaged part')}, so it is not backed up: {in_words(damaged, lake)}. "
            f"Restore from an earlier backup, or move the whole folder {lake} away and ingest again."
        )


def _has_its_parts(lake: Path, copy: Path) -> bool:
    """Whether a copy of the lake has what its manifest names. Raises LakeCorruptError where the lake itself has not."""
    try:
        refuse_missing_parts(LakeFiles(copy))
    except LakeCorruptError:
        # Replaced and removed after the manifest was copied and before the folder was listed.
        refuse_missing_parts(LakeFiles(lake))
        return False
    return True


def _size_bytes(folder: Path) -> int:
    """About how much there is to copy; what disappears meanwhile does not count."""
    size_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size_bytes += Path(parent, name).stat().st_size
    return size_bytes


def _copied(source: Path, target: Path, on_file: Callable[[Path, int], None]) -> Generator[Path]:
    """Files first, and once more those that came meanwhile: they may be named by those that were copied."""
    target.mkdir(exist_ok=True)
    seen: set[str] = set()
    while names := [name for name in _names(source, folders=False) if name not in seen]:
        for name in names:
            size_bytes = _copy(source / name, target / name)
            on_file(target / name, size_bytes)
            yield target / name
        seen.update(names)
    for name in _names(source, folders=True):
        yield from _copied(source / name, target / name, on_file)


def _names(folder: Path, *, folders: bool) -> list[str]:
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and not entry.name.endswith(".lock")
            and entry.is_dir(follow_symlinks=False) is folders
        ]
    return sorted(names, key=lambda name: (name != FIRST_FILE, name))


def _copy_file(source: Path, target: Path, folder: Path) -> StoredFile:
    _copy(source, target)
    return _stored(target, folder)


def _copy(source: Path, target: Path) -> int:
    """Copy one file, its mode and its time, onto the disk; its size."""
    size_bytes = 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_CHUNK_BYTES):
            writing.write(chunk)
            size_bytes += len(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    shutil.copystat(source, target)
    return size_bytes


def _stored(path: Path, folder: Path) -> StoredFile:
    return StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path))

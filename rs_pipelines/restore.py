"""A backup brought back: verified first, laid out beside what is there, then put in place as one set."""

import shutil
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import filelock

from rs_gateway.adapters.sqlite_access_schema import ACCESS_SCHEMA
from rs_gateway.adapters.sqlite_copy import StoreInUseError, held_alone
from rs_gateway.adapters.sqlite_schema import Schema
from rs_gateway.adapters.sqlite_trace_schema import TRACE_SCHEMA
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.wording import counted
from rs_gateway.unfinished_restore import mark_restore, restore_finished
from rs_pipelines.answers import ANSWER_SCHEMA
from rs_pipelines.backup import copy_folder
from rs_pipelines.backup_catalog import BackupError, Catalog, read_catalog, verify
from rs_pipelines.durable_files import put_folder_in_place, put_in_place, sync_path
from rs_pipelines.lake_check import damaged_parts, in_words
from rs_pipelines.lake_files import LakeFiles
from rs_pipelines.store_parts import Part
from rs_pipelines.stores_lock import OnWait, stores_lock, wait_silently

_SCHEMAS: Mapping[str, Schema] = {
    "traces.db": TRACE_SCHEMA,
    "access.db": ACCESS_SCHEMA,
    "answers.db": ANSWER_SCHEMA,
}


def check_backup(directory: Path, *, on_bytes: Callable[[int, int], None] = lambda done, total: None) -> Catalog:
    """Read a backup as a whole.

    Args:
        on_bytes: called with (bytes read, bytes in all).

    Raises:
        BackupError: it is none, or is not what it was when it was made.
        SchemaTooNewError: a newer program made it.
    """
    catalog = read_catalog(directory)
    done = 0

    def on_read(n: int) -> None:
        nonlocal done
        done += n
        on_bytes(done, catalog.size_bytes)

    verify(directory, catalog, on_bytes=on_read)
    if "lake" in catalog.parts:
        _refuse_damaged_lake(directory)
    for name, schema in _SCHEMAS.items():
        if name in catalog.parts:
            # Immutable: nothing is written beside it, so the backup stays what it is.
            uri = f"{(directory / name).absolute().as_uri()}?immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                schema.version(connection, directory / name)
    return catalog


def _refuse_damaged_lake(directory: Path) -> None:
    """A backup that was made before they were looked at may hold parts that were damaged already."""
    damaged = damaged_parts(LakeFiles(directory / "lake"))
    if damaged:
        raise BackupError(
            f"The backup {directory} holds {counted(len(damaged), 'damaged part')} of the lake: "
            f"{in_words(damaged, 'lake')}. Use another."
        )


def in_the_way(parts: Sequence[Part]) -> list[Part]:
    """Parts that hold something already."""
    return [part for part in parts if _holds_something(part.path)]


def restore(
    directory: Path,
    catalog: Catalog,
    parts: Sequence[Part],
    *,
    data: Path,
    overwrite: bool = False,
    on_wait: OnWait = wait_silently,
) -> None:
    """Put a checked backup in the place of what is there. What the backup does not have is removed: it is one set.

    Killed in between, the gateway does not start until it was run again to its end.

    Args:
        parts: where the configuration has its stores.
        data: the data directory.
        overwrite: whether what is there may go.
        on_wait: told for which backup or erasure it waits.

    Raises:
        BackupError: there is something already; or the configuration keeps a part on a server.
        StoreInUseError: a gateway, or a pipeline, is running on these stores.
        StoreError: a store cannot be written; the message says whether anything was replaced.
    """
    missing = sorted(catalog.parts.keys() - {part.name for part in parts})
    if missing:
        raise BackupError(
            f"The backup holds {', '.join(missing)}, which this configuration keeps on a server: "
            "restore with a configuration whose `stores` are files."
        )
    there = in_the_way(parts)
    if there and not overwrite:
        raise BackupError(
            f"There is something already: {', '.join(str(part.path) for part in there)}. Restore into another "
            "`data_dir`, or replace all of it with --overwrite."
        )
    with ExitStack() as stack:
        stack.enter_context(stores_lock(data, "restore", on_wait=on_wait))
        for part in parts:
            stack.enter_context(_held(part))
        _lay_out_all(parts, directory, catalog)
        try:
            mark_restore(data)
            for part in parts:
                _swap(part, kept=part.name in catalog.parts)
        except OSError as error:
            raise StoreError(
                f"The restore did not end ({error.strerror or error}: {error.filename}): mend that and run it again "
                "with --overwrite."
            ) from error
        restore_finished(data)


@contextmanager
def _held(part: Part) -> Generator[None]:
    if part.kind == "database":
        with held_alone(part.path):
            yield
        return
    with ExitStack() as stack:
        for path in sorted(part.path.rglob("*.lock")):
            lock = filelock.FileLock(path, blocking=False)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise StoreInUseError(
                    f"{path.parent} is in use: wait for the run that is at work on it, or stop it."
                ) from None
            stack.callback(lock.release)
        yield


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(not inner.name.startswith(".") for inner in path.rglob("*") if inner.is_file())
    return path.exists()


def _staged(part: Part) -> Path:
    return part.path.with_name(f".{part.path.name}.restoring")


def _lay_out_all(parts: Sequence[Part], directory: Path, catalog: Catalog) -> None:
    """Copy every part beside its place; what an earlier try left there goes, and what a failed one has copied."""
    for part in parts:
        _clear(part)
    try:
        for part in parts:
            if part.name in catalog.parts:
                _lay_out(part, directory / part.name)
    except BaseException:
        for part in parts:
            _clear(part)
        raise


def _lay_out(part: Part, source: Path) -> None:
    staged = _staged(part)
    try:
        staged.parent.mkdir(parents=True, exist_ok=True)
        if part.kind == "folder" and not source.exists():
            staged.mkdir()  # it was empty, and not every place where backups are kept keeps empty folders
        elif part.kind == "folder":
            copy_folder(source, staged)
        else:
            shutil.copy2(source, staged)
            sync_path(staged)
    except OSError as error:
        raise StoreError(
            f"Nothing was restored: {part.name} cannot be copied to {staged.parent} ({error.strerror or error}). "
            "Make room there, or mend that, and run it again."
        ) from error


def _clear(part: Part) -> None:
    staged = _staged(part)
    shutil.rmtree(staged, ignore_errors=True)
    if not staged.is_dir():
        staged.unlink(missing_ok=True)


def _swap(part: Part, *, kept: bool) -> None:
    if kept and part.kind == "folder":
        put_folder_in_place(_staged(part), part.path)
    elif kept:
        _remove_logs(part.path)
        put_in_place(_staged(part), part.path)
    elif part.kind == "folder":
        shutil.rmtree(part.path, ignore_errors=True)
    else:
        _remove_logs(part.path)
        part.path.unlink(missing_ok=True)


def _remove_logs(path: Path) -> None:
    # Of a database that was too damaged to be merged with them: they would be taken for the new one's.
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

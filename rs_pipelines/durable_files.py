"""Files and folders that appear whole or not at all, also when the power goes: temporary, fsync, rename, fsync."""

import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import filelock

from rs_gateway.domain.errors import StoreError

_NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)


def sync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_for(path: Path) -> Path:
    """Where to write what `put_in_place` will then call `path`: the same folder, a name that no reader looks at."""
    return path.with_name(f".{path.name}.tmp")


def put_in_place(temporary: Path, path: Path) -> None:
    """Replace `path` by a finished temporary file of the same folder, durably."""
    sync_path(temporary)
    temporary.replace(path)
    sync_path(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write `path` as a whole; whoever reads it sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(path)
    try:
        temporary.write_bytes(content)
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # half a file on a full disk would be in everybody's way
        raise


@contextmanager
def folder_beside(target: Path) -> Generator[Path]:
    """A private folder for what will be `target`, removed at the end unless it was renamed.

    What a killed process left goes first: its private folder, and a folder that it was replacing has its name again.

    Raises:
        StoreError: another process is at work on the same.
        OSError: nothing can be made there.
    """
    folder = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StoreError(f"{target} is being written already: wait for that, or name another place.") from None
    try:
        if not target.exists() and replaced_folder(target).exists():
            replaced_folder(target).rename(target)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def replaced_folder(target: Path) -> Path:
    """Where a folder lies while another gets its name; after a kill it may be there still."""
    return target.with_name(f".{target.name}.replaced")


def put_folder_in_place(folder: Path, target: Path) -> None:
    """Give a finished folder its name, in place of what has it. Raises OSError."""
    replaced = replaced_folder(target)
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    folder.rename(target)
    sync_path(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Make the folder and a file in it, and take that file away again. Raises OSError where that cannot be done."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")


def unwritable(folder: Path, error: OSError) -> StoreError:
    """That nothing can be changed in a folder, and what to do."""
    why = error.strerror or str(error)
    if error.errno not in _NOT_ALLOWED:
        return StoreError(f"{folder} cannot be written ({why}): mend that and run it again.")
    return StoreError(
        f"{folder} cannot be written ({why}): run this as the user that the gateway runs as, or mount it for writing. "
        "What only reads goes on there: `forget --dry-run`, `study`, `stats`, `traces`, `explain`."
    )

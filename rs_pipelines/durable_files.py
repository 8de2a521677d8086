"""Files that appear whole or not at all, also when the power goes: temporary file, fsync, rename, fsync."""

import errno
import os
import tempfile
from pathlib import Path

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

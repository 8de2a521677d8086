"""Whole SQLite files: a consistent copy while others write, and a hold that keeps everybody else away."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

from rs_gateway.adapters.sqlite_read_only import has_no_room, open_read_only, primary_code
from rs_gateway.domain.errors import StoreError

_PAGES_A_STEP = 4_000
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


class StoreInUseError(StoreError):
    """Another process has the store open."""

    code = "store_in_use"


def copy_database(
    source: Path, target: Path, *, on_bytes: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Copy the state of one moment to a new file, checked and on the disk, while others go on reading and writing.

    Args:
        on_bytes: called with (bytes copied, bytes in all).

    Raises:
        StoreError: the source is damaged or cannot be read; or the target cannot be written.
        OSError: there is no room for the target.
    """
    if shutil.disk_usage(target.parent).free < source.stat().st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    try:
        target.touch(mode=0o600, exist_ok=False)
        with (
            closing(open_read_only(source)[0]) as reading,
            closing(sqlite3.connect(target, isolation_level=None)) as writing,
        ):
            (page_bytes,) = reading.execute("PRAGMA page_size").fetchone()
            # In one read transaction: without it, every commit of somebody else's would start the copy anew.
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
            reading.backup(
                writing,
                pages=_PAGES_A_STEP,
                progress=lambda _, left, total: on_bytes((total - left) * page_bytes, total * page_bytes),
                sleep=0,
            )
            reading.execute("COMMIT")
            # One file that is complete by itself; whoever opens it as a store switches to a write-ahead log again.
            writing.execute("PRAGMA journal_mode = DELETE")
            (verdict,) = writing.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{source} is damaged ({verdict}): restore an earlier backup of it.")
        _sync(target)
    except sqlite3.Error as error:
        if has_no_room(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise StoreError(f"{source} cannot be copied to {target}: {error}.") from error


@contextmanager
def held_alone(path: Path) -> Generator[None]:
    """Keep every other process away from a SQLite file for the block, in which it may be replaced.

    Its write-ahead log is merged into it and removed. A file that is not there, or no database any more, is let pass.

    Raises:
        StoreInUseError: a running gateway, or something else, has it open.
        StoreError: it cannot be opened.
    """
    if not path.exists():
        yield
        return
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            # Every connection to a file with a write-ahead log holds a shared lock on it, busy or not.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreInUseError(
                    f"{path} is in use by another process: stop the gateway, Dagster and whatever else has it open, "
                    "and try again."
                ) from error
            if primary_code(error) not in _DAMAGED:
                raise StoreError(f"{path} cannot be opened: {error}.") from error
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

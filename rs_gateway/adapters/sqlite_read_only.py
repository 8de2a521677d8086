"""A trace store's file, opened for reading only: what every reader of it shares."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from rs_gateway.adapters.sqlite_trace_schema import MIGRATIONS, TRACE_SCHEMA
from rs_gateway.adapters.trace_rows import Row
from rs_gateway.domain.errors import NoRoomError, StoreError

_LITTLE_ROOM_BYTES = 1 << 20


class ReadOnlyStore:
    """One short transaction a query; a file that is not there is empty. May be used from any thread, by one at a time.

    When the file is replaced, the next query reads the new one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None

    def rows(self, query: str, parameters: Sequence[object]) -> list[Row]:
        """All rows of a query. Raises SchemaTooNewError, StoreError."""
        with self._lock:
            try:
                connection = self._connected()
                if connection is None:
                    return []
                # Fetched whole: an open cursor would be an open transaction, and that keeps the WAL from shrinking.
                return connection.execute(query, parameters).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise unreadable(self._path, error) from error

    def close(self) -> None:
        """Release the connection; a later query opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection | None:
        try:
            inode = self._path.stat().st_ino
        except (FileNotFoundError, NotADirectoryError):
            self._close()
            return None
        if self._connection is not None and inode == self._inode:
            return self._connection
        self._close()
        # A reader may be handed from thread to thread, as Dagster does.
        connection, lasts = open_read_only(self._path, check_same_thread=False)
        try:
            version = TRACE_SCHEMA.version(connection, self._path)
        except BaseException:
            connection.close()
            raise
        if version == 0:  # its writer is about to create the tables
            connection.close()
            return None
        if version < len(MIGRATIONS):
            connection.close()
            raise StoreError(
                f"The trace store {self._path} has schema {version} and this program reads {len(MIGRATIONS)}: "
                "start the gateway once, it migrates the file."
            )
        self._connection, self._inode = connection, inode if lasts else None
        return connection


def open_read_only(
    path: Path, *, timeout_s: float = 5.0, check_same_thread: bool = True
) -> tuple[sqlite3.Connection, bool]:
    """A connection that cannot write, in a directory too that nobody here may write to, such as a mounted snapshot.

    Returns:
        The connection, and whether it sees what others write later.

    Raises:
        sqlite3.Error: there is no such file, or it cannot be read.
    """
    connection = _connected(path, "mode=ro", timeout_s, check_same_thread)
    try:
        connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if not _lies_still(path):
            raise
        # SQLite wants to make its index of the write-ahead log first. There is no log, so there is nothing to index.
        return _connected(path, "immutable=1", timeout_s, check_same_thread), False
    return connection, True


def _connected(path: Path, how: str, timeout_s: float, check_same_thread: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=check_same_thread)


def _lies_still(path: Path) -> bool:
    """Whether a file is all there is to its database, in a directory that cannot be written."""
    return path.exists() and not os.access(path.parent, os.W_OK) and not _has_log(path)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _has_log(path: Path) -> bool:
    try:
        return _log_of(path).stat().st_size > 0
    except OSError:
        return False


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code, without its details."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def has_no_room(path: Path) -> bool:
    """Whether the disk of a file is full, or as good as full. SQLite itself often calls that an I/O error."""
    try:
        return shutil.disk_usage(path.parent).free < _LITTLE_ROOM_BYTES
    except OSError:
        return False


def unreadable(path: Path, error: Exception) -> StoreError:
    """Why the file cannot be used, and what to do; a NoRoomError when there is no room."""
    if has_no_room(path):
        return NoRoomError(f"The trace store {path} cannot be opened: the disk is full ({error}). Make room.")
    if isinstance(error, sqlite3.Error) and primary_code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreError(
            f"The trace store {path} is damaged or no SQLite database ({error}): restore a backup, or move it and its "
            "-wal and -shm files aside, and the gateway starts a new one."
        )
    if _has_log(path) and not os.access(path.parent, os.W_OK):
        return StoreError(
            f"The trace store {path} cannot be opened ({error}): its write-ahead log {_log_of(path)} has no index "
            "beside it, and none can be made here. Stop the gateway before the snapshot is made, or copy it with its "
            "log to a folder that may be written."
        )
    return StoreError(
        f"The trace store {path} cannot be opened ({error}): check that the path is a file in a directory that this "
        "user may write to, that the disk is not full, and that no other program holds the file locked."
    )

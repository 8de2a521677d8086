"""A SQLite write-ahead log that readers keep from starting anew, and how a long reader lets it.

The log can begin again at its start only at a moment in which all of it is in the database and nobody reads. Many short
transactions with nothing between them leave no such moment, and the log grows as if one had never ended.
"""

import time
from pathlib import Path

_LARGE_BYTES = 16 * 2**20
_LONGEST_PAUSE_S = 0.5
_LOOK_EVERY_S = 0.01
_SALT = slice(16, 24)
"""Where its header has two numbers that are others each time that it begins anew. Source: SQLite's file format, 4.1."""


class LogPatience:
    """Pauses of one reader, which must not be in a transaction when it pauses."""

    def __init__(self, database: Path) -> None:
        self._log = database.with_name(database.name + "-wal")
        self._seen_bytes = 0

    def pause(self) -> None:
        """Wait, where the log is large and has grown since the last time, until it begins anew or half a second."""
        size = self._size()
        grown, self._seen_bytes = size > self._seen_bytes, size
        if not grown or size < _LARGE_BYTES:
            return
        salt, until = self._salt(), time.monotonic() + _LONGEST_PAUSE_S
        while self._salt() == salt and time.monotonic() < until:
            time.sleep(_LOOK_EVERY_S)

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def _salt(self) -> bytes:
        try:
            with self._log.open("rb") as log:
                return log.read(_SALT.stop)[_SALT]
        except FileNotFoundError:
            return b""

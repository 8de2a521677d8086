"""Trace ids: ULIDs whose random part comes from a supply; asking the system for bytes each time costs most of it."""

import os
import time

_RANDOM_BYTES = 10
_SUPPLY_BYTES = 4096 // _RANDOM_BYTES * _RANDOM_BYTES
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)


class TraceIds:
    """Gives ids that sort by time, to the millisecond. Nobody can guess one, so only its holder can send feedback.

    Belongs to one process: after a fork the child must make its own. Source: the ULID specification (26 characters of
    Crockford's base 32, 48 bits of milliseconds, 80 random bits).
    """

    def __init__(self) -> None:
        self._supply = b""
        self._position = 0

    def new(self) -> str:
        """The next id."""
        if self._position >= len(self._supply):
            self._supply, self._position = os.urandom(_SUPPLY_BYTES), 0
        end = self._position + _RANDOM_BYTES
        value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(self._supply[self._position : end])
        self._position = end
        return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])

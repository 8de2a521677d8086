"""Trace ids: ULIDs whose random part comes from a supply; asking the system for bytes each time costs most of it."""

import os
import time

_ALPHABET = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_N_RANDOM = 16
"""Characters of five random bits each: 80 bits."""
_SUPPLY = 4096
_CHARACTER_OF = bytes(_ALPHABET[byte & 31] for byte in range(256))
_PAIRS = tuple(chr(a) + chr(b) for a in _ALPHABET for b in _ALPHABET)


class TraceIds:
    """Gives ids that sort by time, to the millisecond. Nobody can guess one, so only its holder can send feedback.

    Belongs to one process: after a fork the child must make its own. Source: the ULID specification (26 characters of
    Crockford's base 32, 48 bits of milliseconds, 80 random bits).
    """

    def __init__(self) -> None:
        self._supply = ""
        self._position = _SUPPLY
        self._now_ms, self._prefix = -1, ""

    def new(self) -> str:
        """The next id."""
        begin = self._position
        if begin >= _SUPPLY:
            self._supply, begin = os.urandom(_SUPPLY).translate(_CHARACTER_OF).decode("ascii"), 0
        self._position = end = begin + _N_RANDOM
        now_ms = time.time_ns() // 1_000_000
        if now_ms != self._now_ms:
            self._now_ms = now_ms
            self._prefix = "".join([_PAIRS[(now_ms >> shift) & 1023] for shift in (40, 30, 20, 10, 0)])
        return self._prefix + self._supply[begin:end]

"""Whole lines on stderr, from several threads and two ways of writing. What a full disk cuts off ends with its line."""

import os
import select
import sys
import threading

_STALLED_PIPE_S = 1.0
_cut = threading.Event()
"""The last line was not written to its end: whatever comes next would be glued to it."""


def print_line(line: str) -> None:
    """Write a line to what stderr is now. One that cannot be written is lost: it must not end what it tells of."""
    try:
        # With one call, its end included: unbuffered, two calls would let another thread's line between.
        sys.stderr.write(f"{_break().decode()}{line}\n")
        sys.stderr.flush()
    except OSError:
        _cut.set()


def write_lines(lines: bytes) -> None:
    """Write lines past all buffers, waiting a moment for a reader that is slow. Raises OSError: it cannot."""
    descriptor = sys.stderr.fileno()
    rest = memoryview(_break() + lines)
    try:
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                if not select.select([], [descriptor], [], _STALLED_PIPE_S)[1]:
                    raise
    except OSError:
        _cut.set()
        raise


def _break() -> bytes:
    if not _cut.is_set():
        return b""
    _cut.clear()
    return b"\n"

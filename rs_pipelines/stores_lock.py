"""The lock beside the stores: a backup, an erasure and a restore need all of them as one set, so they take turns.

A lock of the operating system on a file in the data directory, so whoever shares that directory shares the lock, and
a holder that is killed lets go of it.
"""

import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import filelock
import msgspec

from rs_pipelines.durable_files import unwritable, write_durably

Work: TypeAlias = Literal["backup", "erasure", "restore"]
_FOLDER, _LOCK, _HOLDER = "locks", ".stores.lock", ".stores.json"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class StoresHolder:
    """Who has the stores to itself: what it does, its process and machine, and since when (UTC, ISO 8601)."""

    work: Work
    pid: int
    host: str
    since: str


OnWait: TypeAlias = Callable[[StoresHolder | None], None]
"""Told whom the caller waits for; None where that one could not say."""


def wait_silently(holder: StoresHolder | None) -> None:
    """Tell nobody."""
    del holder


def waiting_for(holder: StoresHolder | None) -> str:
    """What a person who waits is told."""
    if holder is None:
        return "Waiting for a backup, an erasure or a restore that is under way. Ctrl-C stops waiting."
    return (
        f"Waiting for the {holder.work} that began at {holder.since} (process {holder.pid} on {holder.host}). "
        "Ctrl-C stops waiting."
    )


@contextmanager
def stores_lock(data: Path, work: Work, *, on_wait: OnWait = wait_silently) -> Generator[None]:
    """Have the stores of a data directory to oneself; waits as long as it takes for others who have.

    It keeps nobody else from reading and writing: the gateway and an ingest go on.

    Args:
        on_wait: called before the first wait, and when the holder becomes another one.

    Raises:
        StoreError: the data directory cannot be written.
    """
    folder = data / _FOLDER
    lock = filelock.FileLock(folder / _LOCK, blocking=False)
    waits = _Waits(folder / _HOLDER, on_wait)
    while not _acquired(lock, data):
        waits.once()
    try:
        me = StoresHolder(work, os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        with suppress(OSError):  # on a full disk nobody learns who has it, which is no reason not to back it up
            write_durably(folder / _HOLDER, msgspec.json.encode(me))
        yield
    finally:
        with suppress(OSError):
            (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquired(lock: filelock.BaseFileLock, data: Path) -> bool:
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        return False
    except OSError as error:
        raise unwritable(data, error) from error
    return True


class _Waits:
    """Waits a little at a time, and tells each holder once."""

    def __init__(self, holder: Path, on_wait: OnWait) -> None:
        self._holder, self._on_wait = holder, on_wait
        self._tries = 0
        self._told: list[StoresHolder | None] = []

    def once(self) -> None:
        known = _read(self._holder)
        # Whoever has just got it is about to say who it is.
        if (known is not None or self._tries) and known not in self._told:
            self._told.append(known)
            self._on_wait(known)
        self._tries += 1
        time.sleep(_POLL_S)


def _read(path: Path) -> StoresHolder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=StoresHolder)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None

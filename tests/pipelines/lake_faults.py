"""What can happen to whoever changes the lake, at each thing that is done to the disk."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from rs_pipelines.durable_files import temporary_for

Fault: TypeAlias = Literal["killed", "disk full"]


class Killed(BaseException):
    """The process died here."""


def fails_at(step: int, *, root: Path, fault: Fault = "killed") -> Callable[[str], None]:
    """A `before_step` that ends the given step, counted from 0. What it was about to write is there by half."""
    taken = 0

    def before_step(name: str) -> None:
        nonlocal taken
        taken += 1
        if taken != step + 1:
            return
        if name.startswith("write "):
            written = root / name.removeprefix("write ").replace("manifest", "manifest.json")
            temporary_for(written).write_bytes(b"PAR1 and no more")
        if fault == "killed":
            raise Killed(name)
        raise OSError(errno.ENOSPC, "No space left on device")

    return before_step

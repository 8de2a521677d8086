"""A real file system with little room, where the machine lets us mount one."""

import contextlib
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, *, size_kb: int) -> Generator[Path | None]:
    """An empty tmpfs of this size, unmounted at the end; None where this user may not mount."""
    place = folder / "small-disk"
    place.mkdir()
    if sys.platform != "linux" or not _ran("mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(place)):
        yield None
        return
    try:
        yield place
    finally:
        _ran("umount", "--lazy", str(place))


def fill(disk: Path) -> Path:
    """Leave no byte free; the file that takes the room."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


def _ran(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False

"""Folders that nobody here may write to, as a snapshot is that is mounted read-only."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def read_only(folder: Path) -> Generator[bool]:
    """Nothing in the folder can be written within the block; False where this machine does not let us have that."""
    if os.geteuid():
        yield from _without_permission(folder)
        return
    # Permissions do not hold for root, a mount does.
    done = sys.platform == "linux" and _ran("mount", "--bind", str(folder), str(folder))
    try:
        yield done and _ran("mount", "-o", "remount,ro,bind", str(folder))
    finally:
        if done:
            _ran("umount", "--lazy", str(folder))


def _without_permission(folder: Path) -> Generator[bool]:
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield True
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def _ran(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False

"""Real `route-switch` processes for the tests, stopped when their block ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx

from tests.running import eventually


def route_switch(*arguments: str, cwd: Path, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "rs_gateway", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=_environment(),
    )


@contextlib.contextmanager
def started(*arguments: str, cwd: Path) -> Generator[subprocess.Popen[bytes]]:
    """A running command; killed at the end with all of its children."""
    with (cwd / "process.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rs_gateway", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=_environment(),
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def serving(folder: Path, url: str, *extra: str) -> Generator[subprocess.Popen[bytes]]:
    """A gateway process that answers at `url`."""
    with started("serve", *extra, cwd=folder) as process:
        eventually(lambda: process.poll() is not None or answers(f"{url}/health"), timeout_s=30)
        assert process.poll() is None, (folder / "process.log").read_text()
        yield process


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=1).status_code == 200
    return False


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "default", "NO_COLOR": "1", "COLUMNS": "200"}

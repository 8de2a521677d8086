"""Real `route-switch` processes for the tests, stopped when their block ends."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from tests.running import eventually

ROUTE_SWITCH = (sys.executable, "-m", "rs_gateway")


def route_switch(*arguments: str, cwd: Path, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*ROUTE_SWITCH, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=_environment(),
    )


@contextlib.contextmanager
def started(
    *arguments: str, cwd: Path, program: Sequence[str] = ROUTE_SWITCH, env: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """A running command; killed at the end with all of its children."""
    with (cwd / "process.log").open("ab") as log:
        process = subprocess.Popen(
            [*program, *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**_environment(), **(env or {})},
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
        eventually(lambda: process.poll() is not None or answers(f"{url}/health"), timeout_s=240)
        assert process.poll() is None, (folder / "process.log").read_text()
        yield process


def process_groups(process: subprocess.Popen[bytes]) -> set[int]:
    """The process groups of a running command and of all of its descendants."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    groups: set[int] = set()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            groups.add(os.getpgid(pid))
    return groups


def running_in(groups: set[int]) -> list[str]:
    """Command lines of the processes that live in these groups."""
    found: list[str] = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=10).status_code == 200
    return False


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = iter(random.SystemRandom().sample(range(20_000 + _WORKER % 12, 32_000, 12), 1_000))
"""Below those that systems give out by themselves: tests in other processes open connections all the time.

Tests that run beside each other have different ones, and none is given out twice: between a look whether a port is free
and the start of whoever is to listen there, nobody else gets it.
"""


def free_address() -> str:
    """An address where nobody listens, and where nobody who does not ask for it will."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"
    raise AssertionError("no free port")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "default", "NO_COLOR": "1", "COLUMNS": "200"}

"""Child processes of a benchmark: pinned to a core, logged to a file, measured, and gone when it ends."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from rs_pipelines.processes import group_runs

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.005


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Child:
    """A running process, the leader of its own group."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path
    started_at: float

    @property
    def pids(self) -> list[int]:
        """The process and its descendants that are alive."""
        found, waiting = list[int](), [self.popen.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting.extend(int(child) for child in _read(children).split())
        return found

    def cpu_s(self) -> float:
        """User and system time of the process and its living descendants, in seconds."""
        total = 0
        for pid in self.pids:
            # The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
            fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12]) if fields else 0
        return total / _TICKS_PER_S

    def rss_mb(self) -> float:
        """Resident memory of the process and its descendants, in 10^6 bytes."""
        kib = 0
        for pid in self.pids:
            for line in _read(Path(f"/proc/{pid}/status")).splitlines():
                if line.startswith("VmRSS:"):
                    kib += int(line.split()[1])
        return kib * 1024 / 1e6

    def last_words(self, n_lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(_read(self.log).splitlines()[-n_lines:])


class Children:
    """Context manager: starts children and ends them all, on an error and on Ctrl-C too."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._running: list[Child] = []

    def __enter__(self) -> Self:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGHUP, _interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._running):
            _signal_group(child, signal.SIGTERM)
        while self._running:
            self.stop(self._running[-1])

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        core: int,
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a process on a core and in a directory, with what it prints in `NAME.log`."""
        log = self._log_dir / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**own_environment(), **(environment or {})},
                start_new_session=True,
            )
        child = Child(name, popen, log, time.monotonic())
        self._running.append(child)
        return child

    def stop(self, child: Child) -> None:
        """End a process and its group: first kindly, then not. Returns when none of the group is alive."""
        try:
            _signal_group(child, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.popen.wait(_STOP_TIMEOUT_S)
        finally:
            _signal_group(child, signal.SIGKILL)  # descendants that outlived it, too
            child.popen.wait()
            self._running.remove(child)
            while group_runs(child.popen.pid):
                time.sleep(_POLL_S)


def wait_until_up(child: Child, port: int, path: str, *, timeout_s: float = 120.0) -> float:
    """Seconds from the child's start to its first 200 on `path`. Raises BenchmarkError with the end of its log."""
    while time.monotonic() - child.started_at < timeout_s:
        if child.popen.poll() is not None:
            raise BenchmarkError(
                f"{child.name} ended with {child.popen.returncode}; {child.log}:\n{child.last_words()}"
            )
        if _answers(port, path):
            return time.monotonic() - child.started_at
        time.sleep(_POLL_S)
    raise BenchmarkError(
        f"{child.name} did not answer {path} within {timeout_s:.0f} s; {child.log}:\n{child.last_words()}"
    )


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_environment() -> dict[str, str]:
    """This process's environment, without what a user has set for a gateway of their own."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(("RS_", "LITELLM_"))}


def need_program(name: str, how: str) -> None:
    """Raises BenchmarkError, saying how to install it."""
    if shutil.which(name) is None:
        raise BenchmarkError(f"{name} is needed and was not found. {how}")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it ended a moment ago


def _signal_group(child: Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.popen.pid, number)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt

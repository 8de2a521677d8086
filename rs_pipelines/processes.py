"""Child processes with an owner: started together, waited for, and all stopped when their owner leaves."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from rs_gateway.domain.errors import RouteSwitchError

_GRACE_S = 10.0
_DEATH_S = 5.0
_LOOK_EVERY_S = 0.02


class ProcessFailedError(RouteSwitchError):
    """A child process ended, or never became ready."""

    code = "process_failed"


class Processes:
    """Use as a context manager; leaving it stops every child and its own children, the last started first.

    Args:
        logs: each child writes to `<logs>/<name>.log`.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        self._logs.mkdir(parents=True, exist_ok=True)
        # A terminal that is closed or a supervisor's SIGTERM must clean up as Ctrl-C does.
        self._previous = {s: signal.signal(s, _interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ignored = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            for child in reversed(self._children.values()):
                _signal_group(child, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
            for child in self._children.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.1, deadline - time.monotonic()))
            for child in self._children.values():
                _signal_group(child, signal.SIGKILL)
                child.wait()
            for child in self._children.values():
                _wait_for_end(child.pid)
        finally:
            for number, handler in {**ignored, **self._previous}.items():
                signal.signal(number, handler)

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Start a child in a process group of its own: Ctrl-C reaches it only through us, our end ends it too."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "rs_pipelines.tether", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run a child to its end. Raises ProcessFailedError when it fails."""
        self.start(name, command)
        child = self._children.pop(name)
        if child.wait() != 0:
            raise ProcessFailedError(f"{name} failed with exit status {child.returncode}.\n{self._tail(name)}")

    def wait_until_answers(self, name: str, url: str, *, timeout_s: float) -> None:
        """Return once `url` answers 200. Raises ProcessFailedError with the end of the log when it does not."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check(name)
            with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  # our own loopback address
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise ProcessFailedError(f"{name} did not answer at {url} within {timeout_s:.0f} s.\n{self._tail(name)}")

    def check(self, name: str) -> None:
        """Raise ProcessFailedError if the child has ended."""
        code = self._children[name].poll()
        if code is not None:
            raise ProcessFailedError(f"{name} ended with exit status {code}.\n{self._tail(name)}")

    def wait(self) -> str:
        """Block until some child ends; its name."""
        while True:
            for name, child in self._children.items():
                if child.poll() is not None:
                    return name
            time.sleep(0.2)

    def _tail(self, name: str) -> str:
        log = self._logs / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:] if log.exists() else []
        return "\n".join([f"The end of {log}:", *lines])


def refuse_taken(host: str, port: int, *, what: str) -> None:
    """Raise ProcessFailedError when somebody listens there already: their answer must not pass for our child's."""
    if _answers(host, port):
        raise ProcessFailedError(f"{host}:{port} is taken: stop what listens there, or choose another {what}.")


def free_port(preferred: int) -> int:
    """`preferred` if nothing listens there, on 127.0.0.1 or on all addresses, else one that the system picks."""
    # Where a listener has all addresses, some systems let another one have 127.0.0.1 beside it.
    for port in (0,) if _answers("127.0.0.1", preferred) else (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ProcessFailedError("No free port on 127.0.0.1.")


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def route_switch(*arguments: str) -> list[str]:
    """The command line that runs `route-switch` in a process of its own, with this very interpreter."""
    return [sys.executable, "-m", "rs_gateway", *arguments]


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _wait_for_end(group: int) -> None:
    """Return once nothing of a killed group runs: until then its processes hold their ports and files."""
    deadline = time.monotonic() + _DEATH_S
    while group_runs(group) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)


def group_runs(group: int) -> bool:
    """Whether a process of the group is alive, also one whose parent ended first and that is nobody's child."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # macOS permits nothing where all have ended
        return False
    if not Path("/proc/self/stat").exists():
        return True
    # Linux counts those that have ended and that nobody has taken note of: in a container, for ever.
    stats = (_stat(path) for path in Path("/proc").glob("[0-9]*/stat"))
    return any(int(stat[2]) == group and stat[0] not in "ZX" for stat in stats if stat)


def _stat(path: Path) -> list[str]:
    """State, parent, group and more of a process; nothing when it has ended."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").rpartition(")")[2].split()
    return []


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt

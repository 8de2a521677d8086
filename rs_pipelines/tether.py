"""`python -m rs_pipelines.tether COMMAND ...`: runs a command that must not outlive whoever started it.

A parent that is killed cannot stop its children. Linux could (prctl), macOS could not, so this looks at its own parent
and stops the command, children and all, when that is gone. It must lead a process group of its own.
"""

import os
import signal
import subprocess
import sys
import time

_POLL_S = 0.5
_GRACE_S = 8.0


def main(command: list[str]) -> int:
    """Run `command` to its end, or to the end of our parent; its exit status."""
    parent = os.getppid()
    child = subprocess.Popen(command)
    # The group's owner signals all of us; we stay until the command has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            return child.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                return _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> int:
    os.killpg(os.getpgid(0), signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(os.getpgid(0), signal.SIGKILL)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

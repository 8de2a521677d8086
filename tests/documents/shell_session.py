"""One bash for a whole document: what a command sets, the next one finds."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_END = "--- end of the command:"


class CommandFailedError(AssertionError):
    """A command ended with another status than 0, or not in time."""


class ShellSession:
    """A bash in `folder` that takes one command after the other; it and all that it started end with the block."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def run(self, command: str, *, status: int = 0, timeout_s: float = 400) -> str:
        """What the command printed, on either stream.

        Raises:
            CommandFailedError: its status is another, it ended the shell, or it takes longer than `timeout_s`.
        """
        self._type(f"{command}\nprintf '\\n%s %d\\n' '{_END}' $?\n")
        printed: list[str] = []
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CommandFailedError(f"no end after {timeout_s:g} s: {command}\n{''.join(printed)}") from None
            if line is None:
                raise CommandFailedError(f"the shell ended in {command}\n{''.join(printed)}")
            if line.startswith(_END):
                break
            printed.append(line)
        output = "".join(printed)
        if (ended_with := int(line.removeprefix(_END))) != status:
            raise CommandFailedError(f"exit status {ended_with}: {command}\n{output}")
        return output

    def start(self, command: str, *, log: Path) -> int:
        """Start a command that runs until it is stopped; its process id."""
        return int(self.run(f"{command} >>'{log}' 2>&1 </dev/null & echo $!").split()[-1])

    def _type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self, stream: IO[str] | None) -> None:
        assert stream is not None
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

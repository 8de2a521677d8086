"""Child processes: which ports are free for them, and that nothing of them is left."""

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import psutil
import pytest

from rs_pipelines.processes import Processes, ProcessFailedError, free_port, refuse_taken
from tests.e2e.processes import running_in
from tests.running import eventually


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_port_where_somebody_listens_is_not_free(host: str) -> None:
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
        with pytest.raises(ProcessFailedError, match=f"127.0.0.1:{port} is taken"):
            refuse_taken("127.0.0.1", port, what="gateway.addr")


def test_a_port_where_nobody_listens_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert free_port(port) == port
    refuse_taken("127.0.0.1", port, what="gateway.addr")


def test_a_listener_that_shares_all_addresses_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # BSD and macOS let a second socket bind 127.0.0.1 beside it; SO_REUSEPORT does the same here.
    original = socket.socket.bind

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        original(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port


STUBBORN = """
import os, signal, subprocess, sys, time
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1], "grandchild"])
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("ready", "w").close()
time.sleep(600)
"""
"""A process with a child that does not care for SIGTERM."""


def test_what_takes_its_time_to_die_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_group, late = os.killpg, list[threading.Timer]()

    def slowly(group: int, number: int) -> None:
        if number != signal.SIGKILL:
            kill_group(group, number)
            return
        late.append(threading.Timer(0.3, kill_group, (group, number)))
        late[-1].start()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "killpg", slowly)
    with Processes(tmp_path / "logs") as processes:
        processes.start("stubborn", [sys.executable, "-c", STUBBORN, STUBBORN])
        eventually((tmp_path / "ready").exists)
        groups = {child.pid for child in psutil.Process().children() if "rs_pipelines.tether" in child.cmdline()}
        assert len(running_in(groups)) == 3, "the tether, the child and its child"
    assert running_in(groups) == []
    for timer in late:
        timer.join()

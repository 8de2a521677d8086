"""A real gateway process: killed, stopped, started twice, started wrongly."""

import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import upstream as wire
from tests.e2e.processes import free_address, route_switch, serving
from tests.gateway.test_chat import HELP, configuration
from tests.running import RunningGateway, eventually, register, write_configuration
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e


@pytest.fixture
def address() -> str:
    return free_address()


def configured(folder: Path, upstream: Upstream, address: str, **sections: Any) -> str:
    register(folder)
    settings = {**configuration(upstream), **sections}
    settings["gateway"]["addr"] = address
    write_configuration(folder, settings)
    return f"http://{address}"


class Load:
    """Clients that ask until they are refused or told to stop.

    Attributes:
        answered: trace id -> when its answer had come (`time.monotonic`).
    """

    def __init__(
        self, url: str, *, pause_s: float = 0.0, n_clients: int = 4, headers: Mapping[str, str] | None = None
    ) -> None:
        self._headers = dict(headers or {})
        self._url, self._pause_s, self._stopped = url, pause_s, threading.Event()
        self.answered: dict[str, float] = {}
        self._threads = [threading.Thread(target=self._ask) for _ in range(n_clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, headers=self._headers) as client:
            while not self._stopped.wait(self._pause_s):
                try:
                    response = client.post("/v1/chat/completions", json=HELP)
                except httpx.HTTPError:
                    return
                if response.status_code == 200:
                    self.answered[response.headers["x-route-switch-trace-id"]] = time.monotonic()

    def stop(self) -> dict[str, float]:
        self._stopped.set()
        for thread in self._threads:
            thread.join(120)
        return self.answered


def stored(folder: Path) -> set[str]:
    connection = sqlite3.connect(folder / "data/traces.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT trace_id FROM traces")}
    finally:
        connection.close()


FLUSH_S = 0.5
LOST_S = FLUSH_S + 4.0
"""What may be lost: a flush interval, and what a commit takes on a machine that is busy with other tests."""


def test_killed_under_load_only_answers_of_the_last_flush_interval_are_lost_and_a_restart_is_clean(
    tmp_path: Path, address: str
) -> None:
    with Upstream([wire.answers("ok")]).running() as up:
        url = configured(tmp_path, up, address, stores={"flush_interval_seconds": FLUSH_S})
        with serving(tmp_path, url) as process:
            # With the pause no batch is full before the test is over; a full one is committed at once.
            load = Load(url, pause_s=0.15)

            def enough_must_be_kept() -> bool:
                return sum(time.monotonic() - at > LOST_S for at in list(load.answered.values())) > 50

            eventually(enough_must_be_kept, timeout_s=240)
            killed_at = time.monotonic()
            process.kill()
            answered = load.stop()
        kept = stored(tmp_path)
        ages = sorted(killed_at - at for trace_id, at in answered.items() if trace_id not in kept)
        assert ages == [] or ages[-1] <= LOST_S, f"{len(ages)} lost, the oldest {ages[-1]:.3f} s before"
        with serving(tmp_path, url):
            assert RunningGateway(url, tmp_path).ask(HELP).status_code == 200


def test_sigterm_stores_every_answered_request(tmp_path: Path, address: str) -> None:
    with Upstream([wire.answers("ok")]).running() as up:
        url = configured(tmp_path, up, address)
        with serving(tmp_path, url) as process:
            load = Load(url)
            eventually(lambda: len(load.answered) > 100)
            process.send_signal(signal.SIGTERM)
            answered = load.stop()
            assert process.wait(240) in (0, -signal.SIGTERM)
    assert set(answered) <= stored(tmp_path)


def test_two_workers_share_one_address_and_one_store(tmp_path: Path, address: str) -> None:
    with Upstream([wire.answers("ok")]).running() as up:
        # Feedback waits longer for a trace than the other worker takes to store it, on a busy machine too.
        url = configured(tmp_path, up, address, stores={"flush_interval_seconds": 1.0})
        with serving(tmp_path, url, "--workers", "2") as process:
            answered = {RunningGateway(url, tmp_path).ask(HELP).headers["x-route-switch-trace-id"] for _ in range(40)}
            feedback = {"trace_id": max(answered), "kind": "label", "value": "x"}
            codes = {httpx.post(f"{url}/v1/feedback", json=feedback, timeout=60).status_code for _ in range(6)}
            assert codes == {201}, "feedback is taken by either worker, whichever of them has the trace"
            process.send_signal(signal.SIGTERM)
            process.wait(240)
    assert answered <= stored(tmp_path)


def test_a_port_in_use_is_an_error_that_names_it_and_the_fix(tmp_path: Path) -> None:
    with socket.socket() as taken, Upstream([wire.answers("ok")]).running() as up:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        configured(tmp_path, up, f"127.0.0.1:{port}")
        result = route_switch("serve", cwd=tmp_path)
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "RS_GATEWAY__ADDR" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_public_address_without_client_keys_is_refused(tmp_path: Path) -> None:
    with Upstream([wire.answers("ok")]).running() as up:
        configured(tmp_path, up, "0.0.0.0:8080")
        result = route_switch("serve", cwd=tmp_path)
    assert result.returncode == 1
    assert "no client key is active" in " ".join(result.stderr.split())


def test_no_configuration_is_one_clear_line(tmp_path: Path) -> None:
    result = route_switch("serve", cwd=tmp_path)
    assert result.returncode == 1
    assert "route-switch.yaml" in result.stderr
    assert "Traceback" not in result.stderr

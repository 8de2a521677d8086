"""A real file system without a free byte under a real gateway: it stops storing, not serving, and says so."""

import json
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import upstream as wire
from tests.e2e.processes import free_address, route_switch, serving
from tests.e2e.test_gateway_process import configured, stored
from tests.gateway.test_chat import HELP
from tests.running import eventually
from tests.small_disks import fill, small_disk
from tests.trace_files import a_trace, opened
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e
TEXT = "x" * 3_000
"""An answer long enough to take what little room a full disk may still have."""


@pytest.fixture
def disk(tmp_path: Path, need: Callable[..., None]) -> Iterator[Path]:
    """Everything that the gateway writes lies on it: stores, and the log that its stderr goes to."""
    with small_disk(tmp_path, size_kb=4_096) as disk:
        need("full_disk", have=disk is not None, why="a small file system cannot be mounted here")
        assert disk is not None
        yield disk


def asked(url: str, n: int = 1, **changes: Any) -> list[str]:
    """Trace ids of that many answers, all of them whole."""
    trace_ids: list[str] = []
    for _ in range(n):
        response = httpx.post(f"{url}/v1/chat/completions", json={**HELP, **changes}, timeout=60)
        assert response.status_code == 200, response.text
        assert TEXT in response.text
        trace_ids.append(response.headers["x-route-switch-trace-id"])
    return trace_ids


def storage(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/health/storage", timeout=60).json()


def log_events(folder: Path) -> list[str]:
    lines = (folder / "process.log").read_text(errors="replace").splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{") and line.endswith("}")]


@pytest.mark.parametrize("durability", ["batched", "sync"])
def test_a_full_disk_costs_no_answer_is_said_once_and_is_made_good_when_there_is_room(
    disk: Path, durability: str
) -> None:
    with Upstream([wire.answers(TEXT)]).running() as up:
        url = configured(disk, up, free_address(), stores={"durability": durability})
        with serving(disk, url):
            before = asked(url, 3)
            eventually(lambda: set(before) <= stored(disk))
            ballast = fill(disk)
            lacking = asked(url, 20)
            eventually(lambda: not storage(url)["ok"])
            lacking += asked(url, 20)
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
            assert httpx.get(f"{url}/health/storage", timeout=60).status_code == 503
            state = storage(url)
            assert "full" in state["error"]
            assert state["dropped"] == 0
            assert httpx.get(f"{url}/status", timeout=60).json()["status"] == "degraded"
            metrics = httpx.get(f"{url}/metrics", timeout=60).text
            assert "route_switch_trace_store_up 0" in metrics
            feedback = {"trace_id": before[0], "kind": "label", "value": "x" * 10_000}
            refused = httpx.post(f"{url}/v1/feedback", json=feedback, timeout=60)
            assert refused.status_code == 503

            ballast.unlink()
            eventually(lambda: storage(url)["ok"], timeout_s=240)
            eventually(lambda: set(before + lacking) <= stored(disk), timeout_s=240)
            assert storage(url)["dropped"] == 0
            assert httpx.get(f"{url}/status", timeout=60).json()["status"] == "ok"
        events = log_events(disk)
    assert events.count("trace_store_failing") <= 1
    assert events.count("trace_store_recovered") == 1


def test_a_gateway_that_is_started_on_a_full_disk_serves_and_stores_once_there_is_room(disk: Path) -> None:
    with Upstream([wire.answers(TEXT)]).running() as up:
        url = configured(disk, up, free_address())
        key = json.loads(route_switch("keys", "create", "shop", "--json", cwd=disk).stdout)["key"]
        with serving(disk, url) as process:
            process.send_signal(signal.SIGTERM)  # which leaves no log and no index beside the databases
            process.wait(240)
        ballast = fill(disk)
        with serving(disk, url):
            assert not storage(url)["ok"]
            assert "the disk is full" in storage(url)["error"]
            assert httpx.post(f"{url}/v1/chat/completions", json=HELP, timeout=60).status_code == 401
            asked_with = {"authorization": f"Bearer {key}"}
            answers = [
                httpx.post(f"{url}/v1/chat/completions", json=HELP, headers=asked_with, timeout=60) for _ in range(5)
            ]
            assert [answer.status_code for answer in answers] == [200] * 5
            ballast.unlink()
            eventually(lambda: storage(url)["ok"], timeout_s=240)
            trace_ids = {answer.headers["x-route-switch-trace-id"] for answer in answers}
            eventually(lambda: trace_ids <= stored(disk), timeout_s=240)
    assert log_events(disk).count("trace_store_recovered") == 1


def test_client_keys_stay_in_force_on_a_full_disk(disk: Path) -> None:
    with Upstream([wire.answers(TEXT)]).running() as up:
        url = configured(disk, up, free_address())
        key = json.loads(route_switch("keys", "create", "shop", "--json", cwd=disk).stdout)["key"]
        headers = {"authorization": f"Bearer {key}"}
        with serving(disk, url):
            ballast = fill(disk)
            for _ in range(30):
                response = httpx.post(f"{url}/v1/chat/completions", json=HELP, headers=headers, timeout=60)
                assert response.status_code == 200
                assert httpx.post(f"{url}/v1/chat/completions", json=HELP, timeout=60).status_code == 401
            ballast.unlink()
            eventually(lambda: storage(url)["access_error"] is None and storage(url)["ok"], timeout_s=240)

            def counted() -> list[int]:
                keys = json.loads(route_switch("keys", "list", "--json", cwd=disk).stdout)
                return [key["usage"]["total"]["requests"] for key in keys]

            eventually(lambda: counted() == [30])


@pytest.mark.parametrize("room_bytes", [0, 65_536])
def test_an_ingest_into_a_full_disk_says_what_to_do_and_brings_every_row_when_there_is_room(
    disk: Path, tmp_path: Path, room_bytes: int
) -> None:
    config = tmp_path / "route-switch.yaml"
    config.write_text(f"data_dir: {disk / 'data'}\n")
    with opened(disk / "data/traces.db") as store:
        for number in range(40):
            store.append(a_trace(f"{number:026d}", content=secrets.token_hex(1_500)))
    ballast = fill(disk)
    os.truncate(ballast, ballast.stat().st_size - room_bytes)

    refused = route_switch("ingest", "--config", str(config), cwd=tmp_path)

    assert refused.returncode == 1
    assert "No space left on device" in refused.stderr
    assert "Free room" in refused.stderr
    assert "DEBUG" not in refused.stderr
    ballast.unlink()
    again = route_switch("ingest", "--json", "--config", str(config), cwd=tmp_path)
    assert json.loads(again.stdout)["rows"] == 40, again.stderr

"""Client keys in real processes: public addresses, several workers with one account, a worker that is killed."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from rs_gateway.domain.access import KeyLimits
from tests import upstream as wire
from tests.e2e.processes import free_address, route_switch, serving
from tests.gateway.keyed import auth, check_one_account_of_60, issue, priced
from tests.gateway.test_chat import HELP
from tests.running import eventually, register, write_configuration
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e


@pytest.fixture
def address() -> str:
    return free_address()


@pytest.fixture
def up() -> Generator[Upstream]:
    with Upstream([wire.answers("ok")]).running() as upstream:
        yield upstream


def configured(folder: Path, upstream: Upstream, address: str) -> str:
    register(folder)
    settings = priced(upstream)
    settings["gateway"]["addr"] = address
    settings["api"]["timeout_seconds"] = 240  # a stream that waits must not end before it has been looked at
    write_configuration(folder, settings)
    return f"http://{address.replace('0.0.0.0', '127.0.0.1')}"


def ask(url: str, secret: str | None) -> int:
    """Status of one request, on a connection of its own, so that any worker may get it."""
    headers = {} if secret is None else auth(secret)
    # Without certificates to load, which takes a client longer than the rest.
    return httpx.post(f"{url}/v1/chat/completions", json=HELP, headers=headers, timeout=60, verify=False).status_code


def words_of(result: Any) -> str:
    return " ".join(result.stderr.split())


def test_a_public_address_is_refused_without_an_active_key_and_check_says_the_same(
    tmp_path: Path, up: Upstream, address: str
) -> None:
    url = configured(tmp_path, up, f"0.0.0.0:{address.rpartition(':')[2]}")

    def both_refuse() -> None:
        for command in ("serve", "check"):
            result = route_switch(command, cwd=tmp_path)
            assert result.returncode == 1
            assert "no client key is active: make one with `route-switch keys create NAME`" in words_of(result)

    both_refuse()
    issued = json.loads(route_switch("keys", "create", "shop", "--json", cwd=tmp_path).stdout)
    checked = route_switch("check", "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    with serving(tmp_path, url):
        assert ask(url, None) == 401
        assert ask(url, issued["key"]) == 200
    assert route_switch("keys", "revoke", issued["key_id"], cwd=tmp_path).returncode == 0
    both_refuse()


def test_check_makes_no_key_store(tmp_path: Path, up: Upstream, address: str) -> None:
    configured(tmp_path, up, address)
    assert route_switch("check", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "data/access.db").exists()


def test_check_and_serve_name_a_key_store_that_cannot_be_read(tmp_path: Path, up: Upstream, address: str) -> None:
    configured(tmp_path, up, address)
    (tmp_path / "data/access.db").write_bytes(b"no database at all, but long enough to look like a page" * 100)
    for command in ("check", "serve"):
        result = route_switch(command, cwd=tmp_path)
        assert result.returncode == 1
        assert "access.db" in words_of(result)
        assert "Traceback" not in result.stderr


def test_keys_made_and_revoked_on_the_command_line_count_in_every_worker(
    tmp_path: Path, up: Upstream, address: str
) -> None:
    url = configured(tmp_path, up, address)
    with serving(tmp_path, url, "--workers", "2"):
        assert ask(url, None) == 200
        issued = json.loads(route_switch("keys", "create", "shop", "--json", cwd=tmp_path).stdout)
        eventually(lambda: {ask(url, None) for _ in range(20)} == {401})
        eventually(lambda: {ask(url, issued["key"]) for _ in range(20)} == {200})
        route_switch("keys", "revoke", issued["key_id"], cwd=tmp_path)
        eventually(lambda: {ask(url, issued["key"]) for _ in range(20)} == {401})


def test_a_version_made_live_over_the_api_is_soon_served_by_every_worker(
    tmp_path: Path, up: Upstream, address: str
) -> None:
    url = configured(tmp_path, up, address)
    headers = auth(issue(tmp_path, "boss", admin=True).secret)

    def version() -> str:
        answer = httpx.post(f"{url}/v1/chat/completions", json=HELP, headers=headers, timeout=60)
        return answer.headers["x-route-switch-version"]

    with serving(tmp_path, url, "--workers", "2"):
        template = f"{url}/admin/templates/support"
        added = httpx.post(
            f"{template}/versions", json={"instruction": "Two, {customer_name}."}, headers=headers, timeout=60
        )
        assert added.status_code == 201
        assert {version() for _ in range(20)} == {"1"}
        live = httpx.post(f"{template}/live", json={"version": 2, "reason": "better"}, headers=headers, timeout=60)
        assert live.status_code == 200
        eventually(lambda: {version() for _ in range(20)} == {"2"})


def test_two_workers_share_the_rate_and_the_budget_of_a_key(tmp_path: Path, up: Upstream, address: str) -> None:
    url = configured(tmp_path, up, address)
    by_rate = issue(tmp_path, "rate", limits=KeyLimits(requests_per_minute=60))
    by_budget = issue(tmp_path, "budget", limits=KeyLimits(budget_usd=60 * 14))
    with serving(tmp_path, url, "--workers", "2"):
        for secret in (by_rate.secret, by_budget.secret):
            check_one_account_of_60(
                lambda _, secret=secret: ask(url, secret), filling_per_s=float(secret == by_rate.secret)
            )


@contextlib.contextmanager
def open_stream(url: str, secret: str) -> Generator[threading.Event]:
    """A stream that has begun; the event is set when it ends, however it does."""
    begun, ended = threading.Event(), threading.Event()

    def read() -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.Client(timeout=60) as client,
            client.stream(
                "POST", f"{url}/v1/chat/completions", json={**HELP, "stream": True}, headers=auth(secret)
            ) as response,
        ):
            for _ in response.iter_raw():
                begun.set()
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(240)
    yield ended
    thread.join(60)
    assert not thread.is_alive()


def workers_of(supervisor: int) -> list[int]:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in _command_line(pid)]


def _command_line(pid: str) -> bytes:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""  # it ended a moment ago


def test_a_stream_counts_in_both_workers_and_a_killed_worker_frees_its_place(
    tmp_path: Path, up: Upstream, address: str
) -> None:
    first = wire.chunk({"role": "assistant", "content": "a"})
    up.script[:] = [wire.sends([first, wire.chunk({"content": "b"})], then="stall"), wire.answers("ok")]
    url = configured(tmp_path, up, address)
    secret = issue(tmp_path, "shop", limits=KeyLimits(concurrency=1)).secret
    with serving(tmp_path, url, "--workers", "2") as process:
        before = workers_of(process.pid)
        assert len(before) == 2
        with open_stream(url, secret) as ended:
            eventually(lambda: [ask(url, secret) for _ in range(20)] == [429] * 20)
            for worker in before:
                os.kill(worker, signal.SIGKILL)
                if ended.wait(3):
                    break
            assert ended.wait(240)
        eventually(lambda: answered(url, secret), timeout_s=240)
        eventually(lambda: len(workers_of(process.pid)) == 2, timeout_s=240)


def answered(url: str, secret: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return ask(url, secret) == 200
    return False


def test_what_a_key_spent_is_still_spent_after_a_restart(tmp_path: Path, up: Upstream, address: str) -> None:
    url = configured(tmp_path, up, address)
    issued = issue(tmp_path, "shop", limits=KeyLimits(budget_usd=14))
    with serving(tmp_path, url) as process:
        assert ask(url, issued.secret) == 200
        process.terminate()
        process.wait(240)
    with serving(tmp_path, url):
        assert ask(url, issued.secret) == 429
    shown = yaml.safe_load(route_switch("keys", "show", issued.key.key_id, cwd=tmp_path).stdout)
    assert shown["spent_usd"] == 14

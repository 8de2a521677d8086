"""Backup and restore beside a real gateway process."""

import json
import signal
from pathlib import Path

import httpx
import pytest

from tests import upstream as wire
from tests.e2e.processes import free_address, route_switch, serving
from tests.e2e.test_gateway_process import Load, configured, stored
from tests.gateway.test_chat import HELP
from tests.running import RunningGateway, eventually
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e


def test_a_gateway_restored_from_a_backup_of_a_busy_one_serves_and_keeps_its_keys(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    with Upstream([wire.answers("ok")]).running() as up:
        url = configured(old, up, free_address())
        key = json.loads(route_switch("keys", "create", "shop", "--admin", "--json", cwd=old).stdout)["key"]
        with serving(old, url) as process:
            load = Load(url, headers={"authorization": f"Bearer {key}"})
            eventually(lambda: len(load.answered) > 100)
            before = set(load.answered)
            made = route_switch("backup", "../backup", "--json", cwd=old)
            assert made.returncode == 0, made.stderr
            refused = route_switch("restore", "../backup", "--overwrite", cwd=old)
            answered = load.stop()
            assert len(answered) > len(before), "it answered all the while"
            assert RunningGateway(url, old).ask(HELP, headers={"authorization": f"Bearer {key}"}).status_code == 200
            process.send_signal(signal.SIGTERM)
            process.wait(240)
        assert json.loads(made.stdout)["parts"] == ["prompts", "traces.db", "access.db"]
        assert refused.returncode == 1
        assert "in use by another process: stop the gateway" in " ".join(refused.stderr.split())

        # A new machine: there is nothing but the program and the backup.
        back = route_switch("restore", "../backup", "--json", cwd=new)
        assert back.returncode == 0, back.stderr
        result = json.loads(back.stdout)
        assert (result["restored"], result["configuration"], result["replaced"]) == (True, "restored", [])
        with serving(new, url):
            assert httpx.get(f"{url}/health/storage", timeout=60).json()["ok"]
            assert httpx.post(f"{url}/v1/chat/completions", json=HELP, timeout=60).status_code == 401
            fresh = RunningGateway(url, new).ask(HELP, headers={"authorization": f"Bearer {key}"})
            assert fresh.status_code == 200
            eventually(lambda: fresh.headers["x-route-switch-trace-id"] in stored(new))
        assert before <= stored(new)

        again = route_switch("restore", "../backup", cwd=new)
        assert again.returncode == 1
        assert "--overwrite" in again.stderr
        would = route_switch("restore", "../backup", "--dry-run", cwd=new)
        assert would.returncode == 0
        assert "It would replace" in would.stderr

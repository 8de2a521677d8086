"""`route-switch forget` beside a real gateway."""

import json
from pathlib import Path

import pytest

from tests import upstream as wire
from tests.e2e.processes import free_address, route_switch, serving
from tests.e2e.test_gateway_process import configured, stored
from tests.gateway.test_chat import HELP
from tests.running import RunningGateway, eventually
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e


def test_it_shows_asks_removes_and_the_gateway_goes_on(tmp_path: Path) -> None:
    with Upstream([wire.answers("ok")]).running() as up:
        url = configured(tmp_path, up, free_address())
        with serving(tmp_path, url):
            gateway = RunningGateway(url, tmp_path)

            def ask(user: str) -> str:
                return gateway.ask({**HELP, "user": user}).headers["x-route-switch-trace-id"]

            theirs, others = {ask("ann") for _ in range(3)}, {ask("bob") for _ in range(2)}
            eventually(lambda: theirs | others <= stored(tmp_path))
            assert route_switch("ingest", cwd=tmp_path).returncode == 0

            shown = route_switch("forget", "--user", "ann", "--dry-run", "--json", cwd=tmp_path)
            assert shown.returncode == 0, shown.stderr
            result = json.loads(shown.stdout)
            assert (result["found"]["traces"], result["found"]["lake_rows"], result["forgotten"]) == (3, 3, False)
            unsure = route_switch("forget", "--user", "ann", cwd=tmp_path)
            assert unsure.returncode == 1
            assert "pass --yes" in unsure.stderr
            assert theirs <= stored(tmp_path)

            done = route_switch("forget", "--user", "ann", "--yes", "--json", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["forgotten"]
            assert stored(tmp_path) == others
            data = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
            assert not any(name.encode() in content for name in theirs for content in data)

            again = ask("ann")
            eventually(lambda: again in stored(tmp_path))
            nothing = route_switch("forget", "--trace", min(theirs), "--trace", max(theirs), "--yes", cwd=tmp_path)
            assert nothing.returncode == 0
            assert "nothing of it in any store" in nothing.stderr
            assert again in stored(tmp_path)
    assert route_switch("forget", cwd=tmp_path).returncode == 2

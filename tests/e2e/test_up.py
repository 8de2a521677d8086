"""`route-switch up`: two real children, no process left behind, whatever happens to their owner."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import answers, free_address, process_groups, route_switch, running_in, started
from tests.pipelines.tiny_upstream import configuration, tiny, workbench
from tests.running import eventually, write_configuration
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e


def configured(folder: Path, address: str) -> dict[str, Any]:
    with Upstream([tiny]).running() as upstream:
        workbench(folder, upstream)
        settings = configuration(upstream)
    settings["gateway"]["addr"] = address
    write_configuration(folder, settings)
    return settings


def test_killed_with_kill_9_it_leaves_no_process_behind(tmp_path: Path) -> None:
    gateway, dagster = free_address(), free_address()
    configured(tmp_path, gateway)
    with started("up", "--dagster-port", dagster.partition(":")[2], cwd=tmp_path) as process:
        eventually(lambda: process.poll() is not None or answers(f"http://{dagster}/server_info"), timeout_s=240)
        assert process.poll() is None, (tmp_path / "process.log").read_text()
        eventually(lambda: answers(f"http://{gateway}/health"))
        children: set[int] = set()

        def all_run() -> bool:
            children.update(process_groups(process) - {os.getpgid(process.pid)})
            running = " ".join(running_in(children))
            return all(name in running for name in ("rs_gateway serve", "webserver", "daemon", "code-server"))

        eventually(all_run)
        process.kill()
        eventually(lambda: is_free(gateway) and is_free(dagster) and running_in(children) == [], timeout_s=240)


def test_a_gateway_that_is_there_already_is_not_taken_for_ours(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        configured(tmp_path, address)
        result = route_switch("up", cwd=tmp_path)
    assert result.returncode == 1
    assert f"{address} is taken" in " ".join(result.stderr.split())


def is_free(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.partition(":")[2]))) != 0


@pytest.mark.parametrize(
    ("line", "words"),
    [("evaluator: Exakt", "There is no evaluator 'Exakt'"), ("reference: captured", "captured:COMBINATION_ID")],
)
def test_a_template_that_could_never_be_optimised_is_refused_when_it_is_registered(
    tmp_path: Path, line: str, words: str
) -> None:
    configured(tmp_path, "127.0.0.1:8080")
    (tmp_path / "new.yaml").write_text(f"id: new\ninstruction: Do it.\n{line}\n")
    result = route_switch("template", "register", "new.yaml", cwd=tmp_path)
    assert result.returncode == 1
    assert words in " ".join(result.stderr.split())

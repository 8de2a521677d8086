"""One run over several machines, each a process here: Dagster on Postgres, a code location, two Celery workers."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._grpc.client import DagsterGrpcClient

from rs_pipelines import results
from rs_pipelines.workbench import Workbench
from tests.e2e.processes import free_address
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.redis_server import redis_server
from tests.running import eventually
from tests.upstream import Exchange, Upstream

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
RUN_ID = "00000000-0000-4000-8000-000000000001"
HELD_AFTER = 150
"""Calls after which the model says nothing more until it is told to: in the middle of the study."""


@dataclass
class Cluster:
    """What runs beside the test: everything but the gateway."""

    bench: Workbench
    environment: Mapping[str, str]
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, subprocess.Popen[bytes]])

    @property
    def folder(self) -> Path:
        return self.bench.settings.config_path.parent

    def launch(self, partition: str) -> None:
        """Put a run of the whole loop into the queue."""
        command = [sys.executable, "-m", "dagster", "job", "launch", "-w", str(self.folder / "workspace.yaml")]
        command += ["-j", "optimize", "--run-id", RUN_ID, "--tags", json.dumps({"dagster/partition": partition})]
        launched = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240)
        assert launched.returncode == 0, launched.stderr

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def cluster(folder: Path, upstream: Upstream, database: str, need: Callable[..., None]) -> Generator[Cluster]:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(redis_server(need))
        pipelines = {"executor": "celery", "broker": broker, "lost_after_seconds": 3}
        # Its own database would do as well; the tables are in a schema of their own.
        bench = workbench(folder, upstream, pipelines=pipelines, stores={"answers": database})
        home = folder / "dagster_home"
        home.mkdir()
        shutil.copy(ROOT / "deploy/dagster.yaml", home / "dagster.yaml")
        host, _, port = free_address().partition(":")
        location = {"host": host, "port": int(port), "location_name": "route-switch"}
        (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": location}]}))
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": database.replace("postgresql://", "postgresql+psycopg2://"),
            "RS_CONFIG": str(bench.settings.config_path),
            "TMPDIR": str(folder),
        }
        here = Cluster(bench, environment)

        def start(name: str, *command: str) -> subprocess.Popen[bytes]:
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            stack.callback(_kill, process)
            return process

        code = ["code-server", "start", "-m", "rs_pipelines.definitions", "--host", host, "--port", port]
        start("code", "dagster", *code)
        for name in ("one", "two"):
            here.workers[name] = start(
                name, "celery", "-A", "rs_pipelines.defs.celery_app", "worker", "-n", f"{name}@%h", "-c", "1"
            )
        start("daemon", "dagster._daemon", "run", "-w", str(folder / "workspace.yaml"))
        eventually(lambda: accepts(host, int(port)), timeout_s=240)
        client = DagsterGrpcClient(host=host, port=int(port))
        eventually(lambda: client.health_check_query() == "SERVING", timeout_s=240)
        yield here


def accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def workers_of(instance: dg.DagsterInstance) -> dict[str, list[str]]:
    """Step -> names of the workers that began it, in order."""
    found: dict[str, list[str]] = {}
    for record in instance.get_records_for_run(RUN_ID, of_type=dg.DagsterEventType.ENGINE_EVENT).records:
        entry = record.event_log_entry
        metadata = entry.get_dagster_event().engine_event_data.metadata
        if entry.step_key is not None and "Celery worker" in metadata:
            worker = str(metadata["Celery worker"].value).partition("@")[0]
            found.setdefault(entry.step_key, []).append(worker)
    return found


def test_a_run_goes_over_two_workers_and_outlives_the_one_that_is_killed_in_its_study(
    tmp_path: Path, database: str, need: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tiny_until_held(exchange: Exchange) -> None:
        if len(upstream.requests) > HELD_AFTER:
            await exchange.told.wait()
        await tiny(exchange)

    with Upstream([tiny_until_held]).running() as upstream, cluster(tmp_path, upstream, database, need) as here:
        bench = here.bench
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", here.environment["DAGSTER_POSTGRES_URL"])
        with dg.DagsterInstance.from_config(here.environment["DAGSTER_HOME"]) as instance:
            instance.add_dynamic_partitions("targets", [target.key])
            here.launch(target.key)

            def finished() -> bool:
                run = instance.get_run_by_id(RUN_ID)
                return run is not None and run.is_finished

            eventually(lambda: finished() or len(upstream.requests) > HELD_AFTER, timeout_s=240)
            assert not finished(), here.logs()
            [first] = workers_of(instance)["study"]
            os.killpg(here.workers[first].pid, signal.SIGKILL)
            asked = len(upstream.requests)
            upstream.tell()
            eventually(finished, timeout_s=240)
            run = instance.get_run_by_id(RUN_ID)
            assert run is not None
            assert run.status is dg.DagsterRunStatus.SUCCESS, here.logs()
            [other] = here.workers.keys() - {first}
            assert workers_of(instance)["study"] == [first, other]
            assert [workers_of(instance)[step] for step in ("comparison", "comparison_checks", "publication")] == [
                [other]
            ] * 3
        study = results.study_of(bench, target)
        assert bench.live(target).origin.study_id == study.study_id
        # Paid for twice is only what was in flight when the worker was killed.
        again = [json.dumps(r, sort_keys=True) for r in upstream.requests]
        assert len(again) - len(set(again)) <= bench.settings.mipro_v2.concurrency
        assert len(upstream.requests) > asked

"""A running Dagster UI for the tests, what its API is asked, and whether a picture of it shows anything."""

import contextlib
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rs_pipelines.defs.instance import dagster_home
from rs_pipelines.workbench import Workbench
from tests.e2e.processes import answers, free_address
from tests.running import eventually

ROOT = Path(__file__).parents[2]
_START_SENSOR = """mutation($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) {
  __typename ... on PythonError { message } } }"""
_RUNS = """query($filter: RunsFilter!) { runsOrError(filter: $filter) {
  ... on Runs { results { runId tags { key value } } } } }"""
_AGAIN = """mutation($again: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $again) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_TERMINATE = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"
_STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
_CODE = {"repositoryLocationName": "route-switch", "repositoryName": "__repository__"}


@dataclass(frozen=True, slots=True)
class DagsterUi:
    """What a person's browser does, without the browser."""

    url: str

    def switch_on(self, sensor: str) -> None:
        """Switch a sensor on, as on the page Automation."""
        assert self._ask(_START_SENSOR, sensor={**_CODE, "sensorName": sensor})["startSensor"]["__typename"] == "Sensor"

    def runs_of(self, key: str) -> dict[str, dict[str, str]]:
        """Run id -> tags, of the runs of a partition."""
        asked = self._ask(_RUNS, filter={"tags": [{"key": "dagster/partition", "value": key}]})
        runs = asked["runsOrError"]["results"]
        return {run["runId"]: {tag["key"]: tag["value"] for tag in run["tags"]} for run in runs}

    def again(self, run_id: str) -> str:
        """Re-execute all steps of a run; the new run's id."""
        asked = self._ask(_AGAIN, again={"parentRunId": run_id, "strategy": "ALL_STEPS"})
        return self._run_id(asked["launchRunReexecution"])

    def terminate(self, run_id: str) -> None:
        """Terminate a run."""
        assert self._ask(_TERMINATE, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def status(self, run_id: str) -> str:
        """How a run is."""
        return str(self._ask(_STATUS, id=run_id)["runOrError"]["status"])

    def wait_for(self, run_id: str, status: str) -> None:
        """Return once the run has that status; fail the test when it ends in another one."""
        ends = {"SUCCESS", "FAILURE", "CANCELED"}
        eventually(lambda: self.status(run_id) in ends | {status}, timeout_s=240)
        assert self.status(run_id) == status

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=240).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def _run_id(self, answer: dict[str, Any]) -> str:
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])


@contextlib.contextmanager
def running_ui(bench: Workbench, folder: Path) -> Generator[DagsterUi]:
    """`dagster dev` on the workspace file of the repository, as the guide starts it."""
    address = free_address()
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home(bench)),
        "RS_CONFIG": str(bench.settings.config_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(ROOT / "workspace.yaml")]
    command += ["--host", "127.0.0.1", "--port", address.partition(":")[2]]
    with (folder / "dagster.log").open("wb") as log:
        dagster = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: dagster.poll() is not None or answers(f"http://{address}/server_info"), timeout_s=240)
        assert dagster.poll() is None, (folder / "dagster.log").read_text()
        yield DagsterUi(f"http://{address}")
    finally:
        os.killpg(dagster.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            dagster.wait(30)
        if dagster.poll() is None:  # how fast it stops on a busy machine is not what these tests are about
            os.killpg(dagster.pid, signal.SIGKILL)
            dagster.wait()


def distinct_lines(png: Path) -> int:
    """How many different lines of pixels a PNG has; a blank page has a handful.

    Lines are compared as the file filters them, which tells whether they differ without undoing it.
    """
    content, at, packed, height, size = png.read_bytes(), 8, b"", 0, 0
    while at < len(content):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        chunk = content[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            height = int.from_bytes(chunk[4:8])
        if kind == b"IDAT":
            packed += chunk
        at += 12 + length
    pixels = zlib.decompress(packed)
    size = len(pixels) // height
    return len({pixels[start : start + size] for start in range(0, len(pixels), size)})

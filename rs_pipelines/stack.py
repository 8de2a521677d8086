"""The gateway and Dagster's UI as child processes on one configuration."""

import sys
from pathlib import Path

import yaml

from rs_pipelines.defs.instance import dagster_home
from rs_pipelines.processes import Processes, ProcessFailedError, refuse_taken, route_switch
from rs_pipelines.workbench import Workbench

_GATEWAY_READY_S = 30.0
_DAGSTER_READY_S = 120.0


def refuse_taken_ports(bench: Workbench, *, dagster_port: int) -> None:
    """Raise ProcessFailedError unless gateway and Dagster each find their port free, before either is started."""
    host, port = bench.settings.gateway.host_and_port
    if port == dagster_port:
        raise ProcessFailedError(f"gateway.addr and --dagster-port both name port {port}: choose another for either.")
    refuse_taken(host, port, what="gateway.addr")
    refuse_taken("127.0.0.1", dagster_port, what="--dagster-port")


def start_gateway(processes: Processes, bench: Workbench) -> str:
    """Start the gateway and wait until it answers; its address."""
    config = bench.settings.config_path.absolute()
    host, port = bench.settings.gateway.host_and_port
    url = bench.settings.gateway.url
    refuse_taken(host, port, what="gateway.addr")
    processes.start("gateway", route_switch("serve", "--config", str(config)))
    processes.wait_until_answers("gateway", f"{url}/health", timeout_s=_GATEWAY_READY_S)
    return url


def start_dagster(processes: Processes, bench: Workbench, *, port: int, wait: bool = True) -> str:
    """Start `dagster dev` and wait until its UI answers; its address."""
    config = bench.settings.config_path.absolute()
    url = f"http://127.0.0.1:{port}"
    refuse_taken("127.0.0.1", port, what="--dagster-port")
    command = [sys.executable, "-m", "dagster", "dev", "--workspace", str(_workspace(bench))]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    processes.start(
        "dagster", command, env={"DAGSTER_HOME": str(dagster_home(bench).absolute()), "RS_CONFIG": str(config)}
    )
    if wait:
        wait_for_dagster(processes, url)
    return url


def _workspace(bench: Workbench) -> Path:
    """What the workspace.yaml of a clone says too: an installed wheel has none, and the location keeps its name."""
    module = {"module_name": "rs_pipelines.definitions", "location_name": "route-switch"}
    path = dagster_home(bench) / "workspace.yaml"
    path.write_text(yaml.safe_dump({"load_from": [{"python_module": module}]}), encoding="utf-8")
    return path.absolute()


def wait_for_dagster(processes: Processes, url: str) -> None:
    """Wait until the UI answers."""
    processes.wait_until_answers("dagster", f"{url}/server_info", timeout_s=_DAGSTER_READY_S)


def sample_folder() -> Path:
    """The sample data: beside the packages in a clone, inside the package in an installed wheel."""
    installed = Path(__file__).parent / "sample"
    return installed if installed.exists() else Path(__file__).parent.parent / "data" / "sample"

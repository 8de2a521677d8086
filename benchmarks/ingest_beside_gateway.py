"""Ingest while a real gateway answers over HTTP as fast as its clients ask, on the same cores."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from benchmarks.contenders import CHAT_PATH, ours
from benchmarks.installs import CACHE, ROOT, build_mock, need_system
from benchmarks.load import LoadResult, Target, run_clean
from benchmarks.processes import BenchmarkError, Children, free_port, wait_until_up
from benchmarks.suite import storage

_CONNECTIONS = 32
_ALONE_S, _TURN_S = 3.0, 1.0
_DRAIN_TIMEOUT_S = 60.0
_POLL_S = 0.1
_T = TypeVar("_T")


@dataclass(frozen=True)
class BesideGateway(Generic[_T]):
    """What both had of each other.

    Attributes:
        ingested: what the ingest says of itself.
        alone_per_s, beside_per_s: requests a second that the gateway answered without an ingest, and while one ran.
        answered: requests while one ran; all of them whole, with status 200.
        stored: traces in the store at the end, all of them in the lake after one more ingest.
    """

    ingested: _T
    alone_per_s: float
    beside_per_s: float
    answered: int
    stored: int


def ingest_beside_gateway(
    folder: Path, fill: Callable[[Path], None], ingest: Callable[[Path], _T]
) -> BesideGateway[_T]:
    """Serve a filled store, load the gateway, and ingest meanwhile.

    Args:
        fill: puts traces into a store.
        ingest: brings the store of a configuration into its lake.

    Raises:
        BenchmarkError: a request failed, a trace was dropped, or the lake has not what the store has.
    """
    need_system()
    load_core, server_core = 0, 1
    with Children(CACHE / "logs") as children:
        upstream_port, port = free_port(), free_port()
        mock = children.start("mock", [build_mock(), str(upstream_port), "0"], core=load_core, directory=ROOT)
        wait_until_up(mock, upstream_port, "/")
        contender = ours(folder, upstream_port, workers=1)
        store = contender.traces
        if store is None:
            raise BenchmarkError("This version stores no traces.")
        config = store.parent.parent / "route-switch.yaml"
        fill(store)
        command, environment = contender.command(port), contender.environment
        gateway = children.start("ours", command, core=server_core, directory=ROOT, environment=environment)
        wait_until_up(gateway, port, contender.health_path)
        target = Target(port, CHAT_PATH, contender.headers, contender.bodies)

        def load(duration_s: float) -> LoadResult:
            return run_clean("ours", target, "plain", connections=_CONNECTIONS, duration_s=duration_s, core=load_core)

        load(_TURN_S)
        alone = load(_ALONE_S)
        with ThreadPoolExecutor(1) as pool:
            ingesting = pool.submit(ingest, config)
            beside: list[LoadResult] = []
            while not ingesting.done():
                beside.append(load(_TURN_S))
            ingested = ingesting.result()
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while (state := storage(port))["queued"] and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        ingest(config)
        stored, in_lake = _rows(store), _lake_rows(config)
        if state["dropped"] or state["queued"] or stored != in_lake:
            raise BenchmarkError(
                f"The store holds {stored:,} traces, the lake {in_lake:,}; {state['dropped']} were dropped and "
                f"{state['queued']} are waiting."
            )
        answered = sum(turn.requests for turn in beside)
        per_s = answered / sum(turn.duration_s for turn in beside)
        return BesideGateway(ingested, alone.per_s, per_s, answered, stored)


def _rows(store: Path) -> int:
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM traces").fetchone()[0])


def _lake_rows(config: Path) -> int:
    code = (
        "import sys; from pathlib import Path; from rs_gateway.settings import load_settings; "
        "from rs_pipelines.workbench import Workbench; from rs_pipelines.steps import lake_rows; "
        "print(lake_rows(Workbench(load_settings(Path(sys.argv[1]))))[0])"
    )
    command = [sys.executable, "-c", code, str(config)]
    environment = {"OPENAI_API_KEY": "none-needed"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        raise BenchmarkError(f"The rows of the lake cannot be counted: {done.stderr[-2_000:]}")
    return int(done.stdout)

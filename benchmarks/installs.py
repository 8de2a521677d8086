"""What a run needs beside this repository: pinned peers in the cache folder, a compiled mock, and system programs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import BenchmarkError, need_program

HERE = Path(__file__).parent
ROOT = HERE.parent
CACHE = Path(os.environ.get("BENCH_CACHE", ROOT / ".cache" / "benchmarks"))
LITELLM_VERSION = "1.106.2"
DSPY_VERSION = "3.4.1"
OPTUNA_VERSION = "5.0.0"
PORTKEY_VERSION = "1.15.2"
PORTKEY_HTTP_SERVER_VERSION = "1.13.8"
"""Of @hono/node-server. With the newer ones that npm would choose, all its streams end in 500 (its issue 1389)."""


def need_system() -> None:
    """Raises BenchmarkError for what must be there and is not, saying how to install it."""
    if sys.platform != "linux":
        raise BenchmarkError("The benchmark reads /proc and pins processes to cores: it runs on Linux only.")
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchmarkError("Two cores are needed: one for the server, one for the load and the upstream.")
    need_program("wrk", "Install it: apt-get install wrk")
    need_program("cc", "Install a C compiler: apt-get install gcc libc6-dev")
    need_program("taskset", "Install it: apt-get install util-linux")


def build_mock() -> Path:
    """The mock upstream, compiled anew when its source is younger."""
    source, program = HERE / "mock_upstream.c", CACHE / "mock_upstream"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(".new")
        _run(["cc", "-O2", "-Wall", "-Wextra", "-o", fresh, source], doing="Compiling the mock upstream")
        fresh.replace(program)
    return program


def install_litellm() -> Path:
    """LiteLLM's proxy in a virtual environment of its own; the path of its command."""
    home = CACHE / f"litellm-{LITELLM_VERSION}"
    if not (home / ".ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", home], doing=f"Making {home}")
        package = f"litellm[proxy]=={LITELLM_VERSION}"
        command = [home / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", package]
        _run(command, doing=f"Installing {package} (a few minutes, once)")
        (home / ".ready").touch()
    return home / "bin" / "litellm"


def install_dspy() -> Path:
    """DSPy in a virtual environment of its own, with the Optuna that we pin; the path of its Python."""
    home = CACHE / f"dspy-{DSPY_VERSION}"
    if not (home / ".ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", home], doing=f"Making {home}")
        packages = [f"dspy=={DSPY_VERSION}", f"optuna=={OPTUNA_VERSION}", "msgspec", "jsonschema"]
        command = [home / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
        _run(command, doing=f"Installing {packages[0]} (a few minutes, once)")
        (home / ".ready").touch()
    return home / "bin" / "python"


def install_portkey() -> Path:
    """Portkey's gateway from npm; the path of the script that node runs."""
    need_program("node", "Install Node.js 20 or newer, or leave this peer out: --skip portkey")
    need_program("npm", "Install Node.js 20 or newer, or leave this peer out: --skip portkey")
    home = CACHE / f"portkey-{PORTKEY_VERSION}"
    if not (home / ".ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        wanted = {
            "private": True,
            "dependencies": {"@portkey-ai/gateway": PORTKEY_VERSION},
            "overrides": {"@hono/node-server": PORTKEY_HTTP_SERVER_VERSION},
        }
        (home / "package.json").write_text(json.dumps(wanted))
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", home]
        _run(command, doing=f"Installing @portkey-ai/gateway {PORTKEY_VERSION} (a minute, once)")
        (home / ".ready").touch()
    return home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"


def _run(command: Sequence[str | Path], *, doing: str) -> None:
    print(f"{doing} ...", file=sys.stderr, flush=True)
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        said = finished.stdout[-2000:] + finished.stderr[-2000:]
        raise BenchmarkError(f"{doing} failed. By hand: {' '.join(map(str, command))}\n{said}")

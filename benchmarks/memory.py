"""The long mixed load: does memory stay flat over plain calls, streams, errors and clients that hang up?"""

import json
import sys
import threading
from pathlib import Path
from statistics import median

from benchmarks.figures import Measurements
from benchmarks.installs import ROOT
from benchmarks.load import Target, run_wrk
from benchmarks.processes import BenchmarkError, Child, Children

CONNECTIONS = 32
_SEGMENT_S = 5.0
_SAMPLE_S = 0.25
_LEVEL_SAMPLES = 20
_ABORT_PAUSE_S = 0.05
_SHARES = {"plain": 60, "stream": 25, "unknown-model": 5, "broken-json": 5, "refused-upstream": 5}
_ERROR_SHARE = 0.15


def measure_growth(
    children: Children,
    server: Child,
    target: Target,
    seen: Measurements,
    *,
    n_requests: int,
    directory: Path,
    core: int,
) -> None:
    """Fill in `growth_mb`, and raise `rss_mb` to the most that was seen. Raises BenchmarkError for wrong answers."""
    bodies = _write_mix(directory, target)
    slow = directory / "mix-slow.json"
    slow.write_text(json.dumps({**json.loads(target.bodies["stream"].read_text()), "user": "bench-slow"}))
    headers = [f"{name}: {value}" for name, value in target.headers.items()]
    command = [sys.executable, "-m", "benchmarks.aborter", str(target.port), target.path, slow, str(_ABORT_PAUSE_S)]
    aborter = children.start("aborter", [*command, *headers], core=core, directory=ROOT)
    sampler = _Sampler(server)
    sampler.start()
    try:
        _load(target, bodies, n_requests=max(n_requests // 10, 10_000), core=core)
        warm = sampler.level()
        _load(target, bodies, n_requests=n_requests, core=core)
        seen.growth_mb = sampler.level() - warm
    finally:
        sampler.stop()
        children.stop(aborter)
    seen.rss_mb[server.name] = max(seen.rss_mb.get(server.name, 0.0), *sampler.samples)


def _load(target: Target, bodies: list[tuple[int, Path]], *, n_requests: int, core: int) -> None:
    done = errors = 0
    while done < n_requests:
        result = run_wrk(target, bodies, connections=CONNECTIONS, duration_s=_SEGMENT_S, core=core)
        if result.socket_errors or not result.requests:
            raise BenchmarkError(f"The mixed load broke {result.socket_errors} connections: see the server's log.")
        done += result.requests
        errors += result.bad_status
        print(f"  {done:,} of {n_requests:,} requests", file=sys.stderr, flush=True)
    if abs(errors / done - _ERROR_SHARE) > 0.02:
        raise BenchmarkError(
            f"{errors:,} of {done:,} requests of the mixed load failed; {_ERROR_SHARE:.0%} are meant to."
        )


def _write_mix(directory: Path, target: Target) -> list[tuple[int, Path]]:
    plain = json.loads(target.bodies["plain"].read_text())
    texts = {
        "plain": target.bodies["plain"].read_text(),
        "stream": target.bodies["stream"].read_text(),
        "unknown-model": json.dumps({**plain, "model": "no-such-model"}),
        "broken-json": json.dumps(plain)[:-20],
        "refused-upstream": json.dumps({**plain, "user": "bench-refused"}),
    }
    mix: list[tuple[int, Path]] = []
    for name, text in texts.items():
        path = directory / f"mix-{name}.json"
        path.write_text(text)
        mix.append((_SHARES[name], path))
    return mix


class _Sampler(threading.Thread):
    """Reads a process's resident memory four times a second."""

    def __init__(self, server: Child) -> None:
        super().__init__(daemon=True)
        self.samples = [server.rss_mb()]
        self._server = server
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(_SAMPLE_S):
            self.samples.append(self._server.rss_mb())

    def level(self) -> float:
        """The median of the last seconds."""
        return median(self.samples[-_LEVEL_SAMPLES:])

    def stop(self) -> None:
        """End it, and wait until it has."""
        self._stopped.set()
        self.join(timeout=5 * _SAMPLE_S)

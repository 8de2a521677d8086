"""The run: starts the contenders, lets them take turns, and measures."""

import http.client
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contenders import CHAT_PATH, Contender, bare, litellm, ours, portkey
from benchmarks.figures import KINDS, Measurements, Reading
from benchmarks.installs import CACHE, ROOT, build_mock, need_system
from benchmarks.load import N_SAMPLES, Kind, Target, check_answers, check_refusal, run_clean
from benchmarks.memory import measure_growth
from benchmarks.processes import BenchmarkError, Child, Children, free_port, wait_until_up

CONNECTIONS = 32
_SETTLE_S = 0.3
_DRAIN_TIMEOUT_S = 60.0
_MOST_STARTS = 3
_NEAR_CEILING = 0.8


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        peers: of `bare`, `litellm`, `portkey`, those that take part.
        steps: of `workers` and `memory`, those that are done.
        duration_s: of one load.
        pause_ms: between the chunks of the upstream's streams.
        n_mixed: requests of the memory run.
    """

    peers: frozenset[str]
    steps: frozenset[str]
    rounds: int
    duration_s: float
    pause_ms: int
    n_mixed: int
    server_core: int
    load_core: int


@dataclass
class _Runner:
    """A contender that is up."""

    contender: Contender
    child: Child
    target: Target
    answered: int = 0
    abandoned: int = 0


def run(plan: Plan, directory: Path) -> tuple[Measurements, list[str]]:
    """Everything, in a fresh directory. Returns what was seen and the contenders' names. Raises BenchmarkError."""
    need_system()
    seen = Measurements()
    with Children(CACHE / "logs") as children:
        port = free_port()
        command = [build_mock(), str(port), str(plan.pause_ms)]
        mock = children.start("mock", command, core=plan.load_core, directory=ROOT)
        wait_until_up(mock, port, "/")
        contenders = _contenders(plan, directory, port)
        ceilings = _measure_ceilings(plan, port, contenders[0])
        runners = _start_all(plan, children, contenders, seen)
        for runner in runners:
            _say(f"Checking answers and warming up: {runner.contender.name}")
            check_answers(runner.contender.name, runner.target)
            runner.answered += 2 * N_SAMPLES
            if runner.contender.keyed:
                check_refusal(runner.contender.name, runner.target)
            for kind in KINDS:
                _load(plan, runner, kind, connections=CONNECTIONS, duration_s=max(1.0, plan.duration_s / 2))
        for number in range(plan.rounds):
            _say(f"Round {number + 1} of {plan.rounds}")
            _measure_round(plan, runners, seen)
        _warn_of_ceilings(seen, ceilings)
        for runner in runners:
            check_answers(runner.contender.name, runner.target)
            runner.answered += 2 * N_SAMPLES
            if runner.contender.traces is not None:
                _check_traces(runner, runner.contender.traces)
        if "memory" in plan.steps:
            _say(f"Memory: {plan.n_mixed:,} mixed requests")
            mine = runners[0]
            core = plan.load_core
            arguments = {"n_requests": plan.n_mixed, "core": core}
            measure_growth(children, mine.child, mine.target, seen, directory=directory, **arguments)
    return seen, [contender.name for contender in contenders]


def _contenders(plan: Plan, directory: Path, upstream_port: int) -> list[Contender]:
    makers: Mapping[str, Callable[[Path, int], Contender]] = {"bare": bare, "litellm": litellm, "portkey": portkey}
    _say("Setting up")
    found = [ours(directory, upstream_port, workers=1)]
    found += [make(directory, upstream_port) for name, make in makers.items() if name in plan.peers]
    if "workers" in plan.steps:
        found.append(ours(directory, upstream_port, workers=2))
    return found


def _measure_ceilings(plan: Plan, port: int, contender: Contender) -> dict[str, float]:
    """What wrk and the mock can do on the core that they share, with no gateway between them."""
    target, core = Target(port, CHAT_PATH, {}, contender.bodies), plan.load_core
    ceilings: dict[str, float] = {}
    for kind in KINDS:
        duration_s = min(2.0, plan.duration_s)
        found = run_clean("The mock", target, kind, connections=CONNECTIONS, duration_s=duration_s, core=core)
        ceilings[kind] = found.per_s
    _say(f"wrk and the mock alone: {ceilings['plain']:,.0f} plain calls/s, {ceilings['stream']:,.0f} streams/s")
    return ceilings


def _warn_of_ceilings(seen: Measurements, ceilings: Mapping[str, float]) -> None:
    for (name, load), readings in seen.loads.items():
        reached = max(reading.per_s for reading in readings) / ceilings.get(load, float("inf"))
        if reached > _NEAR_CEILING:
            _say(f"warning: {name} ({load}) reached {reached:.0%} of what wrk and the mock can do: it may be faster.")


def _start_all(plan: Plan, children: Children, contenders: Sequence[Contender], seen: Measurements) -> list[_Runner]:
    """Start each a few times, in turns; the last time they stay."""
    runners: list[_Runner] = []
    n_starts = min(plan.rounds, _MOST_STARTS)
    for number in range(n_starts):
        for contender in contenders:
            port = free_port()
            child = children.start(
                contender.name,
                contender.command(port),
                core=plan.server_core,
                directory=ROOT,
                environment=contender.environment,
            )
            started_s = wait_until_up(child, port, contender.health_path)
            seen.starts_s.setdefault(contender.name, []).append(started_s)
            _say(f"{contender.name} started in {started_s:.2f} s")
            if number == n_starts - 1:
                target = Target(port, CHAT_PATH, contender.headers, contender.bodies)
                runners.append(_Runner(contender, child, target))
            else:
                children.stop(child)
    return runners


def _measure_round(plan: Plan, runners: Sequence[_Runner], seen: Measurements) -> None:
    for load, connections in (("plain", CONNECTIONS), ("stream", CONNECTIONS), ("one", 1)):
        for runner in runners:
            name = runner.contender.name
            if load != "plain" and name == "ours-2-workers":
                continue
            kind: Kind = "stream" if load == "stream" else "plain"
            duration_s = plan.duration_s if connections > 1 else min(plan.duration_s, 4.0)
            reading = _load(plan, runner, kind, connections=connections, duration_s=duration_s)
            seen.loads.setdefault((name, load), []).append(reading)
            seen.rss_mb[name] = max(seen.rss_mb.get(name, 0.0), runner.child.rss_mb())
            _say(
                f"  {load:6} {name:14} {reading.per_s:8,.0f}/s  p50 {reading.p50_ms:.2f} ms  "
                f"CPU {reading.cpu_us_per_request:,.0f} us"
            )


def _load(plan: Plan, runner: _Runner, kind: Kind, *, connections: int, duration_s: float) -> Reading:
    name = runner.contender.name
    before_s = runner.child.cpu_s()
    core = plan.load_core
    result = run_clean(name, runner.target, kind, connections=connections, duration_s=duration_s, core=core)
    time.sleep(_SETTLE_S)  # what it has put off, such as writing traces, belongs to these requests too
    used_s = runner.child.cpu_s() - before_s
    runner.answered += result.requests
    runner.abandoned += connections
    return Reading(result.per_s, result.p50_ms, used_s / result.requests * 1e6)


def _check_traces(runner: _Runner, path: Path) -> None:
    """Raises BenchmarkError unless every answered request has its row, and nothing else but what wrk broke off has."""
    deadline = time.monotonic() + _DRAIN_TIMEOUT_S
    while (state := storage(runner.target.port))["queued"] and time.monotonic() < deadline:
        time.sleep(_SETTLE_S)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        rows = int(database.execute("SELECT count(*) FROM traces").fetchone()[0])
    low, high = runner.answered, runner.answered + runner.abandoned
    if state["dropped"] or not low <= rows <= high:
        raise BenchmarkError(
            f"{runner.contender.name} answered {low:,} requests (and {high - low} that wrk broke off), "
            f"but stored {rows:,} traces and dropped {state['dropped']}."
        )
    _say(f"{runner.contender.name}: {low:,} requests, {rows:,} traces, none dropped")


def storage(port: int) -> dict[str, int]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/health/storage")
        return json.loads(connection.getresponse().read())


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def quick(plan: Plan) -> Plan:
    """One short round: whether it works, not how fast it is."""
    return replace(plan, rounds=1, duration_s=min(plan.duration_s, 2.0), n_mixed=min(plan.n_mixed, 10_000))

"""Load from wrk, and the check that what comes back is an answer and not a fast mistake."""

import http.client
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.processes import BenchmarkError

Kind = Literal["plain", "stream"]
REQUEST_BYTES = 500
_SCRIPT = Path(__file__).with_name("wrk_post.lua")
_MARK = "bench-answer"
N_SAMPLES = 32
"""Answers of each kind that one check looks at."""


@dataclass(frozen=True)
class Target:
    """Where requests go, and which ones."""

    port: int
    path: str
    headers: Mapping[str, str]
    bodies: Mapping[Kind, Path]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True)
class LoadResult:
    """What wrk saw. A request counts when its whole answer came."""

    requests: int
    duration_s: float
    received_bytes: int
    p50_ms: float
    p99_ms: float
    bad_status: int
    socket_errors: int

    @property
    def per_s(self) -> float:
        """Answered requests a second."""
        return self.requests / self.duration_s


def run_wrk(
    target: Target, bodies: Sequence[tuple[int, Path]], *, connections: int, duration_s: float, core: int
) -> LoadResult:
    """Load the target for a while.

    Args:
        bodies: (weight, file); the bodies take turns by weight.
    """
    headers = [argument for name, value in target.headers.items() for argument in ("-H", f"{name}: {value}")]
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s"]
    command += ["--timeout", "30s", *headers, "-s", str(_SCRIPT), target.url, "--"]
    finished = subprocess.run(
        [*command, *(f"{weight}:{path}" for weight, path in bodies)], capture_output=True, text=True, check=False
    )
    lines = finished.stdout.splitlines()
    if finished.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise BenchmarkError(f"wrk failed on {target.url}:\n{finished.stdout}{finished.stderr}")
    seen = json.loads(lines[-1])
    return LoadResult(
        requests=seen["requests"],
        duration_s=seen["duration_us"] / 1e6,
        received_bytes=seen["bytes"],
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        bad_status=seen["bad_status"],
        socket_errors=seen["socket_errors"],
    )


def run_clean(name: str, target: Target, kind: Kind, *, connections: int, duration_s: float, core: int) -> LoadResult:
    """Load that must be answered: raises BenchmarkError when anything but a whole answer with status 200 came."""
    bodies = [(1, target.bodies[kind])]
    result = run_wrk(target, bodies, connections=connections, duration_s=duration_s, core=core)
    if result.bad_status or result.socket_errors or not result.requests:
        raise BenchmarkError(
            f"{name} answered {result.requests} requests ({kind}), {result.bad_status} of them with an error, "
            f"and broke {result.socket_errors} connections: its figures would mean nothing. See its log."
        )
    return result


def check_answers(name: str, target: Target) -> None:
    """Raises BenchmarkError unless samples of both kinds, asked for at once, are the upstream's own answers."""
    checks: Mapping[Kind, Callable[[bytes], bool]] = {"plain": is_right_answer, "stream": is_right_stream}
    for kind, is_right in checks.items():
        body = target.bodies[kind].read_bytes()
        with ThreadPoolExecutor(N_SAMPLES) as pool:
            answers = [f.result() for f in [pool.submit(_post, target, body) for _ in range(N_SAMPLES)]]
        for status, answer in answers:
            if status != 200 or not is_right(answer):
                raise BenchmarkError(f"{name} does not answer as it should ({kind}): {status} {answer[:1000]!r}")


def check_refusal(name: str, target: Target) -> None:
    """Raises BenchmarkError unless a client without a key is refused: the key check is on."""
    status, answer = _post(replace(target, headers={}), target.bodies["plain"].read_bytes())
    if status < 400:
        raise BenchmarkError(f"{name} is to check keys, but answers {status} without one: {answer[:500]!r}")


def is_right_answer(body: bytes) -> bool:
    """Whether this is the mock's completion, however its JSON is written."""
    answer = json.loads(body)
    choice = answer["choices"][0]
    whole = str(choice["message"]["content"]).startswith(_MARK) and choice["finish_reason"] == "stop"
    return whole and answer["usage"]["total_tokens"] == 200


def is_right_stream(body: bytes) -> bool:
    """Whether this is the mock's stream: its whole text, a finish_reason, and `[DONE]` at the end."""
    events = [line.removeprefix("data:").strip() for line in body.decode().splitlines() if line.startswith("data:")]
    if not events or events.pop() != "[DONE]":
        return False
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    content = "".join(str(choice["delta"].get("content") or "") for choice in choices)
    finished = any(choice.get("finish_reason") == "stop" for choice in choices)
    return finished and content.startswith(f"{_MARK} refund for") and len(content.split()) == 19


def write_bodies(directory: Path, name: str, fields: Mapping[str, object]) -> dict[Kind, Path]:
    """Request bodies of 500 bytes, one of each kind. `fields` holds the model and what else a contender needs."""
    plain = {**fields, "messages": [{"role": "user", "content": ""}], "temperature": 0.2, "max_tokens": 200}
    return {
        "plain": _write(directory / f"{name}-plain.json", plain),
        "stream": _write(directory / f"{name}-stream.json", {**plain, "stream": True}),
    }


def _write(path: Path, body: Mapping[str, object]) -> Path:
    missing = REQUEST_BYTES - len(json.dumps(body))
    text = "My order has not arrived and I would like to know where it is. " * 10
    path.write_text(json.dumps({**body, "messages": [{"role": "user", "content": text[:missing]}]}))
    return path


def _post(target: Target, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
    try:
        headers = {"content-type": "application/json", **target.headers}
        connection.request("POST", target.path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()

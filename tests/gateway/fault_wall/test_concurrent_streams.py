"""A thousand streams at once: each gets its own tokens, and afterwards everything is as it was."""

import asyncio
import gc
import json
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.stage import BEGUN, HELP, Stage, request_bytes, staged
from tests.running import eventually
from tests.upstream import DONE, USAGE_CHUNK, Exchange

N_STREAMS = 1_000
N_TOKENS = 6
RSS_SLACK_BYTES = 24 * 2**20
PATIENT: dict[str, Any] = {
    f"{limit}_seconds": 120
    for limit in ("timeout", "connect_timeout", "first_byte_timeout", "idle_timeout", "client_stall")
}
"""So many at once take their time on a busy machine."""


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    """Four descriptors a stream, all in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * N_STREAMS + 1_000
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def tokens(name: str) -> list[str]:
    return [f"{name}/{n} " for n in range(N_TOKENS)]


@dataclass
class AllAtOnce:
    """Streams that say their own name, and go on after their first token when all the others have begun."""

    n_expected: int
    n_begun: int = 0
    all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        name = exchange.body["messages"][-1]["content"]
        first, *rest = [self._chunk(name, {"content": token}) for token in tokens(name)]
        await exchange.head(200, "text/event-stream")
        await exchange.chunk(first)
        self.n_begun += 1
        if self.n_begun == self.n_expected:
            self.all_begun.set()
        await self.all_begun.wait()
        for event in rest:
            await exchange.chunk(event)
        await exchange.chunk(self._chunk(name, {}, finish_reason="stop") + USAGE_CHUNK + DONE)
        await exchange.end()

    def _chunk(self, name: str, delta: dict[str, str], *, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return b"data: " + json.dumps({"id": f"chatcmpl-{name}", "model": "m", "choices": [choice]}).encode() + b"\n\n"


async def one_stream(stage: Stage, name: str) -> str:
    """Ask for a stream, check that every piece of it is one's own, and return its trace id."""
    address = urlsplit(stage.gateway.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        body = {**HELP, "stream": True, "messages": [{"role": "user", "content": name}]}
        writer.write(request_bytes(stage.secret, body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200"), head
        received = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            received += (await reader.readexactly(size + 2))[:-2]
        *events, last = received.decode().removesuffix("\n\n").split("\n\n")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        assert last == "data: [DONE]"
        assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{name}"}
        assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [*tokens(name), None]
        return next(line.split(": ")[1] for line in head.split("\r\n") if line.startswith("x-request-id"))
    finally:
        writer.close()


async def wave(stage: Stage, number: int) -> list[str]:
    return await asyncio.gather(*(one_stream(stage, f"w{number}s{n}") for n in range(N_STREAMS)))


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_thousand_streams_at_once_keep_apart_and_leave_nothing_behind(tmp_path: Path) -> None:
    waves = [AllAtOnce(N_STREAMS) for _ in range(3)]
    script = [wave for wave in waves for _ in range(N_STREAMS)]
    # The key has exactly as many places: a single one that is not given back would refuse a stream of the next wave.
    with staged(tmp_path, list(script), concurrency=N_STREAMS, **PATIENT) as stage:
        n_tasks, sizes, trace_ids = stage.inside.n_tasks, list[int](), set[str]()
        for number in range(len(waves)):
            trace_ids.update(asyncio.run(wave(stage, number)))
            assert len(trace_ids) == (number + 1) * N_STREAMS
            eventually(lambda: stage.inside.n_connections == 0)
            eventually(lambda: stage.inside.n_tasks <= n_tasks)
            eventually(lambda: stage.first.n_busy == 0)
            assert stage.health()["in_flight"] == 0
            stage.gateway.traces(at_least=(number + 1) * N_STREAMS)
            sizes.append(resident_bytes())
        # The first wave may grow what later ones use again: pools, buffers, the allocator's arenas.
        assert sizes[2] - sizes[1] < RSS_SLACK_BYTES, sizes
        traces = stage.gateway.traces(at_least=len(waves) * N_STREAMS)
        assert {trace["trace_id"] for trace in traces} == trace_ids
        assert {(trace["outcome"], trace["usage_source"]) for trace in traces} == {("complete", "provider")}
        for trace in traces:
            name = json.loads(trace["request_messages"])[-1]["content"]
            assert json.loads(trace["response"])["content"] == "".join(tokens(name))
        assert stage.first.n_accepted <= len(waves) * N_STREAMS
        assert stage.first.n_open <= N_STREAMS


async def leave_together(stage: Stage, n_clients: int) -> None:
    address = urlsplit(stage.gateway.url)
    clients = [await asyncio.open_connection(address.hostname, address.port) for _ in range(n_clients)]
    for _, writer in clients:
        writer.write(request_bytes(stage.secret, {**HELP, "stream": True}))
    for reader, _ in clients:
        await reader.readuntil(b'"is"')
    for _, writer in clients:
        writer.transport.abort()


def test_two_hundred_clients_that_leave_at_once_end_as_many_upstream_calls(tmp_path: Path) -> None:
    n_clients = 200
    with staged(tmp_path, wire.sends(BEGUN, then="stall"), concurrency=n_clients, **PATIENT) as stage:
        for n_left in (n_clients, 2 * n_clients):
            asyncio.run(leave_together(stage, n_clients))
            eventually(lambda n_left=n_left: stage.first.hang_ups == n_left, timeout_s=30)
            eventually(lambda: stage.inside.n_tasks <= stage.n_tasks)
        eventually(lambda: stage.first.n_open == 0)
        assert stage.health()["in_flight"] == 0
        traces = stage.gateway.traces(at_least=2 * n_clients)
        assert {(t["outcome"], json.loads(t["response"])["content"]) for t in traces} == {("client_cancelled", "Paris")}

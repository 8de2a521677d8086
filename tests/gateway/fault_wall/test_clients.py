"""Clients that are slow, stop reading or leave: what the upstream notices, what is kept, and that nothing is held."""

import contextlib
import socket
import struct
import time
from pathlib import Path

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.stage import BEGUN, FINISH, read_answer, staged
from tests.running import eventually
from tests.upstream import Behaviour, Exchange

SMALL_BUFFER = 16 * 1024
BLOCK = wire.chunk({"content": "x" * 256 * 1024})
N_BLOCKS = 64
"""More than the buffers of both kernels and the gateway take in together."""
BUDGET_S = 1.5
"""Of the provider; more than it takes for all blocks on a busy machine."""


async def endless(exchange: Exchange) -> None:
    await exchange.head(200, "text/event-stream")
    while True:
        await exchange.chunk(BLOCK)


def leave(connection: socket.socket, how: str) -> None:
    """Hang up, politely or not."""
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


HOWS = pytest.mark.parametrize("how", ["close", "reset"])


def test_a_slow_but_steady_client_gets_everything_however_long_it_takes(tmp_path: Path) -> None:
    blocks = [*[BLOCK] * N_BLOCKS, FINISH, wire.USAGE_CHUNK, wire.DONE]
    with staged(tmp_path, wire.sends(blocks), timeout_seconds=BUDGET_S, client_stall_seconds=5) as stage:
        connection, began = stage.connect(receive_buffer=SMALL_BUFFER), time.monotonic()
        stage.post(connection, stream=True)
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(256 * 1024)
            if time.monotonic() - began < 2.1 * BUDGET_S:
                time.sleep(0.01)  # the client's pace
        assert time.monotonic() - began > 2 * BUDGET_S
        assert received.count(b"x" * 1_000) >= N_BLOCKS
        assert b"error" not in received
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        trace = stage.trace()
        assert (trace["outcome"], trace["error_code"], trace["usage_source"]) == ("complete", None, "provider")
        assert len(trace["response"]["content"]) == N_BLOCKS * 256 * 1024
        assert stage.health()["success_rate"] == 1.0


def large_then(*rest: bytes, cut: bool = False) -> Behaviour:
    """One block that fills every buffer, and the rest when the client has seen that the answer has begun."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        await exchange.chunk(wire.chunk({"content": "x" * 16_000_000}))
        await exchange.told.wait()
        for event in rest:
            await exchange.chunk(event)
        if cut:
            exchange.cut()
        else:
            await exchange.end()

    return behave


@pytest.mark.parametrize(
    "behaviour",
    [endless, large_then(FINISH, wire.USAGE_CHUNK, wire.DONE), large_then(cut=True)],
    ids=["in the middle", "before the end", "before the error"],
)
def test_a_client_that_stops_reading_is_cut_off(tmp_path: Path, behaviour: Behaviour) -> None:
    with staged(tmp_path, behaviour, timeout_seconds=60, client_stall_seconds=0.3) as stage:
        connection = stage.connect(receive_buffer=SMALL_BUFFER)
        stage.post(connection, stream=True)
        assert connection.recv(12) == b"HTTP/1.1 200"
        stage.first.tell()
        trace = stage.trace()
        assert (trace["outcome"], trace["error_code"]) == ("client_cancelled", "client_stalled")
        # It blames nobody, frees the upstream, and does not wait for the client to give the connection back.
        assert stage.health()["in_flight"] == 0
        assert stage.health()["success_rate"] is None
        eventually(lambda: stage.first.n_busy == 0, timeout_s=20)
        eventually(lambda: stage.inside.n_connections == 0, timeout_s=20)
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(1_000_000):
                received += more
        assert b"[DONE]" not in received
        assert not received.endswith(b"0\r\n\r\n")


def test_a_client_that_never_reads_a_plain_answer_does_not_hold_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rs_gateway.http_protocol.PATIENCE_S", 0.3)
    answer = wire.answers("x" * 16_000_000)
    with staged(tmp_path, answer, timeout_seconds=60, client_stall_seconds=0.3) as stage:
        connection = stage.connect(receive_buffer=SMALL_BUFFER)
        stage.post(connection, stream=False)
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert stage.trace()["outcome"] in ("complete", "client_cancelled")
        eventually(lambda: stage.inside.n_connections == 0, timeout_s=20)


@HOWS
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_client_that_leaves_before_the_answer_ends_the_upstream_call(tmp_path: Path, stream: bool, how: str) -> None:
    with staged(tmp_path, wire.hangs, wire.answers("never")) as stage:
        connection = stage.connect()
        stage.post(connection, stream=stream)
        eventually(lambda: len(stage.first.requests) == 1)
        leave(connection, how)
        eventually(lambda: stage.first.hang_ups == 1, timeout_s=4.0)  # the deadline would take longer
        trace = stage.trace()
        assert (trace["outcome"], trace["error_code"]) == ("client_cancelled", "client_cancelled")
        assert (trace["response"], trace["usage_source"]) == (None, "unknown")
        assert stage.attempts() == [("on-p1", "client_cancelled")]
        assert stage.upstreams[1].requests == []
        assert stage.health()["success_rate"] is None


@HOWS
def test_a_client_that_leaves_in_mid_stream_ends_the_upstream_call(tmp_path: Path, how: str) -> None:
    with staged(tmp_path, wire.sends(BEGUN, then="stall")) as stage:
        connection = stage.connect()
        stage.post(connection, stream=True)
        eventually(lambda: b'"is"' in connection.recv(100_000, socket.MSG_PEEK))
        leave(connection, how)
        eventually(lambda: stage.first.hang_ups == 1, timeout_s=4.0)  # the deadline would take longer
        trace = stage.trace()
        assert (trace["outcome"], trace["error_code"]) == ("client_cancelled", "client_cancelled")
        assert (trace["response"]["content"], trace["usage_source"]) == ("Paris", "estimated")
        assert stage.health()["success_rate"] is None
        eventually(lambda: stage.first.n_open == 0)


@HOWS
def test_a_client_that_leaves_a_busy_stream_ends_the_upstream_call(tmp_path: Path, how: str) -> None:
    with staged(tmp_path, endless) as stage:
        connection = stage.connect()
        stage.post(connection, stream=True)
        for _ in range(20):
            assert connection.recv(100_000)
        leave(connection, how)
        eventually(lambda: stage.first.n_busy == 0, timeout_s=4.0)
        assert stage.trace()["outcome"] == "client_cancelled"
        eventually(lambda: stage.first.n_open == 0)


def test_a_client_that_leaves_between_two_tries_is_not_tried_for_again(tmp_path: Path) -> None:
    script = [wire.fails(503, extra="retry-after: 3\r\n"), wire.answers("never")]
    with staged(tmp_path, script, max_retries=2) as stage:
        connection = stage.connect()
        stage.post(connection, stream=False)
        eventually(lambda: stage.first.n_busy == 0 and len(stage.first.requests) == 1)
        leave(connection, "close")
        assert stage.trace()["outcome"] == "client_cancelled"
        assert stage.attempts() == [("on-p1", "provider_overloaded")]
        assert len(stage.first.requests) == 1


@HOWS
def test_half_a_request_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    with staged(tmp_path, wire.answers("never")) as stage:
        connection = stage.connect()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {stage.secret}\r\n"
        connection.sendall(head.encode() + b'content-length: 1000\r\n\r\n{"model": "gpt')
        eventually(lambda: stage.inside.n_tasks > 0 and stage.inside.n_connections == 1)
        leave(connection, how)
        eventually(lambda: stage.inside.n_connections == 0)
        assert stage.first.requests == []


def test_after_an_answer_the_connection_serves_the_next_request(tmp_path: Path) -> None:
    with staged(tmp_path, wire.answers("Paris is lovely")) as stage:
        connection = stage.connect()
        for stream in (False, True, False):
            stage.post(connection, stream=stream)
            assert read_answer(connection, time.monotonic()).content == "Paris is lovely"
        assert stage.first.n_accepted == 1

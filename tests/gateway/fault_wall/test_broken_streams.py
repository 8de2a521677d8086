"""Faults after the first byte of a stream: one error event, no [DONE], and half an answer never passes for a whole."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.faults import drips, framed
from tests.gateway.fault_wall.stage import BEGUN, FINISH, Seen, Stage, error_in, read_answer, staged
from tests.running import eventually
from tests.upstream import Behaviour, Exchange

PATIENT: dict[str, Any] = {"timeout_seconds": 60, "first_byte_timeout_seconds": 60, "idle_timeout_seconds": 60}
"""Time enough for megabytes on a busy machine."""
ERROR = b'data: {"error": {"message": "overloaded"}}\n\n'


def goes_on(*events: bytes, then: str = "end") -> Behaviour:
    """Further events of a stream that has begun, then its end, a reset, or silence."""

    async def behave(exchange: Exchange) -> None:
        for event in events:
            await exchange.chunk(event)
        if then == "end":
            await exchange.end()
        elif then == "cut":
            exchange.cut()
        else:
            await exchange.hung_up.wait()

    return behave


async def breaks_the_framing(exchange: Exchange) -> None:
    await exchange.send(b"zz\r\nxx\r\n")
    await exchange.hung_up.wait()


FAULTS: dict[str, tuple[Behaviour, str]] = {
    "reset": (goes_on(then="cut"), "provider_cut"),
    "end without finish_reason and [DONE]": (goes_on(), "provider_cut"),
    "finish_reason but no [DONE]": (goes_on(FINISH), "provider_cut"),
    "[DONE] but no finish_reason": (goes_on(wire.DONE), "provider_cut"),
    "half an event": (goes_on(FINISH[:-9]), "provider_cut"),
    "silence": (goes_on(then="stall"), "provider_timeout"),
    "malformed SSE line": (goes_on(b"<html>\n\n", then="stall"), "provider_cut"),
    "malformed JSON": (goes_on(b"data: {nonsense\n\n", then="stall"), "provider_cut"),
    "JSON of another kind": (goes_on(b'data: ["x"]\n\n', then="stall"), "provider_cut"),
    "not UTF-8": (goes_on(wire.chunk({"content": "x"}).replace(b'"x"', b'"\xff"'), then="stall"), "provider_cut"),
    "an error event": (goes_on(ERROR), "provider_overloaded"),
    "an error event and [DONE]": (goes_on(ERROR, wire.DONE), "provider_overloaded"),
    "broken chunk framing": (breaks_the_framing, "provider_cut"),
    "a trickle past the deadline": (drips(b"", framed(b": still there\n\n")), "provider_timeout"),
}


def begins_and(goes_on: Behaviour) -> Behaviour:
    """A stream that says Paris and goes on, not as it should, when it is told to."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        for event in BEGUN:
            await exchange.chunk(event)
        await exchange.told.wait()
        await goes_on(exchange)

    return behave


def ask_and_break(stage: Stage) -> Seen:
    """Ask for a stream, and let it break once the client has seen what came before."""
    connection, began = stage.connect(), time.monotonic()
    stage.post(connection, stream=True)
    eventually(lambda: b'"is"' in connection.recv(100_000, socket.MSG_PEEK))
    stage.first.tell()
    return read_answer(connection, began)


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS)
def test_a_stream_that_breaks_ends_in_one_error_and_nobody_else_is_asked(
    stage: Stage, fault: Behaviour, code: str
) -> None:
    stage.play(begins_and(fault))
    seen = ask_and_break(stage)
    assert seen.status == 200
    assert [e["choices"][0]["delta"].get("content", "") for e in seen.events[:3]] == ["", "Par", "is"]
    assert error_in(seen.events[-1])["code"] == code
    assert ["error" in event for event in seen.events[:-1]].count(True) == 0
    assert "[DONE]" not in seen.text
    assert "overloaded" not in seen.events[-1]["error"]["message"]
    assert seen.took_s < 5
    trace = stage.trace()
    assert (trace["outcome"], trace["error_code"], trace["usage_source"]) == ("provider_cut", code, "estimated")
    assert trace["response"]["content"] == "Paris"
    assert trace["time_to_first_token_s"] > 0
    assert stage.attempts() == [("on-p1", None)]
    assert stage.health()["success_rate"] == 0.0
    assert stage.upstreams[1].requests == []
    eventually(lambda: stage.first.n_open <= 1)


def test_a_broken_stream_closes_the_clients_connection(tmp_path: Path) -> None:
    with staged(tmp_path, begins_and(goes_on(then="cut"))) as stage:
        assert ask_and_break(stage).is_closed


@pytest.mark.parametrize("n_tokens", [1, 7, 50])
def test_what_came_before_the_cut_reached_the_client_and_the_trace(tmp_path: Path, n_tokens: int) -> None:
    words = [f"w{i} " for i in range(n_tokens)]
    with staged(tmp_path, wire.sends([wire.chunk({"content": w}) for w in words], then="cut")) as stage:
        seen = stage.ask(stream=True)
        # A reset may overtake what was sent before it; what arrived is the beginning, in order.
        assert "".join(words).startswith(seen.content)
        assert "error" in seen.events[-1]
        assert stage.trace()["response"]["content"] == seen.content


def test_text_split_inside_a_character_arrives_whole(tmp_path: Path) -> None:
    event = wire.chunk({"content": "grüße 🎈"})
    pieces = [event[i : i + 1] for i in range(len(event))]
    with staged(tmp_path, wire.sends([*pieces, FINISH, wire.DONE])) as stage:
        seen = stage.ask(stream=True)
        assert (seen.content, seen.events[-1]) == ("grüße 🎈", "[DONE]")
        trace = stage.trace()
        assert (trace["outcome"], trace["response"]["content"]) == ("complete", "grüße 🎈")
        eventually(lambda: stage.first.n_open == 1)


@pytest.mark.parametrize("n_characters", [100_000, 8_000_000])
def test_a_huge_chunk_arrives_whole(tmp_path: Path, n_characters: int) -> None:
    text = "ü" * n_characters
    events = [wire.chunk({"content": text}), FINISH, wire.USAGE_CHUNK, wire.DONE]
    with staged(tmp_path, wire.sends(events), **PATIENT) as stage:
        seen = stage.ask(stream=True)
        assert seen.content == text
        assert seen.events[-1] == "[DONE]"
        trace = stage.trace()
        assert (trace["outcome"], trace["usage_source"]) == ("complete", "provider")
        assert trace["response"]["content"] == text


def test_a_line_without_end_is_given_up_and_not_hoarded(tmp_path: Path) -> None:
    endless = [*BEGUN, b"data: ", *[b"x" * 1_000_000] * 40]
    with staged(tmp_path, wire.sends(endless, then="stall"), **PATIENT) as stage:
        seen = stage.ask(stream=True)
        assert error_in(seen.events[-1])["code"] == "provider_cut"
        assert len(seen.body) < 2_000
        assert stage.trace()["response"]["content"] == "Paris"


def test_thirty_chunks_in_one_packet_and_one_chunk_in_thirty_packets_are_the_same(tmp_path: Path) -> None:
    words = [f"{i} " for i in range(30)]
    events = [*(wire.chunk({"content": w}) for w in words), FINISH, wire.USAGE_CHUNK, wire.DONE]
    whole = b"".join(events)
    pieces = [whole[i : i + 97] for i in range(0, len(whole), 97)]
    with staged(tmp_path, [wire.sends([whole]), wire.sends(pieces)]) as stage:
        first, second = stage.ask(stream=True), stage.ask(stream=True)
        assert first.events == second.events
        assert first.content == "".join(words)
        assert [stage.trace(at=i)["outcome"] for i in (0, 1)] == ["complete", "complete"]

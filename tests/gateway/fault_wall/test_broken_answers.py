"""Faults in the body of a plain answer: the client has seen nothing yet, so somebody else may still answer."""

import asyncio
from pathlib import Path

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.faults import drips, framed
from tests.gateway.fault_wall.stage import ALONE, GREETING, Stage, staged
from tests.running import eventually
from tests.upstream import Behaviour, Exchange

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
HALF = b'{"id": "chatcmpl-1", "choices": [{"index": 0, "message": {"role": "assistant", "conte'


def half_a_body(*, framing: bytes, body: bytes) -> Behaviour:
    """A body that stops short of what its headers promise, then a reset."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(JSON_HEAD + framing + b"\r\n\r\n" + body)
        exchange.writer.close()

    return behave


async def breaks_the_framing_later(exchange: Exchange) -> None:
    await exchange.send(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + framed(HALF))
    await asyncio.sleep(0.1)
    await exchange.send(b"zz\r\nxx\r\n")
    await exchange.hung_up.wait()


FAULTS: dict[str, tuple[Behaviour, str]] = {
    "cut, with a length": (half_a_body(framing=b"content-length: 500", body=HALF), "provider_unreachable"),
    "cut, chunked": (half_a_body(framing=b"transfer-encoding: chunked", body=framed(HALF)), "provider_unreachable"),
    "broken chunk framing": (
        half_a_body(framing=b"transfer-encoding: chunked", body=framed(HALF) + b"zz\r\n"),
        "provider_unreachable",
    ),
    "broken chunk framing, later": (breaks_the_framing_later, "provider_unreachable"),
    "half a JSON": (wire.page(HALF), "provider_garbage"),
    "no choices": (wire.page(b'{"object": "chat.completion", "choices": []}'), "provider_garbage"),
    "a null": (wire.page(b"null"), "provider_garbage"),
    "not UTF-8": (wire.page(HALF + b'nt": "\xff"}}]}'), "provider_garbage"),
    "JSON without bottom": (wire.page(b"[" * 200_000), "provider_garbage"),
    "an error with status 200": (wire.page(b'{"error": {"message": "no"}}'), "provider_garbage"),
    "a stream that nobody asked for": (wire.streams(["Paris"]), "provider_garbage"),
}


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS)
def test_half_an_answer_is_none(stage: Stage, fault: Behaviour, code: str) -> None:
    stage.play(fault)
    seen = stage.ask()
    assert (seen.status, seen.content) == (200, GREETING)
    assert seen.took_s < 5
    assert stage.attempts() == [("on-p1", code), ("on-p2", None)]
    seen = stage.ask(model=ALONE)
    assert (seen.status, seen.error["code"]) == (502, code)
    trace = stage.trace(at=1)
    assert (trace["outcome"], trace["error_code"], trace["response"]) == ("provider_error", code, None)
    eventually(lambda: stage.first.n_open <= 1)


def test_a_body_that_trickles_past_the_deadline_is_a_504(tmp_path: Path) -> None:
    trickle = drips(JSON_HEAD + b"content-length: 100000\r\n\r\n", b" ")
    with staged(tmp_path, trickle, timeout_seconds=0.3) as stage:
        seen = stage.ask()
        assert (seen.status, seen.error["code"]) == (504, "provider_timeout")
        assert 0.3 <= seen.took_s < 4
        assert stage.trace()["outcome"] == "provider_error"
        eventually(lambda: stage.first.n_open == 0)


def test_a_huge_answer_arrives_whole(tmp_path: Path) -> None:
    text = "ü" * 8_000_000
    with staged(tmp_path, wire.answers(text), timeout_seconds=60) as stage:
        assert stage.ask().content == text
        assert stage.trace()["outcome"] == "complete"

"""Faults before the first byte of an answer: somebody else answers unnoticed, or the client gets the right error."""

from pathlib import Path

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.faults import (
    STREAM_HEAD,
    drips,
    framed,
    nobody_picks_up,
    nobody_there,
    speaks,
    unread_refusal,
    zipped,
)
from tests.gateway.fault_wall.stage import ALONE, GREETING, Stage, staged
from tests.running import eventually
from tests.upstream import Behaviour

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
FAULTS: dict[str, tuple[Behaviour, int, str]] = {
    "reset before headers": (wire.resets, 502, "provider_unreachable"),
    "closed before headers": (speaks(b""), 502, "provider_unreachable"),
    "closed in the headers": (speaks(b"HTTP/1.1 200 OK\r\ncontent-ty"), 502, "provider_unreachable"),
    "no HTTP": (speaks(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), 502, "provider_unreachable"),
    "broken status line": (speaks(b"HTTP/1.1 abc OK\r\n\r\n"), 502, "provider_unreachable"),
    "broken header": (speaks(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"), 502, "provider_unreachable"),
    "429": (wire.fails(429, {}), 429, "provider_overloaded"),
    "500": (wire.fails(500, {}), 502, "provider_overloaded"),
    "500 without a body": (wire.fails(500, ""), 502, "provider_overloaded"),
    "503": (wire.fails(503, {}), 503, "provider_overloaded"),
    "503 with an unreadable body": (unread_refusal(), 503, "provider_overloaded"),
    "529": (wire.fails(529, {}), 503, "provider_overloaded"),
    "a redirect": (wire.fails(302, extra="location: http://127.0.0.1:9/\r\n"), 502, "provider_garbage"),
    "200 with a web page": (wire.page(), 502, "provider_garbage"),
    "200 with an empty body": (wire.page(b""), 502, "provider_garbage"),
    "204": (speaks(b"HTTP/1.1 204 No Content\r\n\r\n"), 502, "provider_garbage"),
}
STREAM_FAULTS: dict[str, tuple[Behaviour, int, str]] = {
    "cut before the first event": (wire.sends([], then="cut"), 502, "provider_cut"),
    "ended before the first event": (wire.sends([], then="end"), 502, "provider_cut"),
    "only [DONE]": (wire.sends([wire.DONE]), 502, "provider_garbage"),
    "only a comment": (wire.sends([b": hello\n\n"]), 502, "provider_cut"),
    "half an event": (wire.sends([wire.chunk({"content": "x"})[:-2]]), 502, "provider_cut"),
    "malformed first line": (wire.sends([b"<html>\n\n"]), 502, "provider_cut"),
    "malformed first chunk": (wire.sends([b"data: {nonsense\n\n"]), 502, "provider_cut"),
    "an error as first event": (wire.sends([b'data: {"error": {"message": "no"}}\n\n']), 502, "provider_overloaded"),
    "wrong content type": (wire.sends([wire.DONE], content_type="application/json"), 502, "provider_garbage"),
    "no content type": (speaks(b"HTTP/1.1 200 OK\r\n\r\n" + wire.DONE), 502, "provider_garbage"),
    "silence before headers": (wire.hangs, 504, "provider_timeout"),
    "silence before the first event": (wire.sends([], then="stall"), 504, "provider_timeout"),
    "headers that trickle": (drips(b"HTTP/1.1 200 OK\r\nx-slow: ", b"a"), 504, "provider_timeout"),
    "comments and never an event": (drips(STREAM_HEAD, framed(b": wait\n\n")), 504, "provider_timeout"),
    "a first event that trickles": (drips(STREAM_HEAD + framed(b"data: "), framed(b" ")), 504, "provider_timeout"),
}
CASES = [
    *(pytest.param(*fault, stream, id=f"{name}-{kind}") for name, fault in FAULTS.items()
      for stream, kind in ((False, "plain"), (True, "stream"))),
    *(pytest.param(*fault, True, id=f"{name}-stream") for name, fault in STREAM_FAULTS.items()),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "status", "code", "stream"), CASES)
def test_the_client_gets_a_fallbacks_answer_or_the_right_error(
    stage: Stage, fault: Behaviour, status: int, code: str, stream: bool
) -> None:
    stage.play(fault)
    seen = stage.ask(stream=stream)
    assert (seen.status, seen.content, seen.whole) == (200, GREETING, True)
    assert seen.headers["x-route-switch-combination"] == "on-p2"
    assert seen.took_s < 5
    trace = stage.trace()
    assert (trace["outcome"], trace["error_code"], trace["combination_id"]) == ("complete", None, "on-p2")
    assert (trace["usage_source"], trace["response"]["content"]) == ("provider", GREETING)
    assert stage.attempts() == [("on-p1", code), ("on-p2", None)]

    seen = stage.ask(stream=stream, model=ALONE)
    assert (seen.status, seen.error["code"], seen.whole) == (status, code, True)
    assert stage.first.base_url not in seen.text
    assert seen.took_s < 5
    trace = stage.trace(at=1)
    assert trace["outcome"] == ("provider_cut" if code == "provider_cut" else "provider_error")
    assert (trace["error_code"], trace["usage_source"], trace["response"]) == (code, "unknown", None)
    assert stage.attempts(at=1) == [(f"p1/{ALONE}", code)]
    eventually(lambda: stage.first.n_open <= 1)


@STREAMS
def test_a_refused_connection_is_a_502_or_the_fallbacks_answer(tmp_path: Path, stream: bool) -> None:
    gone = nobody_there()
    with staged(tmp_path, wire.answers("never"), without=lambda urls: [gone]) as stage:
        seen = stage.ask(stream=stream)
        assert (seen.status, seen.error["code"]) == (502, "provider_unreachable")
        assert gone not in seen.text
        assert stage.trace()["outcome"] == "provider_error"
        assert stage.attempts() == [("on-p1", "provider_unreachable")]
    with staged(tmp_path, wire.answers(GREETING), without=lambda urls: [gone, *urls]) as stage:
        assert stage.ask(stream=stream).content == GREETING
        assert stage.attempts(at=1) == [("on-p1", "provider_unreachable"), ("on-p2", None)]


@STREAMS
def test_a_host_that_does_not_pick_up_costs_the_connect_timeout_and_no_more(tmp_path: Path, stream: bool) -> None:
    with (
        nobody_picks_up() as deaf,
        staged(
            tmp_path, wire.answers(GREETING), without=lambda urls: [deaf, *urls], connect_timeout_seconds=0.2
        ) as stage,
    ):
        seen = stage.ask(stream=stream)
        assert seen.content == GREETING
        assert 0.2 <= seen.took_s < 4  # the deadline is 5 s
        assert stage.attempts() == [("on-p1", "provider_timeout"), ("on-p2", None)]


@STREAMS
def test_a_compressed_answer_is_unpacked(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path, zipped("Grüße aus Paris")) as stage:
        seen = stage.ask(stream=stream)
        assert seen.content.replace(" ", "") == "GrüßeausParis"
        assert "content-encoding" not in seen.headers
        assert stage.trace()["outcome"] == "complete"

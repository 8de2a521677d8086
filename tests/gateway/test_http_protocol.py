"""What comes before a request is one: its head, and the time it takes to come."""

import json
import socket
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rs_gateway import http_protocol
from tests.running import RunningGateway, eventually, running_gateway
from tests.upstream import Upstream, answers, hangs


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("protocol"), {}) as running:
        yield running


def talk(gateway: RunningGateway, *pieces: bytes) -> bytes:
    """Send the pieces, and read until the gateway closes the connection."""
    address = urlsplit(gateway.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer


def error_of(answer: bytes) -> tuple[int, dict[str, object]]:
    """Status and error; every answer has a request id of its own."""
    head, _, body = answer.partition(b"\r\n\r\n")
    ids = [line.split()[1] for line in head.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert [len(request_id) for request_id in ids] == [26]
    return int(head.split()[1]), json.loads(body)["error"]


def test_headers_without_end_are_refused_before_they_fill_the_memory(gateway: RunningGateway) -> None:
    status, error = error_of(talk(gateway, b"GET /health HTTP/1.1\r\nx: ", b"a" * (http_protocol.MAX_HEAD_BYTES + 1)))
    assert status == 431
    assert error["code"] == "headers_too_large"


def test_what_is_no_http_is_refused_in_openais_shape(gateway: RunningGateway) -> None:
    status, error = error_of(talk(gateway, b"\x16\x03\x01 hello\r\n\r\n"))
    assert status == 400
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"])
def test_a_request_is_answered_although_no_http_follows_it(gateway: RunningGateway, garbage: bytes) -> None:
    head, _, body = talk(gateway, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" + garbage).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["status"] == "ok"


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /health HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{",
    ],
    ids=["head", "body"],
)
def test_a_request_that_stops_coming_is_ended(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "PATIENCE_S", 0.1)
    status, error = error_of(talk(gateway, beginning))
    assert status == 408
    assert error["code"] == "request_timeout"


def test_a_connection_that_says_nothing_is_closed(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "PATIENCE_S", 0.1)
    assert talk(gateway) == b""


def test_a_request_in_small_pieces_is_answered(gateway: RunningGateway) -> None:
    request = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = talk(gateway, *(request[i : i + 1] for i in range(len(request))))
    assert answer.startswith(b"HTTP/1.1 200")


ASK = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'


def ask_bytes(*, close: bool) -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(ASK)
    return head + (b"connection: close\r\n" if close else b"") + b"\r\n" + ASK


@pytest.mark.parametrize("n_requests", [1, 2, 3])
def test_requests_in_line_are_each_answered_whole_and_in_their_order(tmp_path: Path, n_requests: int) -> None:
    with Upstream([answers(f"answer {n}") for n in range(n_requests)]).running() as upstream:
        provider = {"base_url": upstream.base_url, "models": ["m"]}
        with running_gateway(tmp_path, {"model_providers": {"p": provider}}) as gateway:
            asked = b"".join(ask_bytes(close=n == n_requests - 1) for n in range(n_requests))
            received = talk(gateway, asked)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == n_requests
    places = [received.index(b'"answer %d"' % n) for n in range(n_requests)]
    assert places == sorted(places)
    assert received.count(b"x-request-id: ") == n_requests
    assert b"connection: close\r\n" in received


def test_http_1_0_gets_its_answer_and_the_end_of_the_connection(tmp_path: Path) -> None:
    with Upstream([answers("hello")]).running() as upstream:
        provider = {"base_url": upstream.base_url, "models": ["m"]}
        with running_gateway(tmp_path, {"model_providers": {"p": provider}}) as gateway:
            received = talk(gateway, ask_bytes(close=False).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert received.endswith(b"}") and b'"hello"' in received


ASKED = b'{"model": "raw", "messages": [{"role": "user", "content": "x"}], "stream": %b}'


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningGateway]:
    with Upstream([answers("Paris is lovely")]).running() as up:
        provider = {"base_url": up.base_url, "kind": "openai_compatible", "models": ["raw"]}
        with running_gateway(tmp_path_factory.mktemp("answering"), {"model_providers": {"p": provider}}) as running:
            yield running


def post(body: bytes, *, version: bytes = b"1.1", extra: bytes = b"connection: close\r\n") -> bytes:
    head = b"POST /v1/chat/completions HTTP/%b\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n"
    return head % (version, len(body), extra) + body


def test_a_client_of_http_1_0_gets_a_stream_without_chunk_borders(answering: RunningGateway) -> None:
    head, _, body = talk(answering, post(ASKED % b"true", version=b"1.0", extra=b"")).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


def test_an_offer_to_speak_another_protocol_is_not_taken_up_and_the_request_is_answered(
    answering: RunningGateway,
) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    second = post(ASKED % b"false")
    answer = talk(answering, post(ASKED % b"false", extra=offer) + second)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"Paris is lovely") == 2


def test_a_client_that_leaves_with_requests_in_line_ends_the_one_under_way(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Upstream([hangs]).running() as up:
        provider = {"base_url": up.base_url, "kind": "openai_compatible", "models": ["raw"]}
        settings = {"model_providers": {"p": provider}, "api": {"max_retries": 0}}
        with running_gateway(tmp_path_factory.mktemp("leaving"), settings) as running:
            address = urlsplit(running.url)
            with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60) as connection:
                connection.sendall(3 * post(ASKED % b"false", extra=b""))
                eventually(lambda: up.n_busy == 1)
            eventually(lambda: up.hang_ups >= 1 and up.n_busy == 0)


def test_an_attempt_to_use_the_gateway_as_a_proxy_is_refused_at_once(gateway: RunningGateway) -> None:
    status, _ = error_of(talk(gateway, b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n"))
    assert status == 400

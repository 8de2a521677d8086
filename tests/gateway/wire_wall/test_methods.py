"""HTTP itself: methods on every route, keep-alive, pipelining, old and odd clients; models by their names."""

import json
import re
from typing import Any

import pytest

from tests import upstream as wire
from tests.gateway.wire_wall.conftest import Wall, is_openais

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def routes(wall: Wall) -> dict[str, dict[str, Any]]:
    with wall.gateway.client() as client:
        return client.get("/openapi.json").json()["paths"]


def test_every_route_answers_other_methods_with_a_405_that_names_the_right_ones(wall: Wall) -> None:
    with wall.gateway.client() as client:
        for path, operations in routes(wall).items():
            for method in {"get", "post", "put", "patch", "delete"} - set(operations):
                response = client.request(method.upper(), path.replace("{", "").replace("}", ""))
                assert response.status_code in (401, 403, 404, 405), (method, path, response.text)
                error = is_openais(response)
                if response.status_code == 405:
                    assert error["code"] == "method_not_allowed"
                    assert response.headers["allow"], (method, path)


def test_head_and_options_are_sane_on_every_route(wall: Wall) -> None:
    with wall.gateway.client() as client:
        for path in routes(wall):
            for method in ("HEAD", "OPTIONS"):
                response = client.request(method, path.replace("{", "").replace("}", ""))
                assert response.status_code < 500, (method, path)
                assert response.headers["x-request-id"], (method, path)
                if method == "HEAD":
                    assert response.content == b""


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/status"])
def test_head_is_get_without_its_body(wall: Wall, path: str) -> None:
    with wall.gateway.client() as client:
        assert client.head(path).status_code == client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/v1/nothing", "/%00", "/..%2f..", "//"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_is_not_there_is_a_404_in_openais_shape(wall: Wall, method: str, path: str) -> None:
    with wall.gateway.client() as client:
        response = client.request(method, path)
    assert response.status_code in (404, 405)
    is_openais(response)


def test_every_answer_has_a_request_id_of_its_own(wall: Wall) -> None:
    with wall.gateway.client() as client:
        answers = [
            client.get("/health"),
            client.get("/v1/models"),
            client.get("/nowhere"),
            client.put("/health"),
            client.post("/v1/chat/completions", content=b"{"),
            client.post("/v1/chat/completions", content=b"x" * 21_000_000),
            client.post("/v1/chat/completions", json=wall.body(wire.answers("x"))),
            client.post("/v1/chat/completions", json=wall.body(wire.fails(500))),
            client.post("/v1/feedback", content=b"{"),
        ]
    assert [a.status_code for a in answers] == [200, 200, 404, 405, 400, 413, 200, 502, 400]
    assert len({a.headers["x-request-id"] for a in answers}) == len(answers)


def test_a_connection_is_kept_for_many_requests_errors_included(wall: Wall) -> None:
    good = json.dumps(wall.body(wire.answers("x"))).encode()
    requests = [good, b"{", good]
    bytes_sent = b"".join(
        HEAD + b"content-length: %d\r\n%s\r\n" % (len(b), b"connection: close\r\n" if i == 2 else b"") + b
        for i, b in enumerate(requests)
    )
    answer = wall.talk(bytes_sent)  # all at once: pipelined
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"400", b"200"]


def test_a_client_that_waits_for_a_100_gets_one(wall: Wall) -> None:
    body = json.dumps(wall.body(wire.answers("x"))).encode()
    head = HEAD + b"expect: 100-continue\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = wall.talk(head, body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b"HTTP/1.1 200 OK" in answer


def test_a_client_of_http_1_0_is_answered_and_let_go(wall: Wall) -> None:
    body = json.dumps(wall.body(wire.answers("x"))).encode()
    answer = wall.talk(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert answer.split(b"\r\n")[0].endswith(b"200 OK")


def test_a_body_sent_one_byte_at_a_time_is_put_together(wall: Wall) -> None:
    body = json.dumps(wall.body(wire.answers("x"))).encode()
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = wall.talk(*(bytes([byte]) for byte in head + body))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}   ", (400,)),
        (HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
        (HEAD + b"content-length: -1\r\n\r\n", (400,)),
        (HEAD + b"content-length: x\r\n\r\n", (400,)),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", (400,)),
        (b"GET /health HTTP/9.9\r\n\r\n", (400, 505)),
        (b"\x00\x01\x02\r\n\r\n", (400,)),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", (400,)),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", (400, 414, 431)),
    ],
    ids=["two-lengths", "length-and-chunked", "minus", "no-number", "bad-chunk", "version", "binary", "header", "url"],
)
def test_a_request_that_is_no_http_is_refused_and_the_connection_closed(
    wall: Wall, request_bytes: bytes, statuses: tuple[int, ...]
) -> None:
    before = len(wall.upstream.requests)
    answer = wall.talk(request_bytes)
    assert int(answer.split(b" ", 2)[1]) in statuses, answer[:200]
    assert len(wall.upstream.requests) == before


def test_models_by_name_and_the_lack_of_them(wall: Wall) -> None:
    with wall.gateway.client() as client:
        listed = client.get("/v1/models").json()
        assert listed["object"] == "list"
        for model in listed["data"][:5]:
            assert client.get(f"/v1/models/{model['id']}").json() == model
            assert set(model) >= {"id", "object", "created", "owned_by"}
        missing = client.get("/v1/models/org/with/slashes")
    assert missing.status_code == 404
    assert is_openais(missing)["code"] == "model_not_found"


@pytest.mark.parametrize("model", ["nobody", "m0 ", "M0", "../m0", "\u0000", "x" * 10_000])
def test_a_chat_with_a_model_that_is_not_there_is_a_404(wall: Wall, model: str) -> None:
    response = wall.gateway.ask({"model": model, "messages": [{"role": "user", "content": "hi"}]})
    assert response.status_code == 404
    assert (is_openais(response)["code"], is_openais(response)["param"]) == ("model_not_found", "model")

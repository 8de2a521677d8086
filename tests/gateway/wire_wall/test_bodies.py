"""Request bodies: what is accepted, what is refused, and that nothing refused is ever sent upstream."""

import gzip
import json
from collections.abc import Iterator

import pytest

from tests import upstream as wire
from tests.gateway.wire_wall.conftest import Wall, is_openais


def raw(model: str, rest: bytes = b"", content: bytes = b'"hi"') -> bytes:
    return b'{"model":"%s","messages":[{"role":"user","content":%s}]%s}' % (model.encode(), content, rest)


def test_a_body_of_40_megabytes_is_refused_and_never_sent_upstream(wall: Wall) -> None:
    before = len(wall.upstream.requests)
    response = wall.post(raw("m0", content=b'"' + b"x" * 40_000_000 + b'"'), content_type="application/json")
    assert response.status_code == 413
    assert is_openais(response)["code"] == "request_too_large"
    assert len(wall.upstream.requests) == before


def test_a_chunked_body_of_40_megabytes_is_refused_before_it_is_all_read(wall: Wall) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 1
            yield b"x" * 100_000

    with wall.gateway.client() as client:
        response = client.post("/v1/chat/completions", content=pieces())
    assert response.status_code == 413
    assert is_openais(response)["code"] == "request_too_large"


def test_a_body_of_a_few_megabytes_is_no_trouble(wall: Wall) -> None:
    text = "ü" * 2_000_000
    assert wall.sent(messages=[{"role": "user", "content": text}])["messages"][0]["content"] == text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"7",
        b"{}",
        b"{'model': 'm0'}",
        b'{"model": "m0",}',
        b'{"model": NaN}',
        b'{"model": "m0", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
        b'{"model": "m0", "messages": [{"role": "user", "content": "hi"}], "temperature": Infinity}',
        b'{"model": "m0", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "m0", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "m0", "messages": [{"role": "user", "content": "a\nb"}]}',
        b'\xef\xbb\xbf{"model": "m0"}',
        b'{"model": "m0", "messages": []} {"again": 1}',
        b'{"model": 7}',
        b'{"model": ""}',
        b'{"model": null, "messages": []}',
        b"<xml/>",
        b"model=m0",
        bytes(range(256)),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_a_body_that_cannot_be_used_is_a_400_in_words(wall: Wall, body: bytes) -> None:
    before = len(wall.upstream.requests)
    response = wall.post(body, content_type="application/json")
    assert response.status_code == 400
    assert is_openais(response)["type"] == "invalid_request_error"
    assert len(wall.upstream.requests) == before


@pytest.mark.parametrize("depth", [200, 5_000, 1_000_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
def test_a_body_nested_too_deeply_is_a_400(wall: Wall, depth: int, opening: bytes, closing: bytes) -> None:
    nested = opening * depth + b"1" + closing * depth
    response = wall.post(raw("m0", b',"x":' + nested), content_type="application/json")
    assert response.status_code == 400
    assert "nested" in is_openais(response)["message"] or "recursion" in response.text.lower()


def test_a_schema_nested_as_deeply_as_real_ones_is_no_trouble(wall: Wall) -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(30):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert wall.sent(tools=[tool])["tools"] == [tool]


def test_of_a_key_given_twice_the_last_one_counts_everywhere(wall: Wall) -> None:
    model = wall.model(wire.answers("x"))
    assert wall.post(raw(model, b',"seed":1,"seed":2')).status_code == 200
    assert wall.asked(model)[0]["seed"] == 2


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", ""],
)
def test_json_is_read_as_json_whatever_it_is_called(wall: Wall, content_type: str) -> None:
    body = raw(wall.model(wire.answers("x")))
    assert wall.post(body, content_type=content_type).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "x-unknown"])
def test_a_compressed_body_is_refused_in_words_and_never_unpacked(wall: Wall, encoding: str) -> None:
    body = gzip.compress(raw("m0"))
    response = wall.post(body, content_encoding=encoding)
    assert response.status_code in (400, 415)
    assert encoding in is_openais(response)["message"]


def test_a_body_that_says_it_is_not_compressed_is_accepted(wall: Wall) -> None:
    assert wall.post(raw(wall.model(wire.answers("x"))), content_encoding="identity").status_code == 200


def test_text_of_every_kind_survives_the_way_through(wall: Wall) -> None:
    text = "".join(chr(c) for c in range(1, 0x300)) + "漢字 🎈 \u2028\u2029 \U0010ffff"
    assert wall.sent(messages=[{"role": "user", "content": text}])["messages"][0]["content"] == text


def test_an_answer_of_every_kind_survives_the_way_back(wall: Wall) -> None:
    text = "".join(chr(c) for c in range(1, 0x300)) + "漢字 🎈 \u2028 \ufffd"
    answer = wall.ask(wire.answers(text.replace(" ", "_")))
    assert answer.json()["choices"][0]["message"]["content"] == text.replace(" ", "_")


def test_an_answer_reaches_the_client_as_it_left_the_upstream(wall: Wall) -> None:
    answer = {**wire.completion("x"), "system_fingerprint": "fp", "service_tier": "flex", "a_new_field": [1.0, None]}

    async def behave(exchange: wire.Exchange) -> None:
        await exchange.json(200, answer)

    assert json.loads(wall.ask(behave).content) == answer

"""Errors: the status that the upstream meant, OpenAI's shape, nobody's secrets, and Retry-After."""

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import upstream as wire
from tests.gateway.test_chat import HELP, configuration
from tests.gateway.wire_wall.conftest import KEY, Wall, is_openais
from tests.running import register, running_gateway
from tests.upstream import Behaviour, Exchange, Upstream

TRACEBACK = """Traceback (most recent call last):
  File "/srv/model/serve.py", line 12, in answer
    raise RuntimeError("out of memory")
RuntimeError: out of memory"""


def error(code: str, *, kind: str = "invalid_request_error", param: str | None = None) -> Any:
    return {"error": {"message": "The upstream's own words.", "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("status", "code", "param"),
    [
        (400, "context_length_exceeded", "messages"),
        (400, "unsupported_parameter", "temperature"),
        (400, "content_policy_violation", None),
        (401, "invalid_api_key", None),
        (403, "model_not_allowed", None),
        (404, "model_not_found", "model"),
        (413, "request_too_large", None),
        (422, "unprocessable", "tools[0]"),
        (402, "insufficient_balance", None),
    ],
)
def test_a_refusal_keeps_its_status_code_param_type_and_words(
    wall: Wall, status: int, code: str, param: str | None, *, stream: bool
) -> None:
    response = wall.ask(wire.fails(status, error(code, param=param)), stream=stream)
    said = is_openais(response)
    assert response.status_code == status
    assert (said["code"], said["param"], said["type"]) == (code, param, "invalid_request_error")
    assert "The upstream's own words." in said["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("status", "seen"), [(408, 408), (409, 409), (429, 429), (500, 502), (502, 502), (503, 503), (504, 504), (529, 503)]
)
def test_a_failure_is_the_same_kind_of_failure_for_the_client(
    wall: Wall, status: int, seen: int, *, stream: bool
) -> None:
    response = wall.ask(wire.fails(status), stream=stream)
    is_openais(response)
    assert response.status_code == seen


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "insufficient_quota", "insufficient_quota"),
        (429, "rate_limit_exceeded", "tokens"),
        (409, "conflict", "invalid_request_error"),
        (503, "engine_overloaded", "server_error"),
    ],
)
def test_a_failure_keeps_the_upstreams_code_type_and_param(
    wall: Wall, status: int, code: str, kind: str, *, stream: bool
) -> None:
    response = wall.ask(wire.fails(status, error(code, kind=kind, param="messages")), stream=stream)
    said = is_openais(response)
    assert (response.status_code, said["code"], said["type"], said["param"]) == (status, code, kind, "messages")
    assert wall.trace(response)["error_code"] == "provider_overloaded"


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate_limit_error"), (409, "invalid_request_error"), (500, "server_error")]
)
def test_a_failure_without_a_code_gets_ours(wall: Wall, status: int, kind: str) -> None:
    said = is_openais(wall.ask(wire.fails(status, {"error": {"message": "No."}})))
    assert (said["code"], said["type"], said["param"]) == ("provider_overloaded", kind, None)


@pytest.mark.parametrize(
    "body",
    [
        "plain words",
        [],
        None,
        7,
        {"detail": "Not Found"},
        {"message": "no wrapper"},
        {"error": "a string"},
        {"error": {"message": None, "code": 7}},
        {"error": {"message": {"deep": 1}, "type": [], "code": {}}},
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ],
    ids=lambda body: json.dumps(body)[:24],
)
@pytest.mark.parametrize("status", [400, 404, 405, 500])
def test_whatever_shape_the_upstream_fails_in_the_client_sees_openais(wall: Wall, status: int, body: Any) -> None:
    response = wall.ask(wire.fails(status, body if body is not None else "null"))
    is_openais(response)
    assert response.status_code == (502 if status == 500 else status)


@pytest.mark.parametrize("status", [404, 405, 500, 502])
def test_a_web_page_as_an_error_is_not_shown(wall: Wall, status: int) -> None:
    async def html(exchange: Exchange) -> None:
        page = b"<html><title>nginx</title>http://10.0.0.7/internal</html>"
        await exchange.head(status, "text/html", length=len(page))
        await exchange.send(page)

    response = wall.ask(html)
    is_openais(response)
    assert "<html>" not in response.text
    assert "10.0.0.7" not in response.text


@pytest.mark.parametrize(
    "behaviour",
    [
        wire.page(),
        wire.page(b""),
        wire.page(b"{}"),
        wire.page(b"null"),
        wire.page(b'{"choices": []}'),
        wire.page(b'{"choices": [{"index": 0}]}'),
        wire.page(b'{"choices": [{"message": null}]}'),
        wire.page(b'{"error": {"message": "with status 200"}}'),
        wire.page(b'{"id": "x", "choices": [{"message": {"role": "assistant", "content": "cut'),
        wire.resets,
    ],
    ids=["html", "nothing", "object", "null", "no-choices", "no-message", "null-message", "error-200", "cut", "reset"],
)
def test_status_200_with_something_else_is_a_failure(wall: Wall, behaviour: Behaviour) -> None:
    response = wall.ask(behaviour)
    is_openais(response)
    assert response.status_code == 502
    assert wall.trace(response)["outcome"] == "provider_error"


@pytest.mark.parametrize(
    "behaviour",
    [wire.page(), wire.sends([]), wire.sends([wire.DONE]), wire.sends([b": hello\n\n"]), wire.resets],
    ids=["html", "empty", "done-only", "comment-only", "reset"],
)
def test_a_stream_of_nothing_is_a_failure(wall: Wall, behaviour: Behaviour) -> None:
    response = wall.ask(behaviour, stream=True)
    is_openais(response)
    assert response.status_code == 502


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_retry_after_in_seconds_is_passed_on(wall: Wall, status: int, *, stream: bool) -> None:
    response = wall.ask(wire.fails(status, extra="retry-after: 17\r\n"), stream=stream)
    assert response.headers["retry-after"] == "17"


def test_retry_after_as_a_date_is_passed_on_in_seconds(wall: Wall) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    response = wall.ask(wire.fails(429, extra=f"retry-after: {when}\r\n"))
    assert 20 <= int(response.headers["retry-after"]) <= 41


@pytest.mark.parametrize("value", ["soon", "-5", "nan", "inf", "1e400", ""])
def test_a_retry_after_that_means_nothing_costs_nobody_the_answer(wall: Wall, value: str) -> None:
    response = wall.ask(wire.fails(429, extra=f"retry-after: {value}\r\n"))
    assert response.status_code == 429
    assert response.headers.get("retry-after", "0").isdigit()


def retrying(tmp_path: Path, *upstreams: Upstream, **api: Any) -> dict[str, Any]:
    register(tmp_path)
    options: Any = {"max_retries": 2, **api}
    return configuration(*upstreams, **options)


def test_a_retry_after_above_a_second_is_waited_for(tmp_path: Path) -> None:
    script = [wire.fails(429, extra="retry-after: 1.2\r\n"), wire.answers("ok")]
    with Upstream(script).running() as up, running_gateway(tmp_path, retrying(tmp_path, up)) as gateway:
        began = time.monotonic()
        response = gateway.ask(HELP)
        took_s = time.monotonic() - began
    assert response.status_code == 200
    assert took_s >= 1.2


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(tmp_path: Path) -> None:
    script = [wire.fails(429, extra="retry-after: 60\r\n"), wire.answers("never")]
    with Upstream(script).running() as up, running_gateway(tmp_path, retrying(tmp_path, up)) as gateway:
        began = time.monotonic()
        response = gateway.ask(HELP)
        assert time.monotonic() - began < 4
    assert (response.status_code, response.headers["retry-after"]) == (429, "60")
    assert len(up.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_no_fallback_is_tried_on_a_400(tmp_path: Path, *, stream: bool) -> None:
    with (
        Upstream([wire.fails(400, error("context_length_exceeded"))]).running() as bad,
        Upstream([wire.answers("never")]).running() as good,
    ):
        settings = retrying(tmp_path, bad, good)
        settings["gateway"]["combinations"][0]["fallbacks"] = ["on-p2"]
        with running_gateway(tmp_path, settings) as gateway:
            response = gateway.ask({**HELP, "stream": stream})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert (len(bad.requests), len(good.requests)) == (1, 0)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_fallback_mends_what_is_the_providers_own_fault(tmp_path: Path, status: int) -> None:
    with (
        Upstream([wire.fails(status)]).running() as bad,
        Upstream([wire.answers("mended")]).running() as good,
    ):
        settings = retrying(tmp_path, bad, good, max_retries=0)
        settings["gateway"]["combinations"][0]["fallbacks"] = ["on-p2"]
        with running_gateway(tmp_path, settings) as gateway:
            response = gateway.ask(HELP)
    assert response.json()["choices"][0]["message"]["content"] == "mended"


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_upstream_that_repeats_our_key_does_not_give_it_away(wall: Wall, status: int, *, stream: bool) -> None:
    async def echoes(exchange: Exchange) -> None:
        assert KEY in exchange.headers["authorization"]
        words = f"You sent {exchange.headers['authorization']} to {wall.upstream.base_url}\n{TRACEBACK}"
        await exchange.json(
            status,
            {"error": {"message": words, "type": words, "code": words, "param": words}},
            extra=f"x-key: {KEY}\r\n",
        )

    response = wall.ask(echoes, stream=stream)
    assert response.status_code >= 400
    assert KEY not in response.text
    assert KEY not in str(response.headers)
    assert KEY not in str(wall.trace(response))
    for mine in (response.text, str(response.headers), str(wall.trace(response))):
        assert urlsplit(wall.upstream.base_url).netloc not in mine
        assert "127.0.0.1" not in mine
        assert "/srv/model/serve.py" not in mine and "Traceback" not in mine


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("field", ["message", "type", "code", "param"])
def test_no_field_of_an_upstreams_error_shows_where_it_is(wall: Wall, field: str, *, stream: bool) -> None:
    words = f"No route to {wall.upstream.base_url}/chat/completions\n{TRACEBACK}"
    response = wall.ask(wire.fails(400, {"error": {"message": "No.", field: words}}), stream=stream)
    said = is_openais(response)
    assert said[field] == ("p1: " if field == "message" else "") + "No route to (address)"


def test_an_upstreams_error_is_not_endless(wall: Wall) -> None:
    response = wall.ask(wire.fails(400, {"error": {"message": "No. " * 5000}}))
    assert len(is_openais(response)["message"]) <= 504


def test_an_error_in_a_stream_does_not_give_our_key_away(wall: Wall) -> None:
    leak = json.dumps({"error": {"message": f"key {KEY} is over its limit"}}).encode()
    _, text = wall.stream(wire.sends([wire.chunk({"content": "a"}), b"data: " + leak + b"\n\n"]))
    assert "error" in text
    assert KEY not in text


def test_an_address_that_nobody_answers_is_not_shown(tmp_path: Path) -> None:
    with Upstream([]).running() as gone:
        settings = retrying(tmp_path, gone, max_retries=0)
    with running_gateway(tmp_path, settings) as gateway:
        response = gateway.ask(HELP)
    assert response.status_code == 502
    assert "127.0.0.1" not in response.text
    assert is_openais(response)["code"] == "provider_unreachable"


def test_a_redirect_is_not_followed(wall: Wall) -> None:
    before = len(wall.upstream.requests)
    response = wall.ask(wire.fails(307, extra=f"location: {wall.upstream.base_url}/elsewhere\r\n"))
    assert response.status_code == 502
    assert len(wall.upstream.requests) == before + 1

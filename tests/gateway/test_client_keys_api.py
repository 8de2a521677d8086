"""Client keys on the wire: who is let in, how much, and what is kept of it."""

import asyncio
import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.access import KeyLimits
from rs_gateway.domain.prompts import PromptTemplate, PromptText
from rs_gateway.domain.traces import StoreMode
from tests import upstream as wire
from tests.gateway.keyed import Keyed, auth, issue, keyed_gateway, priced, revoke
from tests.gateway.test_chat import HELP
from tests.running import ORIGIN, eventually, register, running_gateway
from tests.upstream import Exchange, Upstream

RAW = {"model": "raw-p1", "messages": [{"role": "user", "content": "Help me"}]}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Keyed]:
    with keyed_gateway(tmp_path, Upstream([wire.answers("Paris")])) as keyed:
        yield keyed


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return error


def known(stage: Keyed, name: str = "shop", *, limits: KeyLimits | None = None, **grant: Any) -> str:
    """A new key that the running gateway knows by now. Returns its id."""
    issued = issue(stage.gateway.folder, name, limits=limits, **grant)
    stage.secrets[name] = issued.secret
    eventually(lambda: stage.request("GET", "/v1/models", key=name).status_code != 401)
    return issued.key.key_id


def limited(stage: Keyed, limits: KeyLimits) -> str:
    """A new key that has used up nothing yet."""
    issued = issue(stage.gateway.folder, "shop", limits=limits)
    # Making a second key is how we see that the first has been read: asking with it would count.
    known(stage, "probe")
    stage.secrets["shop"] = issued.secret
    return issued.key.key_id


GUARDED = (
    ("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings"), ("POST", "/v1/responses"), ("POST", "/v1/messages"),
    ("GET", "/v1/models"), ("POST", "/v1/feedback"), ("GET", "/status"), ("GET", "/metrics"),
    ("GET", "/v1/system/analytics"), ("GET", "/v1/prompts/support/stats"), ("GET", "/admin/templates"),
    ("GET", "/admin/keys"), ("POST", "/admin/reload"), ("GET", "/nowhere"), ("GET", "/v1/chat/completions"),
)  # fmt: skip


@pytest.mark.parametrize("key", [None, "rs-0000000000-unknown", "sk-somebody-elses"])
def test_nothing_answers_without_a_key_that_is_known(stage: Keyed, key: str | None) -> None:
    for method, path in GUARDED:
        response = stage.request(method, path, key=key, json=HELP)
        assert response.status_code == 401, path
        error = response.json()["error"] if path == "/v1/messages" else error_of(response)
        assert error["type"] == "authentication_error"
        assert "somebody" not in response.text
    assert stage.upstream.requests == []


def test_health_needs_no_key(stage: Keyed) -> None:
    assert stage.request("GET", "/health").status_code == 200
    assert stage.request("GET", "/health/storage").status_code == 200


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_a_key_is_taken_from_where_each_vendors_clients_put_it(stage: Keyed, header: str) -> None:
    known(stage)
    value = f"Bearer {stage.secrets['shop']}" if header == "authorization" else stage.secrets["shop"]
    response = stage.ask(None, headers={header: value})
    assert response.status_code == 200, response.text
    assert value not in str(stage.upstream.headers[-1])


def test_a_revoked_key_is_refused_and_its_open_stream_ends_well(stage: Keyed) -> None:
    go_on = threading.Event()
    stage.upstream.script[:] = [held_stream(go_on)]
    key_id = known(stage)
    with stage.gateway.client() as client, client.stream(
        "POST", "/v1/chat/completions", json={**HELP, "stream": True}, headers=auth(stage.secrets["shop"])
    ) as response:  # fmt: skip
        revoke(stage.gateway.folder, key_id)
        eventually(lambda: stage.ask("shop", {}).status_code == 401)
        go_on.set()
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_a_trace_says_whose_key_it_was(stage: Keyed) -> None:
    key_id = known(stage)
    stage.ask("shop")
    assert [trace["key_id"] for trace in stage.gateway.traces()] == [key_id]


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ({}, {"support", "gpt-4", "raw-p1"}),
        ({"templates": frozenset({"support"}), "models": frozenset[str]()}, {"support", "gpt-4"}),
        ({"templates": frozenset[str](), "models": frozenset({"raw-p1"})}, {"raw-p1"}),
        ({"templates": frozenset({"other"}), "models": frozenset({"gpt-4"})}, set[str]()),
        ({"templates": frozenset[str](), "models": frozenset[str]()}, set[str]()),
    ],
)
def test_a_key_sees_and_may_ask_for_the_same_names(stage: Keyed, scopes: dict[str, Any], allowed: set[str]) -> None:
    known(stage, **scopes)
    listed = stage.request("GET", "/v1/models", key="shop").json()["data"]
    assert {card["id"] for card in listed} == allowed
    for name in ("support", "gpt-4", "raw-p1"):
        response = stage.ask("shop", {**HELP, "model": name})
        one = stage.request("GET", f"/v1/models/{name}", key="shop")
        if name in allowed:
            assert (response.status_code, one.status_code) == (200, 200)
        else:
            assert (response.status_code, one.status_code) == (403, 404)
            error = error_of(response)
            assert (error["type"], error["code"], error["param"]) == ("permission_error", "not_allowed", "model")
            assert one.json()["error"]["code"] == "model_not_found"
    refused = [t for t in stage.gateway.traces(at_least=3) if t["error_code"] == "not_allowed"]
    assert len(refused) == 3 - len(allowed)


def test_requests_a_minute_are_counted_for_streams_and_failures_too(stage: Keyed) -> None:
    stage.upstream.script[:] = [wire.answers("ok"), wire.fails(400), wire.answers("ok")]
    limited(stage, KeyLimits(requests_per_minute=3))
    assert stage.ask("shop").status_code == 200
    assert stage.ask("shop").status_code == 400
    assert stage.ask("shop", {**HELP, "stream": True}).status_code == 200
    response = stage.ask("shop")
    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= 20
    error = error_of(response)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert stage.ask("probe").status_code == 200
    assert len(stage.upstream.requests) == 4


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_a_minute_are_counted_when_the_answer_is_there(stage: Keyed, stream: bool) -> None:
    limited(stage, KeyLimits(tokens_per_minute=14))
    assert stage.ask("shop", {**HELP, "stream": stream}).status_code == 200
    response = stage.ask("shop")
    assert response.status_code == 429
    assert "token" in error_of(response)["message"]
    assert int(response.headers["retry-after"]) >= 1


def held_stream(go_on: threading.Event) -> wire.Behaviour:
    """A stream that waits in its middle."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream")
        await exchange.chunk(wire.chunk({"role": "assistant", "content": "a"}))
        await asyncio.to_thread(go_on.wait, 120)
        await exchange.chunk(wire.chunk({}, finish_reason="stop"))
        await exchange.chunk(wire.DONE)
        await exchange.end()

    return behave


def test_a_stream_holds_its_place_until_it_ends(stage: Keyed) -> None:
    go_on = threading.Event()
    stage.upstream.script[:] = [held_stream(go_on), wire.answers("ok")]
    limited(stage, KeyLimits(concurrency=1))
    with stage.gateway.client() as client, client.stream(
        "POST", "/v1/chat/completions", json={**HELP, "stream": True}, headers=auth(stage.secrets["shop"])
    ) as response:  # fmt: skip
        refused = stage.ask("shop")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        go_on.set()
        response.read()
    assert stage.ask("shop").status_code == 200


def test_a_client_that_hangs_up_frees_its_place(stage: Keyed) -> None:
    go_on = threading.Event()
    stage.upstream.script[:] = [held_stream(go_on), wire.answers("ok")]
    limited(stage, KeyLimits(concurrency=1))
    try:
        with stage.gateway.client() as client, client.stream(
            "POST", "/v1/chat/completions", json={**HELP, "stream": True}, headers=auth(stage.secrets["shop"])
        ):  # fmt: skip
            assert stage.ask("shop").status_code == 429
        eventually(lambda: stage.ask("shop").status_code == 200)
    finally:
        go_on.set()


@pytest.mark.parametrize("body", [b"{", b'{"model": "gpt-4"}', b'{"model": "nothing", "messages": []}'])
def test_a_request_that_cannot_be_read_leaves_no_place_taken(stage: Keyed, body: bytes) -> None:
    limited(stage, KeyLimits(concurrency=1))
    for _ in range(3):
        assert stage.request("POST", "/v1/chat/completions", key="shop", content=body).status_code in (400, 404)
    assert stage.ask("shop").status_code == 200


def test_a_spent_budget_is_a_429_that_openais_clients_know(stage: Keyed) -> None:
    key_id = limited(stage, KeyLimits(budget_usd=20))
    assert [stage.ask("shop").status_code for _ in range(3)] == [200, 200, 429]
    error = error_of(stage.ask("shop"))
    assert error["code"] == "insufficient_quota"
    eventually(lambda: stage.admin("GET", f"/keys/{key_id}").json()["spent_usd"] == 28)


def test_a_key_with_a_budget_is_refused_what_has_no_price(tmp_path: Path) -> None:
    upstream = Upstream([wire.answers("ok")])
    providers = {"p1": {"kind": "openai_compatible", "models": ["raw-p1"], "base_url": "http://127.0.0.1:9/v1"}}
    with keyed_gateway(tmp_path, upstream, model_providers=providers) as stage:
        limited(stage, KeyLimits(budget_usd=20))
        response = stage.ask("shop", RAW)
        assert response.status_code == 403
        assert "price" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "raw-p1", "input": "x"}),
        ("/v1/responses", {"model": "raw-p1", "input": "x"}),
        ("/v1/messages", {"model": "raw-p1", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
        ("/v1/feedback", {"trace_id": "x", "kind": "score", "value": 1.0}),
        ("/v1/models", None),
    ],
)
def test_limits_hold_on_every_endpoint(stage: Keyed, path: str, body: Any) -> None:
    stage.upstream.script[:] = [wire.fails(400)]
    limited(stage, KeyLimits(requests_per_minute=1, concurrency=1))
    method = "GET" if body is None else "POST"
    assert stage.request(method, path, key="shop", json=body).status_code in (200, 400, 404)
    response = stage.request(method, path, key="shop", json=body)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1


def test_tokens_and_cost_of_embeddings_are_counted(stage: Keyed) -> None:
    async def embeds(exchange: Exchange) -> None:
        answer = {"object": "list", "model": "e", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
        await exchange.json(200, {**answer, "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]})

    stage.upstream.script[:] = [embeds]
    key_id = limited(stage, KeyLimits(tokens_per_minute=7))
    body = {"model": "raw-p1", "input": "hello"}
    assert stage.request("POST", "/v1/embeddings", key="shop", json=body).status_code == 200
    assert stage.request("POST", "/v1/embeddings", key="shop", json=body).status_code == 429
    eventually(lambda: stage.admin("GET", f"/keys/{key_id}").json()["spent_usd"] == 7)


@pytest.mark.parametrize("path", ["/status", "/metrics", "/v1/system/analytics", "/v1/prompts/support/stats"])
def test_what_tells_of_everybodys_traffic_is_for_admins(stage: Keyed, path: str) -> None:
    known(stage)
    refused = stage.request("GET", path, key="shop")
    assert refused.status_code == 403
    assert "--admin" in error_of(refused)["message"]
    assert stage.request("GET", path, key="boss").status_code == 200


def test_without_any_key_operations_are_open_and_the_admin_api_is_closed(tmp_path: Path) -> None:
    register(tmp_path)
    with Upstream([wire.answers("ok")]).running() as up, running_gateway(tmp_path, priced(up)) as gateway:
        with gateway.client() as client:
            assert client.get("/status").status_code == 200
            refused = client.get("/admin/templates")
            assert refused.status_code == 403
            assert "keys create NAME --admin" in error_of(refused)["message"]
        assert gateway.ask(HELP).status_code == 200
        issue(tmp_path, "first")
        eventually(lambda: gateway.ask(HELP).status_code == 401)


STRICTNESS = [None, StoreMode.FULL, StoreMode.METRICS, StoreMode.NONE]


@pytest.mark.parametrize("configured", ["full", "metrics", "none"])
def test_the_strictest_of_configuration_template_key_and_request_decides_what_is_kept(
    tmp_path: Path, configured: str
) -> None:
    registry = PromptFiles(tmp_path / "data/prompts")
    modes = [None, StoreMode.METRICS, StoreMode.NONE]
    with Upstream([wire.answers("ok")]).running() as up:
        settings = priced(up, privacy={"store": configured})
        for mode in modes:
            template = PromptTemplate(f"t-{mode}", f"t-{mode}", (), {"name": "ExactMatch"}, store=mode)
            registry.register(template, PromptText("Help.", None, ()), origin=ORIGIN)
            settings["gateway"]["combinations"].append(
                {"id": f"c-{mode}", "template_id": f"t-{mode}", "model": "gpt-4", "provider": "p1"}
            )
        register(tmp_path)
        secrets = {mode: issue(tmp_path, f"k-{mode}", store=mode).secret for mode in modes}
        expected = dict[str, StoreMode]()
        with running_gateway(tmp_path, settings) as gateway, gateway.client() as client:
            for template, key, asked in itertools.product(modes, modes, [*modes, StoreMode.FULL]):
                headers = auth(secrets[key]) | ({} if asked is None else {"x-route-switch-store": asked.value.upper()})
                response = client.post("/v1/chat/completions", headers=headers, json={**HELP, "model": f"t-{template}"})
                assert response.status_code == 200, response.text
                strictest = max((StoreMode(configured), template, key, asked), key=STRICTNESS.index)
                assert strictest is not None
                expected[response.headers["x-route-switch-trace-id"]] = strictest
        # The gateway has stopped: what is to be written is written.
        stored = {
            trace["trace_id"]: StoreMode.METRICS if trace["request_messages"] is None else StoreMode.FULL
            for trace in gateway.traces(at_least=0)
        }
    assert stored == {trace_id: mode for trace_id, mode in expected.items() if mode is not StoreMode.NONE}


def test_of_two_store_headers_the_stricter_one_counts(stage: Keyed) -> None:
    for modes in (("none", "full"), ("full", "none")):
        headers = [("x-route-switch-store", mode) for mode in modes]
        with stage.gateway.client() as client:
            headers += list(auth(stage.secrets["boss"]).items())
            assert client.post("/v1/chat/completions", headers=headers, json=HELP).status_code == 200
    stage.ask("boss")
    assert len(stage.gateway.traces()) == 1


def test_a_store_header_that_says_nothing_known_is_refused_before_anything_is_sent(stage: Keyed) -> None:
    known(stage)
    response = stage.ask("shop", headers={**auth(stage.secrets["shop"]), "x-route-switch-store": "secret"})
    assert response.status_code == 400
    assert "full, metrics or none" in error_of(response)["message"]
    assert stage.upstream.requests == []


def test_storage_health_says_that_the_key_store_fails_while_known_keys_stay_in_force(stage: Keyed) -> None:
    known(stage)
    with contextlib.closing(sqlite3.connect(stage.gateway.folder / "data/access.db")) as connection:
        connection.execute("ALTER TABLE keys RENAME TO gone")
        eventually(lambda: stage.ask("shop").status_code == 200 and storage(stage)[0] == 503)
        assert storage(stage)[1]["access_error"]
        assert stage.request("GET", "/health").status_code == 200
        assert stage.request("GET", "/status", key="boss").json()["access_store"]["ok"] is False
        connection.execute("ALTER TABLE gone RENAME TO keys")
    eventually(lambda: storage(stage)[0] == 200)
    assert storage(stage)[1]["access_error"] is None


def storage(stage: Keyed) -> tuple[int, Any]:
    response = stage.request("GET", "/health/storage")
    return response.status_code, response.json()


def test_a_budget_keeps_a_request_from_falling_back_on_a_model_without_a_price(tmp_path: Path) -> None:
    down, up = Upstream([wire.resets]), Upstream([wire.answers("Paris")])
    register(tmp_path)
    boss = issue(tmp_path, "boss", admin=True)
    with down.running(), up.running():
        settings = priced(down, up)
        settings["api"] = {"max_retries": 0}
        first = {"id": "on-p1", "template_id": "support", "model": "gpt-4", "provider": "p1", "fallbacks": ["on-p2"]}
        second = {"id": "on-p2", "template_id": "support", "model": "nobody-knows-its-price", "provider": "p2"}
        settings["gateway"] = {**settings["gateway"], "combinations": [first, second]}
        with running_gateway(tmp_path, settings) as gateway:
            stage = Keyed(gateway, down, {"boss": boss.secret})
            known(stage, "thrifty", limits=KeyLimits(budget_usd=1e6))
            known(stage, "rich")
            asked = {**HELP, "model": "gpt-4"}
            assert stage.ask("thrifty", asked).status_code == 502
            assert up.requests == []
            assert stage.ask("rich", asked).json()["choices"][0]["message"]["content"] == "Paris"

"""The routes beside the hot one: models, feedback, health, status, errors, refresh."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.publication import Action, Change
from tests import upstream as wire
from tests.gateway.test_chat import HELP, configuration
from tests.running import ORIGIN, RunningGateway, eventually, register, running_gateway
from tests.upstream import Upstream


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    register(tmp_path)
    with Upstream([wire.answers("ok")]).running() as up, running_gateway(tmp_path, configuration(up)) as running:
        yield running


def get(gateway: RunningGateway, path: str) -> tuple[int, dict[str, object]]:
    with gateway.client() as client:
        response = client.get(path)
    assert response.headers["x-request-id"]
    return response.status_code, response.json()


def test_models_lists_templates_models_and_pass_through(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        listed = client.get("/v1/models").json()
        one = client.get("/v1/models/support").json()
    assert [m["id"] for m in listed["data"]] == ["gpt-4", "raw-p1", "support"]
    assert one["object"] == "model"


def test_an_unknown_model_is_a_404_that_lists_what_there_is(gateway: RunningGateway) -> None:
    status, body = get(gateway, "/v1/models/nope")
    assert status == 404
    assert "support" in json.dumps(body)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405)])
def test_every_error_has_openais_shape_and_a_request_id(
    gateway: RunningGateway, method: str, path: str, status: int
) -> None:
    with gateway.client() as client:
        response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback"])
@pytest.mark.parametrize("headers", [{"content-type": "application/json"}, {}])
@pytest.mark.parametrize("body", [b"{nonsense", b'{"model": "\xff"}'])
def test_a_body_that_is_no_json_is_refused_in_words_with_a_request_id(
    gateway: RunningGateway, path: str, headers: dict[str, str], body: bytes
) -> None:
    with gateway.client() as client:
        response = client.post(path, content=body, headers=headers)
    assert response.status_code == 400
    assert "JSON" in response.json()["error"]["message"]
    assert response.json()["error"]["param"] is None
    assert response.json()["error"]["code"] == "invalid_request"
    assert response.headers["x-request-id"]


def test_feedback_is_stored_before_it_is_acknowledged(gateway: RunningGateway) -> None:
    trace_id = gateway.ask(HELP).headers["x-route-switch-trace-id"]
    with gateway.client() as client:
        label = {"trace_id": trace_id, "kind": "label", "value": "42", "source": "human:jane"}
        response = client.post("/v1/feedback", json=label)
        assert response.status_code == 201, response.text
        assert response.json()["trace_id"] == trace_id


@pytest.mark.parametrize(("path", "status"), [("/v1/chat/completions", 200), ("/v1/feedback", 201)])
def test_a_body_needs_no_content_type_to_be_read_as_json(gateway: RunningGateway, path: str, status: int) -> None:
    trace_id = gateway.ask(HELP).headers["x-route-switch-trace-id"]
    body = HELP if status == 200 else {"trace_id": trace_id, "kind": "score", "value": 1}
    with gateway.client() as client:
        response = client.post(path, content=json.dumps(body))
        assert "content-type" not in response.request.headers
        assert response.status_code == status, response.text


def test_feedback_that_says_it_is_no_json_is_told_what_to_say(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        response = client.post("/v1/feedback", data={"kind": "score"})
        assert response.status_code == 400
        assert "`content-type: application/json`" in response.json()["error"]["message"]
        response = client.post("/v1/feedback", content=b"[]")
        assert response.status_code == 400
        assert "content-type" not in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"trace_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, 404),
        ({"kind": "praise"}, 400),
        ({"kind": "score", "value": 1.5}, 400),
        ({"kind": "score", "value": True}, 400),
        ({"kind": "outcome", "value": "yes"}, 400),
        ({"kind": "label", "value": ""}, 400),
        ({"kind": "label", "value": "\ud800"}, 400),
        ({"kind": "label", "value": {"a": 1}}, 400),
        ({"source": ""}, 400),
        ({"unknown": 1}, 400),
    ],
)
def test_feedback_that_cannot_be_used_is_refused(
    gateway: RunningGateway, changes: dict[str, object], status: int
) -> None:
    trace_id = gateway.ask(HELP).headers["x-route-switch-trace-id"]
    with gateway.client() as client:
        body = {"trace_id": trace_id, "kind": "comment", "value": "fine", **changes}
        headers = {"content-type": "application/json"}
        response = client.post("/v1/feedback", content=json.dumps(body), headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "score", "value": "x" * 300_000},
        {"kind": "outcome", "value": [["x" * 1_000] * 20] * 20},
        {"kind": "label", "value": {f"{n:01000}": "x" * 1_000 for n in range(100)}},
        {"trace_id": "x" * 300_000},
        {"kind": "x" * 300_000},
        {"source": "x" * 300_000},
        {"x" * 300_000: 1},
    ],
    ids=lambda changes: next(iter(changes))[:10],
)
def test_an_error_does_not_repeat_a_large_value(gateway: RunningGateway, changes: dict[str, object]) -> None:
    with gateway.client() as client:
        response = client.post("/v1/feedback", json={"trace_id": "t", "kind": "comment", "value": "fine", **changes})
    assert response.status_code in (400, 404)
    assert len(response.content) < 1_000


@pytest.mark.parametrize("path", ["/v1/system/analytics?window={}", "/v1/prompts/{}/stats", "/v1/models/{}"])
def test_an_error_does_not_repeat_a_long_address(gateway: RunningGateway, path: str) -> None:
    with gateway.client() as client:
        response = client.get(path.format("x" * 30_000))
    assert response.status_code in (400, 404)
    assert len(response.content) < 1_000


def test_health_and_storage_answer(gateway: RunningGateway) -> None:
    assert get(gateway, "/health") == (200, {"status": "ok"})
    status, storage = get(gateway, "/health/storage")
    assert status == 200
    assert storage["dropped"] == 0


def test_storage_health_says_that_the_registry_is_gone_while_its_templates_go_on_being_served(tmp_path: Path) -> None:
    register(tmp_path)
    prompts, aside = tmp_path / "data/prompts", tmp_path / "aside"
    with Upstream([wire.answers("ok")]).running() as up, running_gateway(tmp_path, configuration(up)) as gateway:
        assert get(gateway, "/health/storage")[1]["registry_error"] is None
        prompts.rename(aside)
        eventually(lambda: get(gateway, "/health/storage")[0] == 503)
        _, storage = get(gateway, "/health/storage")
        assert (storage["ok"], storage["error"], storage["access_error"]) == (False, None, None)
        assert "1 template," in str(storage["registry_error"])
        assert get(gateway, "/health")[0] == 200
        assert gateway.ask(HELP).status_code == 200
        aside.rename(prompts)
        eventually(lambda: get(gateway, "/health/storage")[0] == 200)


def test_the_openapi_document_has_the_hot_route(gateway: RunningGateway) -> None:
    _, document = get(gateway, "/openapi.json")
    assert "/v1/chat/completions" in json.dumps(document)


def served_version(gateway: RunningGateway) -> object:
    return gateway.ask(HELP).headers["x-route-switch-version"]


def test_a_published_version_is_served_without_a_restart(tmp_path: Path) -> None:
    registry = register(tmp_path)
    with Upstream([wire.answers("ok")]).running() as up, running_gateway(tmp_path, configuration(up)) as gateway:
        assert served_version(gateway) == "1"
        registry.add_version("support", PromptText("Better, {customer_name}."), model=None, origin=ORIGIN)
        registry.make_live("support", Change(Action.PUBLISH, 2, None, "tester", ORIGIN.at, "test", previous=1))
        eventually(lambda: served_version(gateway) == "2")
        assert up.requests[-1]["messages"][0]["content"] == "Better, Jordan."


def test_a_corrupted_registry_file_leaves_the_last_good_version_serving(tmp_path: Path) -> None:
    register(tmp_path)
    with Upstream([wire.answers("ok")]).running() as up, running_gateway(tmp_path, configuration(up)) as gateway:
        live = tmp_path / "data/prompts/support/live.yaml"
        good = live.read_text()
        live.write_text("serving: {'*': 1")
        eventually(lambda: "support" in str(get(gateway, "/status")[1]["registry"]))
        status = get(gateway, "/status")[1]
        assert status["status"] == "degraded"
        assert "live.yaml" in json.dumps(status)
        assert gateway.ask(HELP).status_code == 200
        live.write_text(good)
        eventually(lambda: get(gateway, "/status")[1]["status"] == "ok")


def test_a_registry_that_is_gone_leaves_everything_serving_and_says_so(tmp_path: Path) -> None:
    register(tmp_path)
    with Upstream([wire.answers("ok")]).running() as up, running_gateway(tmp_path, configuration(up)) as gateway:
        (tmp_path / "data/prompts").rename(tmp_path / "data/elsewhere")
        eventually(lambda: get(gateway, "/status")[1]["status"] == "degraded")
        assert gateway.ask(HELP).status_code == 200
        (tmp_path / "data/elsewhere").rename(tmp_path / "data/prompts")
        eventually(lambda: get(gateway, "/status")[1]["status"] == "ok")


def test_a_template_that_was_never_good_is_unavailable_and_says_why(tmp_path: Path) -> None:
    register(tmp_path)
    (tmp_path / "data/prompts/support/live.yaml").write_text("nonsense")
    with Upstream([wire.answers("ok")]).running() as up, running_gateway(tmp_path, configuration(up)) as gateway:
        response = gateway.ask({**HELP, "model": "support"})
    assert response.status_code == 503
    assert "live.yaml" in response.json()["error"]["message"]


def test_a_changed_configuration_is_picked_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    register(tmp_path)
    with Upstream([wire.answers("ok")]).running() as up:
        settings = configuration(up)
        with running_gateway(tmp_path, settings) as gateway:
            file = tmp_path / "route-switch.yaml"
            settings["gateway"]["combinations"][0]["id"] = "renamed"
            file.write_text(yaml.safe_dump(settings))
            eventually(lambda: gateway.ask(HELP).headers["x-route-switch-combination"] == "renamed")
            settings["gateway"]["max_body_bytes"] = 5_000
            file.write_text(yaml.safe_dump(settings))
            eventually(lambda: "gateway.max_body_bytes" in str(get(gateway, "/status")[1]["registry"]))
            file.write_text("note: 2026-02-30")
            eventually(lambda: "day is out of range" in str(get(gateway, "/status")[1]["registry"]))
            file.write_text("gateway: {strategy: nonsense}")
            eventually(lambda: "nonsense" in str(get(gateway, "/status")[1]["registry"]))
            file.write_text("")
            eventually(lambda: "is empty now" in str(get(gateway, "/status")[1]["registry"]))
            assert gateway.ask(HELP).headers["x-route-switch-combination"] == "renamed"


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_api_pages_need_nobody_elses_server(tmp_path: Path, page: str) -> None:
    with running_gateway(tmp_path, {}) as gateway, gateway.client() as client:
        html = client.get(page).text
        addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", html)
        assert addresses and all(address.startswith("/") for address in addresses)
        assert {client.get(address).status_code for address in addresses} == {200}

"""The examples of `/docs` and of the HTTP reference, sent to a gateway: it answers as they say."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.api.examples import Example, examples
from rs_gateway.domain.prompts import PromptTemplate, PromptText
from tests.gateway.keyed import auth, issue
from tests.running import ORIGIN, RunningGateway, running_gateway
from tests.upstream import Exchange, Upstream

WITHOUT_ANSWER = {
    *("GET /metrics", "GET /v1/system/analytics", "GET /v1/prompts/{template_id}/stats"),
    *("POST /admin/templates/{template_id}/rollback", "PUT /admin/templates/{template_id}/weights"),
}
"""Long ones that stand elsewhere, and what is no JSON."""


async def provider(exchange: Exchange) -> None:
    """Answers each endpoint in its own shape."""
    body, model = exchange.body, exchange.body["model"]
    usage = {"prompt_tokens": 31, "completion_tokens": 1, "total_tokens": 32}
    if model.startswith("text-embedding"):
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
        usage = {"prompt_tokens": 5, "total_tokens": 5}
        await exchange.json(200, {"object": "list", "data": [vector], "model": model, "usage": usage})
    elif "input" in body:
        text = {"type": "output_text", "text": "Hello.", "annotations": []}
        said = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
        counts = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
        answer = {"id": "resp_1", "object": "response", "created_at": 1_700_000_000, "status": "completed"}
        await exchange.json(200, {**answer, "model": model, "output": [said], "usage": counts})
    elif model.startswith("claude"):
        answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn"}
        counts = {"input_tokens": 10, "output_tokens": 2}
        await exchange.json(200, {**answer, "content": [{"type": "text", "text": "Hello."}], "usage": counts})
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": "delivery"}, "finish_reason": "stop"}
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": model}
        await exchange.json(200, {**answer, "choices": [choice], "usage": usage})


@contextlib.contextmanager
def stage(folder: Path) -> Generator[tuple[RunningGateway, str]]:
    """A gateway with the README's template `support` on two models, and the secret of an admin key."""
    registry = PromptFiles(folder / "data/prompts")
    instruction = "Classify the customer's message as billing, delivery or other. Answer with one word."
    template = PromptTemplate("support", "support", ("message",), {"name": "ExactMatch"})
    registry.register(template, PromptText(instruction, "{message}"), origin=ORIGIN)
    secret = issue(folder, "ops", admin=True).secret
    with Upstream([provider]).running() as upstream:
        listed = ["gpt-4o-mini", "text-embedding-3-small", "claude-haiku-4-5"]
        spoken = ["chat", "embeddings", "responses", "messages"]
        combinations = [
            {"id": f"support-{size}", "template_id": "support", "model": model, "provider": "openai"}
            for size, model in (("mini", "gpt-4o-mini"), ("large", "gpt-4o"))
        ]
        configuration = {
            "model_providers": {"openai": {"base_url": upstream.base_url, "models": listed, "endpoints": spoken}},
            "gateway": {"combinations": combinations, "strategy": "round_robin"},
        }
        with running_gateway(folder, configuration) as gateway:
            yield gateway, secret


def sent(folder: Path) -> list[tuple[Example, httpx.Response]]:
    """Every example in its order. Ids of keys and traces are the real ones in place of those of the examples."""
    answered: list[tuple[Example, httpx.Response]] = []
    real: dict[str, str] = {}
    with stage(folder) as (gateway, secret), gateway.client(headers=auth(secret)) as client:
        for example in examples():
            method, _, pattern = example.operation.partition(" ")
            path = pattern.format_map({name: real.get(value, value) for name, value in example.path.items()})
            body = example.body and {name: real.get(str(value), value) for name, value in example.body.items()}
            response = client.request(method, path, params=example.query, json=body)
            answered.append((example, response))
            real |= {"01KAT5S9C6T1GQ8MHK0N5V2R7X": answered[0][1].headers["x-route-switch-trace-id"]}
            if example.operation == "POST /admin/keys":
                real[example.answer["key_id"]] = response.json()["key_id"]
    return answered


def shape(value: Any) -> Any:
    """Which keys there are, of what kind their values are."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Example, httpx.Response]]:
    return sent(tmp_path_factory.mktemp("examples"))


def test_every_example_is_answered_as_it_says(answered: list[tuple[Example, httpx.Response]]) -> None:
    for example, response in answered:
        assert response.status_code == example.status, (example.operation, response.text)
        if example.operation not in WITHOUT_ANSWER:
            assert shape(response.json()) == shape(example.answer), example.operation


def test_every_operation_has_an_example(tmp_path: Path) -> None:
    with stage(tmp_path) as (gateway, _), gateway.client() as client:
        document = client.get("/openapi.json").json()
    operations = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert sorted(example.operation for example in examples()) == sorted(operations)
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["example"] == examples()[0].body


def test_the_document_has_the_statuses_that_the_gateway_answers_with(tmp_path: Path) -> None:
    with stage(tmp_path) as (gateway, _), gateway.client() as client:
        document = client.get("/openapi.json").json()
        assert client.get("/v1/models").status_code == 401
    statuses = {path: set(item["get"]["responses"]) for path, item in document["paths"].items() if "get" in item}
    assert {"401", "429"} <= statuses["/v1/models"]
    assert {"401", "403"} <= statuses["/status"]
    assert statuses["/health"] == {"200"}
    assert "422" not in str(document["paths"])
    assert "HTTPValidationError" not in document["components"]["schemas"]

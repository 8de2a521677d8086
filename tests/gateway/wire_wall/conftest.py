"""One gateway for a file of cases; every case has a model of its own, so that none spoils another's routing."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests import upstream as wire
from tests.running import RunningGateway, eventually, register, running_gateway
from tests.upstream import Behaviour, Exchange, JsonDict, Upstream

KEY = "sk-upstream-0123456789abcdef"
N_MODELS = 150


class Wall:
    """A gateway, the upstream behind it, and the ways to talk to both."""

    def __init__(self, gateway: RunningGateway, upstream: Upstream, scripts: dict[str, list[Behaviour]]) -> None:
        self.gateway, self.upstream, self._scripts = gateway, upstream, scripts
        self._names = iter(range(N_MODELS))

    def model(self, *script: Behaviour) -> str:
        """A model that nobody else uses, which answers with `script` in turn."""
        name = f"m{next(self._names)}"
        self._scripts[name] = list(script)
        return name

    def body(self, *script: Behaviour, **fields: Any) -> JsonDict:
        return {"model": self.model(*script), "messages": [{"role": "user", "content": "hi"}], **fields}

    def ask(self, *script: Behaviour, **fields: Any) -> httpx.Response:
        return self.gateway.ask(self.body(*script or (wire.answers("Paris is lovely"),), **fields))

    def stream(self, *script: Behaviour, **fields: Any) -> tuple[int, str]:
        return self.gateway.stream(self.body(*script, **fields))

    def asked(self, model: str) -> list[JsonDict]:
        """What the upstream was asked of this model."""
        return [request for request in self.upstream.requests if request.get("model") == model]

    def sent(self, **fields: Any) -> JsonDict:
        """What the upstream gets when a client sends these fields."""
        body = self.body(wire.answers("Paris is lovely"), **fields)
        response = self.gateway.ask(body)
        assert response.status_code == 200, response.text
        return self.asked(body["model"])[-1]

    def trace(self, response: httpx.Response) -> dict[str, Any]:
        """The stored trace of an answer."""
        trace_id = response.headers["x-route-switch-trace-id"]
        found: list[dict[str, Any]] = []
        eventually(lambda: bool(found.extend(t for t in self.gateway.traces() if t["trace_id"] == trace_id) or found))
        return found[0]

    def talk(self, *pieces: bytes) -> bytes:
        """Send bytes, and read until the gateway closes the connection."""
        address = urlsplit(self.gateway.url)
        with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60) as connection:
            for piece in pieces:
                connection.sendall(piece)
            received = b""
            while more := connection.recv(65536):
                received += more
            return received

    def post(self, content: bytes, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.gateway.client() as client:
            return client.post("/v1/chat/completions", content=content, headers=names)


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wall]:
    folder: Path = tmp_path_factory.mktemp("wall")
    register(folder)
    scripts: dict[str, list[Behaviour]] = {}

    async def by_model(exchange: Exchange) -> None:
        script = scripts.get(exchange.body.get("model", ""), [wire.answers("Paris is lovely")])
        behaviour = script.pop(0) if len(script) > 1 else script[0]
        await behaviour(exchange)

    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith(("RS_", "ROUTE_SWITCH_")) or name.endswith("_API_KEY"):
                environment.delenv(name)
        environment.setenv("P1_API_KEY", KEY)
        with Upstream([by_model]).running() as upstream:
            settings = {
                "model_providers": {
                    "p1": {
                        "base_url": upstream.base_url,
                        "kind": "openai_compatible",
                        "models": [f"m{i}" for i in range(N_MODELS)],
                    }
                },
                "gateway": {
                    "combinations": [
                        {"id": "main", "template_id": "support", "model": "gpt-4", "provider": "p1"},
                    ]
                },
                "api": {
                    "timeout_seconds": 5,
                    "max_retries": 0,
                    "idle_timeout_seconds": 0.6,
                    "first_byte_timeout_seconds": 1,
                },
            }
            with running_gateway(folder, settings) as gateway:
                yield Wall(gateway, upstream, scripts)


def is_openais(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, after a check of its shape and of its request id."""
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str) and error["type"]
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"]
    return error


def events(text: str) -> list[Any]:
    """The JSON of every event of a stream; `[DONE]` as itself."""
    payloads = [block.removeprefix("data: ") for block in text.split("\n\n") if block]
    return ["[DONE]" if payload == "[DONE]" else json.loads(payload) for payload in payloads]

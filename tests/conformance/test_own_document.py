"""The gateway's own OpenAPI document, held against the gateway: schemathesis finds no 500 and no schema violation."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rs_gateway.adapters.litellm_chat import load_litellm
from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import CHAT
from tests.gateway.keyed import auth, issue
from tests.running import eventually, running_gateway

# litellm's types, which pydantic builds when they are first needed, make it warn.
pytestmark = pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning")

UPSTREAM_STATUS = frozenset({502, 503, 504})
"""What a gateway says of the server behind it; 500 would be about itself."""


def document() -> dict[str, Any]:
    """What a gateway says of itself, whatever it serves; read at import, to make a test of each route."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_gateway(Path(folder), {}) as gateway,
        gateway.client() as client,
    ):
        return client.get("/openapi.json").json()


# The document's examples are sent by tests/gateway/test_examples.py, which knows what has to be there first.
CONFIG = schemathesis.Config.from_dict({"seed": 7, "phases": {"examples": {"enabled": False}}})
schema: Any = schemathesis.openapi.from_dict(document(), config=CONFIG)


@dataclass
class Operator:
    """Somebody with an admin key, who knows what there is on the stage.

    Attributes:
        names: path parameter -> something that is there.
        bodies: operation -> fields with which it can succeed.
        seen: operation -> the statuses that it answered with.
    """

    headers: dict[str, str]
    names: dict[str, str]
    bodies: dict[str, dict[str, Any]]
    seen: dict[str, set[int]]


@pytest.fixture(scope="module")
def operator(stage: Stage) -> Iterator[Operator]:
    """From here on the gateway asks for a key. In the end, every operation that was tried must have succeeded once."""
    load_litellm()  # takes seconds, and a case has ten
    headers = auth(issue(stage.gateway.folder, "operator", admin=True).secret)
    said: Any = {"model": CHAT, "messages": [{"role": "user", "content": "hi"}]}
    with stage.gateway.client(headers=headers) as client:
        eventually(lambda: client.get("/admin/keys").status_code == 200)
        trace_id = client.post("/v1/chat/completions", json=said).headers["x-route-switch-trace-id"]
    change = {"reason": "to see", "model": None}
    operator = Operator(
        headers,
        names={
            "template_id": "support",
            "name": "support",
            "key_id": issue(stage.gateway.folder, "somebody").key.key_id,
        },
        bodies={
            "POST /v1/chat/completions": {**said, "variables": {}, "metadata": None},
            "POST /v1/embeddings": {"model": CHAT, "input": "hi", "stream": False},
            "POST /v1/responses": {"model": CHAT, "input": "hi"},
            "POST /v1/messages": {**said, "max_tokens": 50},
            "POST /v1/feedback": {"trace_id": trace_id, "kind": "score", "value": 0.5},
            "POST /admin/templates": {"id": "another", "reference": None, "variables": None},
            "POST /admin/templates/{template_id}/versions": {"instruction": "Help {customer_name}.", "user": None},
            "POST /admin/templates/{template_id}/live": {**change, "version": 2, "previous": None},
            "POST /admin/templates/{template_id}/rollback": change,
            "PUT /admin/templates/{template_id}/weights": {"reason": "to see", "weights": {"support-main": 2}},
            "POST /admin/keys": {"name": "another", "templates": ["support"], "models": []},
            "PATCH /admin/keys/{key_id}": {"name": "renamed", "templates": ["support"], "models": []},
        },
        seen=defaultdict(set),
    )
    yield operator
    assert not [name for name, statuses in operator.seen.items() if min(statuses) >= 300], operator.seen


@schema.parametrize()
@schema.given(known=st.booleans())
@settings(
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
def test_every_operation_keeps_what_the_document_says(
    case: Case[Any], known: bool, stage: Stage, operator: Operator
) -> None:
    if known:  # otherwise nearly every case would end at something that is not there
        case.path_parameters |= {name: operator.names[name] for name in case.path_parameters if name in operator.names}
        if isinstance(case.body, dict):
            case.body |= operator.bodies.get(case.operation.label, {})
    response = case.call(base_url=stage.gateway.url, headers=operator.headers, timeout=60)
    operator.seen[case.operation.label].add(response.status_code)
    assert response.status_code != 500, response.text
    assert response.headers["x-request-id"]
    checks = [
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
    ]
    if response.status_code not in UPSTREAM_STATUS:
        checks.append(not_a_server_error)
    case.validate_response(response, checks=checks)


def test_the_document_names_every_route_with_an_id_and_a_summary(stage: Stage) -> None:
    with stage.gateway.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    operations = [(path, method, op) for path, methods in paths.items() for method, op in methods.items()]
    assert len({op["operationId"] for _, _, op in operations}) == len(operations)
    for path, method, operation in operations:
        assert operation["summary"], (method, path)
        named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert named == {name.removesuffix(":path") for name in re.findall(r"\{([^}]+)\}", path)}, (method, path)

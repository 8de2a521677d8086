"""The gateway's own OpenAPI document, held against the gateway: schemathesis finds no 500 and no schema violation."""

import re
import tempfile
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import CHAT
from tests.running import running_gateway

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


schema: Any = schemathesis.openapi.from_dict(document(), config=schemathesis.Config.from_dict({"seed": 7}))


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
def test_every_operation_keeps_what_the_document_says(case: Case[Any], stage: Stage) -> None:
    if case.operation.path == "/v1/chat/completions" and isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = CHAT  # otherwise every case would end at a model that is not there
    response = case.call(base_url=stage.gateway.url, timeout=10)
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

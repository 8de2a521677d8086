"""The OpenAPI document: FastAPI's, with the hot routes that it does not see, and with an example of every operation."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI

from rs_gateway.api.chat import CHAT_PATH
from rs_gateway.api.edge import OPERATIONS, PUBLIC
from rs_gateway.api.examples import Example, examples
from rs_gateway.api.requests import ROLES
from rs_gateway.domain.endpoints import ENDPOINT_PATHS, Endpoint

_STREAM = "Whether to answer with server-sent events."
_CHAT: dict[str, Any] = {
    "post": {
        "tags": ["chat"],
        "summary": "Answer a conversation from a template's live version, or straight from a model",
        "description": "Every other parameter of OpenAI's reaches the provider or is refused by name. A stream that "
        "breaks off ends in an error event, without `[DONE]`.",
        "operationId": "create_chat_completion",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["model"],
                        "additionalProperties": True,
                        "properties": {
                            "model": {
                                "type": "string",
                                "minLength": 1,
                                "description": "A template id or a model name.",
                            },
                            "messages": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["role"],
                                    "properties": {"role": {"enum": sorted(ROLES)}},
                                },
                                "description": "May be empty when the template has a user text of its own.",
                            },
                            "variables": {
                                "type": "object",
                                "additionalProperties": {"type": ["string", "number", "boolean"]},
                                "description": "Values for the template's placeholders.",
                            },
                            "metadata": {
                                "description": "`template_id` or `combination_id` say what is meant, not `model`.",
                                "type": ["object", "null"],
                                "properties": {
                                    "template_id": {"type": ["string", "null"]},
                                    "combination_id": {"type": ["string", "null"]},
                                },
                            },
                            "stream": {"type": ["boolean", "null"], "default": False, "description": _STREAM},
                        },
                    }
                }
            },
        },
        "responses": {
            "200": {
                "description": "OpenAI's chat.completion, or its chunks as server-sent events.",
                "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
            },
            "default": {
                "description": "OpenAI's error object.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
            },
        },
    }
}


_SUMMARIES: Mapping[Endpoint, str] = {
    "embeddings": "Vectors for texts, from a model that a provider lists",
    "responses": "OpenAI's Responses API, from a model that a provider lists",
    "messages": "Anthropic's Messages API, from a model that a provider lists",
}


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    listed = "A model that a provider lists under `models`; a template's name is refused."
    properties: dict[str, Any] = {"model": {"type": "string", "minLength": 1, "description": listed}}
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if endpoint != "embeddings":
        properties["stream"] = {"type": ["boolean", "null"], "default": False, "description": _STREAM}
        content["text/event-stream"] = {}
    schema = {"type": "object", "required": ["model"], "additionalProperties": True, "properties": properties}
    error = {"type": "object"} if endpoint == "messages" else {"$ref": "#/components/schemas/ErrorBody"}
    return {
        "post": {
            "tags": ["pass-through"],
            "summary": _SUMMARIES[endpoint],
            "description": "Every other field goes to the provider as it is. Where the provider speaks only chat, it "
            "is translated, or refused by name.",
            "operationId": f"create_{endpoint}",
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {
                "200": {"description": "The provider's own answer, or its events.", "content": content},
                "default": {"description": "An error.", "content": {"application/json": {"schema": error}}},
            },
        }
    }


_ERROR: Mapping[str, Any] = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
_PARAMETERS = {
    "template_id": "The template's id.",
    "key_id": "The key's id: what stands in it between the first two dashes.",
    "name": "A template's id, or a model's name, slashes and all.",
}
_REFUSALS = {
    "401": "No client key, or one that is not known.",
    "403": "The client key may not do this.",
    "429": "The client key has used up its rate or its budget.",
}


def with_hot_routes(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """FastAPI's own document with the routes added that FastAPI does not see, and as the gateway answers."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["paths"].setdefault(CHAT_PATH, _CHAT)
        for endpoint, path in ENDPOINT_PATHS.items():
            document["paths"].setdefault(path, _endpoint(endpoint))
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _tell_refusals(path, operation["responses"])
                for parameter in operation.get("parameters", ()):
                    parameter.setdefault("description", _PARAMETERS.get(parameter["name"], ""))
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        for example in examples():
            method, _, path = example.operation.partition(" ")
            _show(example, document["paths"][path][method.lower()])
        return document

    return openapi


def _tell_refusals(path: str, responses: dict[str, Any]) -> None:
    """What FastAPI cannot know: the edge refuses by client key, and a body of the wrong shape is a 400 here."""
    responses.pop("422", None)
    by_key = () if path in PUBLIC else ("401", "403") if path.startswith(OPERATIONS) else ("401", "429")
    for status in by_key:
        if "default" not in responses:
            responses.setdefault(status, {"description": _REFUSALS[status], "content": _ERROR})
    for status, description in _REFUSALS.items():
        if status in responses:
            responses[status] = {"description": description, "content": _ERROR}


def _show(example: Example, operation: dict[str, Any]) -> None:
    if example.body is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = example.body
    if example.answer is not None:
        answers = operation["responses"][str(example.status)]["content"]
        answers["application/json"]["example"] = example.answer

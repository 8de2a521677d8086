"""The hot routes' entries in the OpenAPI document, by hand, since FastAPI does not see them."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI

from rs_gateway.api.chat import CHAT_PATH
from rs_gateway.api.requests import ROLES
from rs_gateway.domain.endpoints import ENDPOINT_PATHS, Endpoint

_CHAT: dict[str, Any] = {
    "post": {
        "tags": ["chat"],
        "summary": "Answer a conversation from a template's live version, or straight from a model",
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
                                "type": ["object", "null"],
                                "properties": {
                                    "template_id": {"type": ["string", "null"]},
                                    "combination_id": {"type": ["string", "null"]},
                                },
                            },
                            "stream": {"type": ["boolean", "null"], "default": False},
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
    properties: dict[str, Any] = {"model": {"type": "string", "minLength": 1}}
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if endpoint != "embeddings":
        properties["stream"] = {"type": ["boolean", "null"], "default": False}
        content["text/event-stream"] = {}
    schema = {"type": "object", "required": ["model"], "additionalProperties": True, "properties": properties}
    error = {"type": "object"} if endpoint == "messages" else {"$ref": "#/components/schemas/ErrorBody"}
    return {
        "post": {
            "tags": ["pass-through"],
            "summary": _SUMMARIES[endpoint],
            "operationId": f"create_{endpoint}",
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {
                "200": {"description": "The provider's own answer, or its events.", "content": content},
                "default": {"description": "An error.", "content": {"application/json": {"schema": error}}},
            },
        }
    }


def with_hot_routes(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """FastAPI's own document with the routes added that FastAPI does not see."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["paths"].setdefault(CHAT_PATH, _CHAT)
        for endpoint, path in ENDPOINT_PATHS.items():
            document["paths"].setdefault(path, _endpoint(endpoint))
        return document

    return openapi

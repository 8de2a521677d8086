"""The hot route's entry in the OpenAPI document, by hand, since FastAPI does not see the route."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from rs_gateway.api.chat import CHAT_PATH

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
                                "items": {"type": "object"},
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


def with_chat(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """FastAPI's own document with the chat route added."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["paths"].setdefault(CHAT_PATH, _CHAT)
        return document

    return openapi

"""What Anthropic's /v1/messages sends, bodies and events as its documentation shows them."""

from typing import Any

from tests.gateway.providers.vendor import JsonDict, sse

MODEL = "claude-sonnet-4-5"
USAGE: JsonDict = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 4,
    "service_tier": "standard",
}


def message(*content: JsonDict, stop_reason: str | None = "end_turn", usage: JsonDict | None = None) -> JsonDict:
    """A whole message."""
    return {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {**USAGE, **(usage or {})},
    }


def text(words: str) -> JsonDict:
    return {"type": "text", "text": words}


def tool_use(name: str, arguments: JsonDict, *, tool_id: str) -> JsonDict:
    return {"type": "tool_use", "id": tool_id, "name": name, "input": arguments}


def named(event: JsonDict) -> bytes:
    """An event as Anthropic frames it: its type stands in an `event:` line too."""
    return sse(event, event=event["type"])


def started(usage: JsonDict | None = None) -> bytes:
    return named(
        {"type": "message_start", "message": message(stop_reason=None, usage={"output_tokens": 1, **(usage or {})})}
    )


def block(index: int, start: JsonDict, *deltas: JsonDict) -> list[bytes]:
    """One content block from its start to its stop."""
    return [
        named({"type": "content_block_start", "index": index, "content_block": start}),
        *(named({"type": "content_block_delta", "index": index, "delta": d}) for d in deltas),
        named({"type": "content_block_stop", "index": index}),
    ]


def text_block(index: int, *words: str) -> list[bytes]:
    return block(index, text(""), *({"type": "text_delta", "text": w} for w in words))


def tool_block(index: int, name: str, tool_id: str, *parts: str) -> list[bytes]:
    start = {"type": "tool_use", "id": tool_id, "name": name, "input": {}}
    return block(index, start, *({"type": "input_json_delta", "partial_json": p} for p in parts))


def ended(stop_reason: str = "end_turn", usage: JsonDict | None = None) -> list[bytes]:
    usage = {"output_tokens": 4, **(usage or {})}
    return [
        named({"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": None}, "usage": usage}),
        named({"type": "message_stop"}),
    ]


ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
PING = named({"type": "ping"})


def error(kind: str, words: str, **details: Any) -> JsonDict:
    """An error body; in a stream it is an event of its own."""
    return {"type": "error", "error": {"type": kind, "message": words, **details}, "request_id": "req_011CSHoEeqs5C35K"}

"""An upstream that behaves as OpenAI's chat API does, as far as a client can tell: no intelligence, exact shapes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.upstream import DONE, Behaviour, Exchange, JsonDict

TEXT = "Paris is lovely in März 🎈"
USAGE = {
    "prompt_tokens": 21,
    "completion_tokens": 9,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 2,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
    "model": "embedder",
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}
CHAT, PARALLEL, REFUSING = "chat-model", "parallel-model", "refusing-model"
SLOW, SILENT, CUT = "slow-model", "silent-model", "cut-model"
ERRORS = {
    400: ("invalid_request_error", "context_length_exceeded", "messages", "The context holds 8192 tokens at most."),
    401: ("authentication_error", "invalid_api_key", None, "Incorrect API key provided."),
    403: ("permission_error", "not_allowed", None, "This project may not use the model."),
    404: ("invalid_request_error", "model_not_found", "model", "The model does not exist."),
    429: ("rate_limit_error", "rate_limit_exceeded", None, "Too many requests."),
    500: ("server_error", "server_error", None, "The server had an error."),
    503: ("server_error", "overloaded", None, "The engine is overloaded."),
}
FLAKY = {"flaky-429": 429, "flaky-500": 500, "flaky-503": 503}
"""These fail every other time."""
MODELS = [CHAT, PARALLEL, REFUSING, SLOW, SILENT, CUT, *(f"status-{status}" for status in ERRORS), *FLAKY]


@dataclass(frozen=True)
class Turn:
    """What the model says: text, calls of tools, or a refusal."""

    content: str | None
    calls: tuple[JsonDict, ...] = ()
    refusal: str | None = None

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.calls else "stop"


def speaks() -> Behaviour:
    """The `model` of a request decides how it is answered; the rest of the request decides with what."""
    failed: set[str] = set()

    async def behave(exchange: Exchange) -> None:
        model = exchange.body["model"]
        if model.startswith("status-"):
            await _fail(exchange, int(model.removeprefix("status-")), retry_after="7")
        elif model in FLAKY and model not in failed:
            failed.add(model)
            await _fail(exchange, FLAKY[model], retry_after="1")
        elif model == SILENT:
            await exchange.hung_up.wait()
        elif "input" in exchange.body:
            await exchange.json(200, EMBEDDINGS)
        elif exchange.body.get("stream"):
            failed.discard(model)
            await _stream(exchange, turn(exchange.body))
        else:
            failed.discard(model)
            await exchange.json(200, _completion(exchange.body, turn(exchange.body)))

    return behave


def turn(body: JsonDict) -> Turn:
    """A call of a tool when there are some and none has answered yet; JSON when it is asked for; else text."""
    if body["model"] == REFUSING:
        return Turn(None, refusal="I cannot help with that.")
    tools = [t["function"] for t in body.get("tools") or [] if t["type"] == "function"]
    choice = body.get("tool_choice")
    if tools and choice != "none" and body["messages"][-1]["role"] != "tool":
        named = choice["function"]["name"] if isinstance(choice, dict) else None
        chosen = [t for t in tools if named in (None, t["name"])]
        chosen = chosen if body["model"] == PARALLEL else chosen[:1]
        return Turn(None, tuple(_call(position, tool) for position, tool in enumerate(chosen)))
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = wanted["json_schema"]["schema"]
        return Turn(json.dumps(example_of(schema, schema)))
    if wanted.get("type") == "json_object":
        return Turn('{"setup": "Why?", "punchline": "Why not?"}')
    return Turn(_until(TEXT, body.get("stop")))


def example_of(schema: JsonDict, root: JsonDict) -> Any:
    """A value that is valid against `schema`, for the small part of JSON Schema that clients send."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return example_of((root.get("$defs") or root["definitions"])[name], root)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example_of(schema[key][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: example_of(item, root) for name, item in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_of(schema.get("items", {}), root)]
    return {"string": "Paris", "integer": 3, "number": 1.5, "boolean": True, "null": None}[kind]


def _call(position: int, tool: JsonDict) -> JsonDict:
    parameters = tool.get("parameters") or {"type": "object"}
    arguments = json.dumps(example_of(parameters, parameters))
    return {"id": f"call_{position}", "type": "function", "function": {"name": tool["name"], "arguments": arguments}}


def _until(text: str, stop: str | list[str] | None) -> str:
    for mark in [stop] if isinstance(stop, str) else stop or []:
        text = text.split(mark, 1)[0]
    return text


def _completion(body: JsonDict, said: Turn) -> JsonDict:
    message: JsonDict = {"role": "assistant", "content": said.content, "refusal": said.refusal, "annotations": []}
    if said.calls:
        message["tool_calls"] = list(said.calls)
    return {
        "id": "chatcmpl-9",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{body['model']}-2026-01-01",
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": said.finish_reason}
            for index in range(body.get("n") or 1)
        ],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def _deltas(said: Turn) -> Iterable[JsonDict]:
    yield {"role": "assistant", "content": "" if said.content is not None else None, "refusal": None}
    for word in (said.content or "").split(" ") if said.content else []:
        yield {"content": word if said.content and said.content.startswith(word) else " " + word}
    if said.refusal:
        yield {"refusal": said.refusal}
    for index, call in enumerate(said.calls):
        function = call["function"]
        yield {"tool_calls": [{**call, "index": index, "function": {"name": function["name"], "arguments": ""}}]}
        half = len(function["arguments"]) // 2
        for piece in (function["arguments"][:half], function["arguments"][half:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _chunk(body: JsonDict, choices: list[JsonDict], **fields: Any) -> bytes:
    value = {
        "id": "chatcmpl-9",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": f"{body['model']}-2026-01-01",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": choices,
        **fields,
    }
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


async def _stream(exchange: Exchange, said: Turn) -> None:
    body = exchange.body
    wants_usage = (body.get("stream_options") or {}).get("include_usage")
    rest: JsonDict = {"usage": None} if wants_usage else {}
    await exchange.head(200, "text/event-stream; charset=utf-8")
    for position, delta in enumerate(_deltas(said)):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        await exchange.chunk(_chunk(body, [choice], **rest))
        if position == 1 and body["model"] == SLOW:
            await exchange.hung_up.wait()
        if position == 1 and body["model"] == CUT:
            exchange.cut()
            return
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": said.finish_reason}
    await exchange.chunk(_chunk(body, [last], **rest))
    if wants_usage:
        await exchange.chunk(_chunk(body, [], usage=USAGE))
    await exchange.chunk(DONE)
    await exchange.end()


async def _fail(exchange: Exchange, status: int, *, retry_after: str) -> None:
    kind, code, param, message = ERRORS[status]
    extra = f"retry-after: {retry_after}\r\n" if status in (429, 503) else ""
    error = {"message": message, "type": kind, "param": param, "code": code}
    await exchange.json(status, {"error": error}, extra=extra)

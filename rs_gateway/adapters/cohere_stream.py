"""Cohere's v2 chat stream -> `chat.completion.chunk` objects, and these -> a `chat.completion`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from rs_gateway.domain.answers import StreamedAnswer, decode_chunk
from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import ProviderError, ProviderOverloadedError

_FINISH_REASONS = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}


async def whole_answer(chunks: AsyncIterator[Sequence[bytes]]) -> bytes:
    """The `chat.completion` that a stream adds up to. Raises what the stream raises."""
    answer = StreamedAnswer()
    head: JsonObject = {}
    usage: JsonObject | None = None
    async for batch in chunks:
        for payload in batch:
            value: JsonObject = msgspec.json.decode(payload)
            head = {"id": value["id"], "created": value["created"], "model": value["model"]}
            usage = value.get("usage") or usage
            answer.add(decode_chunk(payload))
    choice = {"index": 0, "message": answer.message(), "finish_reason": answer.finish_reason}
    counted = {"usage": usage} if usage is not None else {}
    return msgspec.json.encode({**head, "object": "chat.completion", "choices": [choice], **counted})


async def cohere_chunks(lines: AsyncIterator[str], *, name: str, model: str, created: int) -> AsyncIterator[bytes]:
    """Chunks in OpenAI's shape, in the order of Cohere's events.

    Args:
        lines: `data:` lines, as VendorLines passes them on.
        name: the provider's, for messages.
        created: seconds since the epoch, for the chunks.

    Raises:
        ProviderError: the stream reports an error.
    """
    head: JsonObject = {"id": "chatcmpl-cohere", "object": "chat.completion.chunk", "created": created, "model": model}
    begun = False
    async for line in lines:
        event: JsonObject = msgspec.json.decode(line[5:])
        kind = event["type"]
        if kind == "message-start":
            head["id"] = str(event.get("id") or head["id"])
            continue
        if kind == "message-end":
            for chunk in _ending(event, head, name):
                yield chunk
            continue
        delta = _delta(event)
        if delta is None:
            continue
        if not begun:
            begun, delta = True, {"role": "assistant", **delta}
        yield _chunk(head, delta, None)


def _delta(event: JsonObject) -> JsonObject | None:
    """What an event adds to the answer; None for the frame around it."""
    kind = event["type"]
    message = _object(_object(event.get("delta")).get("message"))
    if kind == "content-delta":
        content = _object(message.get("content"))
        if "thinking" in content:
            return {"reasoning_content": content["thinking"]}
        return {"content": content.get("text") or ""}
    if kind == "tool-plan-delta":
        return {"reasoning_content": message.get("tool_plan") or ""}
    call = _object(message.get("tool_calls"))
    if kind == "tool-call-start":
        begun = {"index": event.get("index", 0), "id": call.get("id"), "type": "function"}
        return {"tool_calls": [{**begun, "function": {"arguments": "", **_object(call.get("function"))}}]}
    if kind == "tool-call-delta":
        return {"tool_calls": [{"index": event.get("index", 0), "function": _object(call.get("function"))}]}
    return None


def _ending(event: JsonObject, head: JsonObject, name: str) -> list[bytes]:
    delta = _object(event.get("delta"))
    reason = str(delta.get("finish_reason") or "")
    if reason in ("ERROR", "TIMEOUT"):
        raise _failed(name)
    chunks = [_chunk(head, {}, _FINISH_REASONS.get(reason, "stop"))]
    usage = _object(delta.get("usage"))
    # What is billed is less than what the model read: Cohere does not charge for its own preamble.
    counted = _object(usage.get("billed_units") or usage.get("tokens"))
    n_input, n_output = counted.get("input_tokens"), counted.get("output_tokens")
    if isinstance(n_input, int | float) and isinstance(n_output, int | float):
        total = {"prompt_tokens": int(n_input), "completion_tokens": int(n_output)}
        chunks.append(_usage_chunk(head, {**total, "total_tokens": sum(total.values())}))
    return chunks


def _chunk(head: JsonObject, delta: JsonObject, finish_reason: str | None) -> bytes:
    return msgspec.json.encode({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


def _usage_chunk(head: JsonObject, usage: JsonObject) -> bytes:
    return msgspec.json.encode({**head, "choices": [], "usage": usage})


def _failed(name: str) -> ProviderError:
    return ProviderOverloadedError(f"{name} reported an error in its stream.", provider=name)


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}

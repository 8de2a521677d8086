"""What Cohere's /v2/chat sends, as its documentation shows it."""

from tests.gateway.providers.vendor import JsonDict, sse

MODEL = "command-a-03-2025"
USAGE: JsonDict = {
    "billed_units": {"input_tokens": 12, "output_tokens": 4},
    "tokens": {"input_tokens": 71, "output_tokens": 6},
}


def tool_call(name: str, arguments: str, *, call_id: str) -> JsonDict:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def named(event: JsonDict) -> bytes:
    return sse(event, event=event["type"])


STARTED = named(
    {
        "type": "message-start",
        "id": "29f14a5a-11de-4cae-9800-25e4747408ea",
        "delta": {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}},
    }
)


def text_block(*words: str) -> list[bytes]:
    """One content block from its start to its end."""
    start = {"message": {"content": {"type": "text", "text": ""}}}
    return [
        named({"type": "content-start", "index": 0, "delta": start}),
        *(named({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": w}}}}) for w in words),
        named({"type": "content-end", "index": 0}),
    ]


def tool_block(index: int, name: str, call_id: str, *parts: str) -> list[bytes]:
    """One tool call from its start to its end."""
    start = {"message": {"tool_calls": tool_call(name, "", call_id=call_id)}}
    return [
        named({"type": "tool-call-start", "index": index, "delta": start}),
        *(
            named(
                {
                    "type": "tool-call-delta",
                    "index": index,
                    "delta": {"message": {"tool_calls": {"function": {"arguments": p}}}},
                }
            )
            for p in parts
        ),
        named({"type": "tool-call-end", "index": index}),
    ]


def tool_plan(*words: str) -> list[bytes]:
    """What the model says about the calls that it is about to make."""
    return [named({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": w}}}) for w in words]


def ended(finish: str = "COMPLETE") -> list[bytes]:
    return [
        named({"type": "message-end", "delta": {"finish_reason": finish, "usage": USAGE}}),
        b"data: [DONE]\n\n",
    ]


def error(words: str) -> JsonDict:
    """An error body."""
    return {"id": "8a0d6e7e-4f1e-4b8e-9c43-0a5b5e3d7f10", "message": words}

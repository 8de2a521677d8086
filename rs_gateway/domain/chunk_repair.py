"""Chunks that a provider got wrong in ways that clients trip over, put right."""

import msgspec

from rs_gateway.domain.answers import StreamedAnswer
from rs_gateway.domain.chat import JsonValue


def repaired(payload: bytes, answer: StreamedAnswer) -> bytes:
    """The chunk as a client may get it; everything else in it stays as it came.

    One id, created and model for the whole stream (OpenAI's API reference, "chat.completion.chunk"); `choices` even
    where there are none; a role only where a choice begins; an index for every tool call.

    Args:
        payload: what `answer.is_regular` said no to; not yet added to `answer`.
    """
    chunk = msgspec.json.decode(payload)
    if answer.identity is not None:
        chunk["id"], chunk["created"], chunk["model"] = answer.identity
    if not isinstance(chunk.get("choices"), list):
        chunk["choices"] = []
    for choice in chunk["choices"]:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            continue
        if answer.has_begun_choice(choice.get("index", 0)):
            delta.pop("role", None)
        _number(delta.get("tool_calls"), answer.n_tool_calls)
    return msgspec.json.encode(chunk)


def _number(calls: JsonValue, n_begun: int) -> None:
    """Give calls an index that have none: a new one to a call with an id of its own, else that of the last one."""
    for call in calls if isinstance(calls, list) else []:
        if not isinstance(call, dict):
            continue
        if isinstance(call.get("index"), int):
            n_begun = max(n_begun, call["index"] + 1)
        else:
            n_begun += 1 if call.get("id") or n_begun == 0 else 0
            call["index"] = n_begun - 1

"""What Mistral and Ollama send at their OpenAI-compatible addresses, with their own habits."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.gateway.providers.vendor import JsonDict, sse

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Quirks:
    """Where a vendor differs from OpenAI.

    Attributes:
        head: fields of every object; parts: whether content comes as a list of parts.
        role_in_every_delta: instead of only in the first one.
        usage_with_the_end: whether counts come with the last choice instead of in a chunk without choices.
        whole_calls: whether a streamed tool call comes in one piece.
        n_opening: how many events it takes to the first words.
    """

    head: JsonDict
    parts: bool
    role_in_every_delta: bool
    usage_with_the_end: bool
    whole_calls: bool
    n_opening: int
    error: Callable[[int, str], JsonDict]

    def content(self, words: str) -> object:
        return [{"type": "text", "text": words}] if self.parts else words


MISTRAL = Quirks(
    head={"id": "cmpl-e5cc70bb28c444948073e77776eb30ef"},
    parts=True,
    role_in_every_delta=False,
    usage_with_the_end=True,
    whole_calls=True,
    n_opening=2,
    error=lambda status, words: {
        "object": "error",
        "message": words,
        "type": "invalid_request_error" if status == 400 else "error",
        "param": None,
        "code": "1500",
    },
)
OLLAMA = Quirks(
    head={"id": "chatcmpl-187", "system_fingerprint": "fp_ollama"},
    parts=False,
    role_in_every_delta=True,
    usage_with_the_end=False,
    whole_calls=True,
    n_opening=1,
    error=lambda status, words: {
        "error": {"message": words, "type": "invalid_request_error", "param": None, "code": None}
    },
)
USAGE: JsonDict = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}


def answer(model: str, words: str, quirks: Quirks) -> JsonDict:
    return _whole(model, quirks, {"role": "assistant", "content": quirks.content(words)}, "stop")


def calls(model: str, quirks: Quirks, *arguments: JsonDict) -> JsonDict:
    message = {"role": "assistant", "content": "", "tool_calls": [_call(i, a) for i, a in enumerate(arguments)]}
    return _whole(model, quirks, message, "tool_calls")


def stream(model: str, words: list[str], quirks: Quirks, *, finish_reason: str = "stop") -> list[bytes]:
    deltas: list[JsonDict] = [{"content": quirks.content(w)} for w in words]
    if not quirks.role_in_every_delta:
        deltas.insert(0, {"role": "assistant", "content": ""})
    return _stream(model, quirks, deltas, finish_reason)


def streamed_calls(model: str, quirks: Quirks, *arguments: JsonDict) -> list[bytes]:
    deltas: list[JsonDict] = [{"tool_calls": [_call(i, a)]} for i, a in enumerate(arguments)]
    return _stream(model, quirks, deltas, "tool_calls")


def _stream(model: str, quirks: Quirks, deltas: list[JsonDict], finish_reason: str) -> list[bytes]:
    if quirks.role_in_every_delta:
        deltas = [{"role": "assistant", "content": "", **d} for d in deltas]
    head = {**quirks.head, "object": "chat.completion.chunk", "created": 1_770_000_000, "model": model}
    events = [{**head, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    last = {**head, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": finish_reason}]}
    if quirks.usage_with_the_end:
        return [*map(sse, events), sse({**last, "usage": USAGE}), DONE]
    return [*map(sse, events), sse(last), sse({**head, "choices": [], "usage": USAGE}), DONE]


def _whole(model: str, quirks: Quirks, message: JsonDict, finish_reason: str) -> JsonDict:
    return {
        **quirks.head,
        "object": "chat.completion",
        "created": 1_770_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": USAGE,
    }


def _call(index: int, arguments: JsonDict) -> JsonDict:
    function = {"name": "weather", "arguments": json.dumps(arguments)}
    return {"index": index, "id": f"call_{index}abcdef", "type": "function", "function": function}

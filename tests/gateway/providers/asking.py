"""Asking an adapter the way the gateway does, in a loop of its own."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rs_gateway.domain.answers import StreamedAnswer, counted_usage, decode_chunk, decode_completion, estimated_usage
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.ports import DONE, ChatProvider
from rs_gateway.domain.traces import Usage

WEATHER: JsonObject = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_T = TypeVar("_T")


def call(model: str, *, timeout_s: float = 20.0, **parameters: Any) -> ProviderCall:
    return ProviderCall(model, ({"role": "user", "content": "Where shall I go?"},), parameters, timeout_s)


def run(adapter: ChatProvider, act: Callable[[ChatProvider], Awaitable[_T]]) -> _T:
    """`act`, then the adapter closed, in one event loop."""

    async def main() -> _T:
        try:
            return await act(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(main())


@dataclass
class Streamed:
    """What came of a stream, as far as it came."""

    chunks: list[JsonObject] = field(default_factory=list[JsonObject])
    answer: StreamedAnswer = field(default_factory=StreamedAnswer)
    began_at_s: float = 0.0

    @property
    def message(self) -> JsonObject:
        message = self.answer.message()
        assert message is not None
        return message

    @property
    def usage(self) -> Usage:
        return counted_usage(self.answer.usage) or estimated_usage(input_characters=1, output_characters=1)


async def stream(adapter: ChatProvider, asked: ProviderCall, into: Streamed) -> Streamed:
    async with adapter.stream(asked) as batches:
        async for batch in batches:
            for payload in batch:
                if payload is DONE:
                    continue
                into.began_at_s = into.began_at_s or time.monotonic()
                into.chunks.append(json.loads(payload))
                into.answer.add(decode_chunk(payload))
    return into


def streamed(adapter: ChatProvider, asked: ProviderCall) -> Streamed:
    return run(adapter, lambda provider: stream(provider, asked, Streamed()))


@dataclass(frozen=True)
class Completed:
    """A whole answer."""

    body: JsonObject
    usage: Usage

    @property
    def message(self) -> JsonObject:
        return self.body["choices"][0]["message"]

    @property
    def finish_reason(self) -> str:
        return self.body["choices"][0]["finish_reason"]


def completed(adapter: ChatProvider, asked: ProviderCall) -> Completed:
    body = run(adapter, lambda provider: provider.complete(asked))
    usage = counted_usage(decode_completion(body).usage) or estimated_usage(input_characters=1, output_characters=1)
    return Completed(json.loads(body), usage)

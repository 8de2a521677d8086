"""A model that answers from a list or a function: for tests, notebooks and offline runs."""

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from rs_gateway.domain.chat import JsonObject, Message, ProviderCall
from rs_gateway.domain.errors import ProviderCutError, ProviderError, ProviderTimeoutError

_NAME = "scripted"


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """One answer of a script.

    Attributes:
        latency_s: how long it takes to answer; a call whose deadline is shorter times out.
        cut_after: a stream breaks off after this many chunks, a plain call is cut at once; None: it ends as it should.
        body: sent instead of a chat completion, to play an upstream that answers garbage.
    """

    text: str
    finish_reason: str = "stop"
    latency_s: float = 0.0
    cut_after: int | None = None
    body: bytes | None = None


Reply: TypeAlias = str | ScriptedReply | ProviderError
Script: TypeAlias = Sequence[Reply] | Callable[[ProviderCall], Reply]


class ScriptedChat:
    """ChatProvider that follows a script.

    Attributes:
        calls: every call received, faults included, in order.
    """

    def __init__(self, script: Script, *, fault: Callable[[int], ProviderError | None] | None = None) -> None:
        """
        Args:
            script: replies in order (the last one is repeated for ever), or a function from call to reply. An error
                in place of a reply is raised.
            fault: from the number of a call, counting from 0, to the error that it meets; None: it is answered.
        """
        self._script = script
        self._fault = fault
        self._numbers: Iterator[int] = itertools.count()
        self.calls: list[ProviderCall] = []

    async def complete(self, call: ProviderCall) -> bytes:
        reply = await self._reply(call)
        if reply.body is not None:
            return reply.body
        if reply.cut_after is not None:
            raise ProviderCutError(f"{_NAME} broke off in the middle of an answer.", provider=_NAME)
        return msgspec.json.encode(
            {
                "id": "chatcmpl-scripted",
                "object": "chat.completion",
                "created": 0,
                "model": call.model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": reply.text},
                        "finish_reason": reply.finish_reason,
                    }
                ],
                "usage": _usage(call, reply),
            }
        )

    @asynccontextmanager
    async def stream(self, call: ProviderCall) -> AsyncGenerator[AsyncIterator[Sequence[bytes]]]:
        reply = await self._reply(call)
        yield _chunks(call, reply)

    async def aclose(self) -> None:
        """Nothing is held open."""

    async def _reply(self, call: ProviderCall) -> ScriptedReply:
        number = next(self._numbers)
        self.calls.append(call)
        await checkpoint()
        error = self._fault(number) if self._fault is not None else None
        if error is not None:
            raise error
        reply = self._script(call) if callable(self._script) else self._script[min(number, len(self._script) - 1)]
        if isinstance(reply, ProviderError):
            raise reply
        if isinstance(reply, str):
            return ScriptedReply(reply)
        if reply.latency_s > call.timeout_s:
            await anyio.sleep(call.timeout_s)
            raise ProviderTimeoutError(f"{_NAME} did not answer in time.", provider=_NAME)
        if reply.latency_s > 0:
            await anyio.sleep(reply.latency_s)
        return reply


async def _chunks(call: ProviderCall, reply: ScriptedReply) -> AsyncIterator[Sequence[bytes]]:
    if reply.body is not None:
        yield [reply.body]
        return
    words = reply.text.split(" ")
    deltas: list[JsonObject] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word if n == 0 else " " + word} for n, word in enumerate(words) if reply.text]
    payloads = [_chunk(call, choices=[{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    payloads.append(_chunk(call, choices=[{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]))
    payloads.append(_chunk(call, choices=[], usage=_usage(call, reply)))
    for sent, payload in enumerate(payloads):
        if reply.cut_after is not None and sent >= reply.cut_after:
            raise ProviderCutError(f"{_NAME} broke off in the middle of an answer.", provider=_NAME)
        await checkpoint()
        yield [payload]


def _chunk(call: ProviderCall, *, choices: list[JsonObject], usage: JsonObject | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "id": "chatcmpl-scripted",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": call.model,
            "choices": choices,
            "usage": usage,
        }
    )


def _usage(call: ProviderCall, reply: ScriptedReply) -> JsonObject:
    """Words stand in for tokens."""
    asked = sum(len(message_text(message).split()) for message in call.messages)
    answered = len(reply.text.split())
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def message_text(message: Message) -> str:
    """The text of a message's content: a string as it is, the text parts of a list joined, otherwise empty."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""

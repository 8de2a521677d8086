"""One call to one provider, looked at closely enough to tell an answer from anything else."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import msgspec

from rs_gateway.domain.answers import StreamedAnswer, WireChunk, WireCompletion, decode_chunk, decode_completion
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ProviderCutError, ProviderError, ProviderGarbageError, ProviderOverloadedError
from rs_gateway.domain.ports import DONE, ChatProvider


@dataclass(frozen=True, slots=True)
class Batch:
    """What arrived together: the good chunks, what was wrong with the one after them, and whether that was all."""

    chunks: list[tuple[bytes, WireChunk]]
    error: ProviderError | None
    ended: bool = False


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """A stream that has begun to answer: `first` holds at least one good chunk. Leave `context` when done with it."""

    first: Batch
    rest: AsyncIterator[Sequence[bytes]]
    context: AbstractAsyncContextManager[AsyncIterator[Sequence[bytes]]]


async def complete_once(provider: ChatProvider, call: ProviderCall, *, name: str) -> tuple[bytes, WireCompletion]:
    """A whole answer: its bytes for the client, and what they say. Raises ProviderError.

    Args:
        name: the provider's, for messages.
    """
    body = await provider.complete(call)
    try:
        return body, decode_completion(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProviderGarbageError(
            f"{name} answered 200 with something that is no chat completion.", provider=name, status=200
        ) from error


async def open_once(provider: ChatProvider, call: ProviderCall, *, name: str) -> OpenedStream:
    """Open a stream and wait for its first chunk; closed at once if none comes. Raises ProviderError."""
    context = provider.stream(call)
    rest = await context.__aenter__()
    try:
        first = decode_batch(await anext(rest, ()), name)
        if not first.chunks:
            empty = ProviderGarbageError(f"{name} answered with an empty stream.", provider=name, status=200)
            raise first.error or empty
    except BaseException as error:
        await context.__aexit__(type(error), error, error.__traceback__)
        raise
    return OpenedStream(first, rest, context)


def decode_batch(payloads: Sequence[bytes], provider: str) -> Batch:
    """What the payloads say, up to the first one that is no chunk or reports an error."""
    decoded: list[tuple[bytes, WireChunk]] = []
    for payload in payloads:
        if payload is DONE:
            return Batch(decoded, None, ended=True)
        try:
            chunk = decode_chunk(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Batch(decoded, ProviderCutError(f"{provider} sent a malformed chunk.", provider=provider))
        if chunk.error is not None:
            # Its words stay here: nothing has taken our key out of them.
            error = ProviderOverloadedError(f"{provider} reported an error in its stream.", provider=provider)
            return Batch(decoded, error)
        decoded.append((payload, chunk))
    return Batch(decoded, None)


def frame(chunks: list[tuple[bytes, WireChunk]], answer: StreamedAnswer, wants_usage: bool) -> bytes:
    """Follow the chunks and put those that the client should see into SSE framing."""
    out: list[bytes] = []
    for payload, chunk in chunks:
        answer.add(chunk)
        if chunk.usage is not None and not chunk.choices and not wants_usage:
            continue
        # A payload may have come on several lines; a line break in JSON is a space, in SSE it is the end of the field.
        out += (b"data: ", payload.replace(b"\n", b" ") if b"\n" in payload else payload, b"\n\n")
    return b"".join(out)

"""One call to one provider, looked at closely enough to tell an answer from anything else."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from rs_gateway.domain.answers import StreamedAnswer, WireCompletion, decode_chunk, decode_completion
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.chunk_repair import repaired
from rs_gateway.domain.errors import ProviderCutError, ProviderError, ProviderGarbageError, ProviderOverloadedError
from rs_gateway.domain.ports import DONE, ChatProvider


class Batch(NamedTuple):
    """What arrived together.

    Attributes:
        block: the good chunks in SSE framing, for the client; may be empty.
        error: what was wrong with the chunk after them.
        ended: the provider said that this was all.
        says_something: whether there was a good chunk, if only one that is not for the client.
    """

    block: bytes
    error: ProviderError | None = None
    ended: bool = False
    says_something: bool = True


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """A stream that has begun to answer. Leave `context` when done with it.

    Attributes:
        first: its first batch; it says something.
        answer: what the stream has said so far; `next_batch` adds to it.
    """

    first: Batch
    answer: StreamedAnswer
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


async def open_once(provider: ChatProvider, call: ProviderCall, *, name: str, wants_usage: bool) -> OpenedStream:
    """Open a stream and wait for its first chunk; closed at once if none comes. Raises ProviderError."""
    context = provider.stream(call)
    rest = await context.__aenter__()
    answer = StreamedAnswer()
    try:
        first = read_batch(await anext(rest, ()), answer, wants_usage=wants_usage, provider=name)
        if not first.says_something:
            empty = ProviderGarbageError(f"{name} answered with an empty stream.", provider=name, status=200)
            raise first.error or empty
    except BaseException as error:
        await context.__aexit__(type(error), error, error.__traceback__)
        raise
    return OpenedStream(first, answer, rest, context)


def read_batch(payloads: Sequence[bytes], answer: StreamedAnswer, *, wants_usage: bool, provider: str) -> Batch:
    """Follow the chunks up to the first one that is none or reports an error, and frame those that the client sees."""
    if len(payloads) == 1 and (payload := payloads[0]) is not DONE and b"\n" not in payload:
        # One more piece of text, as nearly all batches are.
        try:
            if answer.add_text(decode_chunk(payload), payload):
                return Batch(b"data: %b\n\n" % payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # below it gets its error
    out: list[bytes] = []
    error: ProviderError | None = None
    says_something = ended = False
    for payload in payloads:
        if payload is DONE:
            ended = True
            break
        try:
            chunk = decode_chunk(payload)
            if not answer.add_text(chunk, payload) and chunk.error is None:
                if not answer.is_regular(chunk, payload):
                    payload = repaired(payload, answer)  # noqa: PLW2901  # it is this payload that goes out
                    chunk = decode_chunk(payload)
                answer.add(chunk)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            error = ProviderCutError(f"{provider} sent a malformed chunk.", provider=provider)
            break
        if chunk.error is not None:
            # Its words stay here: nothing has taken our key out of them.
            error = ProviderOverloadedError(f"{provider} reported an error in its stream.", provider=provider)
            break
        says_something = True
        if chunk.usage is not None and not chunk.choices and not wants_usage:
            continue
        # A payload may have come on several lines; a line break in JSON is a space, in SSE it is the end of the field.
        out.append(payload.replace(b"\n", b" ") if b"\n" in payload else payload)
    if not out:
        block = b""
    elif len(out) == 1:
        block = b"data: %b\n\n" % out[0]
    else:
        block = b"data: %b\n\n" % b"\n\ndata: ".join(out)
    return Batch(block, error, ended, says_something)

"""One event stream of one provider, looked at closely enough to tell an answer from anything else."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from rs_gateway.domain.endpoint_answers import Follower, follower_of
from rs_gateway.domain.endpoints import EndpointCall, EndpointProvider, Event
from rs_gateway.domain.errors import ProviderCutError, ProviderError, ProviderGarbageError, ProviderOverloadedError


class Read(NamedTuple):
    """What arrived together.

    Attributes:
        block: the good events, as they came; error: what was wrong with the one after them.
        ended: the protocol's own end was among them.
    """

    block: bytes
    n_events: int
    error: ProviderError | None
    ended: bool


@dataclass(frozen=True, slots=True)
class OpenedEvents:
    """A stream that has begun to answer: `first` holds at least one good event."""

    first: Read
    rest: AsyncIterator[Sequence[Event]]
    follower: Follower


class ReportedError(ProviderOverloadedError):
    """The provider reported an error within its stream.

    Attributes:
        upstream_type: the type that it gave it.
    """

    def __init__(self, message: str, *, provider: str, upstream_type: str | None) -> None:
        super().__init__(message, provider=provider)
        self.upstream_type = upstream_type


async def open_events(
    stack: AsyncExitStack, provider: EndpointProvider, call: EndpointCall, *, name: str
) -> OpenedEvents:
    """Open a stream and wait for its first event; closed by `stack`, or at once if it does not begin to answer."""
    attempt, follower = AsyncExitStack(), follower_of(call.request)
    try:
        rest = await attempt.enter_async_context(provider.stream(call))
        comments = b""
        async for events in rest:
            first = read(events, follower, name)
            if first.error is not None:
                raise first.error  # nothing has gone out yet: another try may do better
            if first.n_events:
                break
            comments += first.block
        else:
            raise ProviderGarbageError(f"{name} answered with an empty stream.", provider=name, status=200)
    except BaseException as error:
        await attempt.__aexit__(type(error), error, error.__traceback__)
        raise
    stack.push_async_exit(attempt)
    return OpenedEvents(first._replace(block=comments + first.block), rest, follower)


def read(events: Sequence[Event], follower: Follower, provider: str) -> Read:
    """Follow the events up to the end of the answer, or to the first one that is none or reports an error."""
    good: list[bytes] = []
    n_events = 0
    for raw, data in events:
        if data:
            try:
                progress = follower.add(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                error: ProviderError = ProviderCutError(f"{provider} sent a malformed event.", provider=provider)
                return Read(b"".join(good), n_events, error, ended=False)
            if progress == "failed":
                # Its words stay here: they may speak of what is between us and the provider.
                words = f"{provider} reported an error in its stream."
                error = ReportedError(words, provider=provider, upstream_type=follower.error_type)
                return Read(b"".join(good), n_events, error, ended=False)
            n_events += 1
            if progress == "ended":
                good.append(raw)
                return Read(b"".join(good), n_events, None, ended=True)
        good.append(raw)
    return Read(b"".join(good), n_events, None, ended=False)

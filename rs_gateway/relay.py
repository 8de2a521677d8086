"""A stream on its way from a provider to a client: chunk by chunk, as fast as both want it."""

from collections.abc import AsyncIterator, Callable, Sequence

from rs_gateway.calls import OpenedStream, read_batch
from rs_gateway.domain.errors import ProviderCutError, ProviderError
from rs_gateway.domain.ports import PushedBatches
from rs_gateway.journey import Journey
from rs_gateway.patience import Patience
from rs_gateway.reader import Reader


class Relay:
    """Carries one opened stream.

    Args:
        wants_usage: whether the client asked for the chunk with the counts.
        provider: its name, for messages.

    Attributes:
        unsent: SSE bytes that came together with the end, or with what broke the stream off: one write less.
    """

    __slots__ = ("_ended", "_fault", "_has_room", "_opened", "_provider", "_reader", "_wants_usage", "unsent")

    def __init__(self, opened: OpenedStream, reader: Reader, *, wants_usage: bool, provider: str) -> None:
        self._opened, self._reader = opened, reader
        self._wants_usage, self._provider = wants_usage, provider
        self._has_room = True
        self._fault: ProviderError | None = None
        self._ended = False
        self.unsent = b""

    async def run(self, journey: Journey, patience: Patience) -> None:
        """Carry all of it but `unsent` and the end marker. Raises ProviderError when it broke off."""
        first, rest, reader = self._opened.first, self._opened.rest, self._reader
        self._fault, self._ended = first.error, first.ended
        self._has_room = reader.begin(journey, first.block)
        while True:
            if not self._has_room:
                patience.on_client()
                await reader.room()
                patience.on_provider()
                self._has_room = True
            if self._fault is not None:
                raise self._fault
            if self._ended or not await _handed(rest, self._take):
                break
        if not self._opened.answer.whole:
            raise ProviderCutError(f"{self._provider} ended a stream without a finish_reason.", provider=self._provider)

    def _take(self, payloads: Sequence[bytes]) -> bool:
        """Whether there is room for more."""
        block, self._fault, self._ended, _ = read_batch(
            payloads, self._opened.answer, wants_usage=self._wants_usage, provider=self._provider
        )
        if self._ended or self._fault is not None:
            self.unsent = block
            return False
        if block:
            self._has_room = self._reader.write(block)
        return self._has_room


async def _handed(rest: AsyncIterator[Sequence[bytes]], take: Callable[[Sequence[bytes]], bool]) -> bool:
    """Hand all batches to `take` until it returns False. Returns False when they are at their end."""
    if isinstance(rest, PushedBatches):
        return await rest.pushed(take)
    async for payloads in rest:
        if not take(payloads):
            return True
    return False

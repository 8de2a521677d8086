"""The client's end of a stream, and one that holds the stream back until its answer can be read."""

from typing import Protocol

from rs_gateway.domain.delivery import delivered_stream
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.journey import Journey

_EVENT = b"data: "
_EVENT_END = b"\n\n"
_DONE = b"data: [DONE]\n\n"


class Reader(Protocol):
    """The client's end of a stream."""

    def begin(self, journey: Journey, block: bytes) -> bool:
        """The answer has begun: headers may go out, and its first SSE bytes, if any. Returns as `write`."""
        ...

    def write(self, block: bytes) -> bool:
        """Send SSE bytes. False: `room` has to be waited for before anything else is sent."""
        ...

    async def room(self) -> None:
        """Wait until there is room for more."""
        ...

    async def end(self, block: bytes) -> None:
        """Send the last bytes of the answer."""
        ...

    async def fail(self, block: bytes) -> None:
        """Send the last bytes of an answer that broke off, and close the connection."""
        ...


class HeldReader:
    """Sends the headers at once and the stream when it is whole, with the bare answers in it.

    An answer that cannot be parsed, and what came of a stream that broke off, goes out as it came.

    Attributes:
        parsed: whether every answer could be parsed; None as long as there is none, or nothing to parse.
        sent_after_s: from the start to the first bytes of the answer, in seconds; None as long as nothing was sent.
    """

    def __init__(self, reader: Reader, output: OutputFormat) -> None:
        self._reader, self._output = reader, output
        self._held: list[bytes] = []
        self._journey: Journey | None = None
        self.parsed: bool | None = None
        self.sent_after_s: float | None = None

    def begin(self, journey: Journey, block: bytes) -> bool:
        """See Reader."""
        self._journey = journey
        self._held.append(block)
        return self._reader.begin(journey, b"")

    def write(self, block: bytes) -> bool:
        """See Reader."""
        self._held.append(block)
        return True

    async def room(self) -> None:
        """See Reader."""
        await self._reader.room()

    async def end(self, block: bytes) -> None:
        """See Reader."""
        events = (b"".join(self._held) + block).removesuffix(_DONE)
        chunks = [event.removeprefix(_EVENT) for event in events.split(_EVENT_END) if event]
        delivered, self.parsed = delivered_stream(chunks, self._output)
        self._sends()
        await self._reader.end(b"".join(_EVENT + chunk + _EVENT_END for chunk in delivered) + _DONE)

    async def fail(self, block: bytes) -> None:
        """See Reader."""
        self._sends()
        await self._reader.fail(b"".join(self._held) + block)

    def _sends(self) -> None:
        assert self._journey is not None
        self.sent_after_s = self._journey.elapsed_s

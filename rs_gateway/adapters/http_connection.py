"""One HTTP/1.1 connection to a provider: a request goes out, an answer comes in, whole or piece by piece."""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import httptools

_WRITE_BYTES = 2**18
_UNREAD_BYTES = 2**18
"""What a stream may have waiting before the connection is no longer read; TCP then slows the provider down."""
_MAX_BODILESS_BYTES = 2**18
"""Of a head, or of chunk borders and trailers without any body between them."""
_MAX_WHOLE_BYTES = 2**28
"""Of an answer that is read as a whole, and so has to be held."""
_MAX_UNPACKED_BYTES = 2**25
"""That one read may unpack to: a read has 256 KiB at most, and text does not shrink to less than a hundredth."""

_GZIP_OR_ZLIB = 47
"""The window size that has zlib find out which of the two it is."""
_GZIP_BEGINS = 0x1F


class BrokenAnswerError(OSError):
    """What came is no HTTP, is packed in a way that we cannot unpack, or ended before its end."""


class _Parser(Protocol):
    def feed_data(self, data: bytes) -> None: ...
    def get_status_code(self) -> int: ...
    def should_keep_alive(self) -> bool: ...


class HttpConnection(asyncio.Protocol):
    """One request at a time, one reader at a time. Whoever asked reads the answer, then gives it back to its pool.

    Attributes:
        status: of the answer; 0 until its head has come.
        heard_at_s: when the provider last sent something, or the reader last began to wait; the event loop's clock.
        idle_since_s: when it last ended an exchange.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._wants_whole = False
        self._take: Callable[[bytes], bool] | None = None
        self._stopped = False
        self._read_paused = False
        self.heard_at_s = self.idle_since_s = 0.0
        self._begin_answer()
        self._complete = True  # nothing has been asked yet

    # What the pool does with it.

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the last answer came to its end, and nothing came after it."""
        transport = self._transport
        return (
            self._complete
            and self._keeps_alive
            and self._error is None
            and transport is not None
            and not transport.is_closing()
        )

    @property
    def went_stale(self) -> bool:
        """Whether a kept connection ended before it said anything: most likely it was given up while nobody used it."""
        return (
            self.idle_since_s > 0
            and not self.status
            and not self._bodiless_bytes
            and self._error is not None
            and not isinstance(self._error, TimeoutError)
        )

    def send(self, head: bytes, body: bytes) -> None:
        """Begin an exchange. A body of more than 256 KiB has to be sent with `send_large`."""
        assert self._transport is not None
        self._begin_answer()
        self._transport.write(head + body)

    async def send_large(self, head: bytes, body: bytes) -> None:
        """As `send`, in pieces, so that nobody else waits for it. Stops when the provider has begun to answer."""
        assert self._transport is not None
        self._begin_answer()
        self._transport.write(head)
        for begin in range(0, len(body), _WRITE_BYTES):
            if self.status or self._error is not None:
                self._keeps_alive = False  # the rest of the body is not going to follow
                return
            self._transport.write(body[begin : begin + _WRITE_BYTES])
            if self._room is not None:
                await self._room
            else:
                await asyncio.sleep(0)

    def when_over(self, callback: Callable[[], None]) -> None:
        """Have `callback` called as soon as the answer under way has come to its end, or cannot any more."""
        self._when_over = callback

    def abort(self) -> None:
        """Drop the connection, with whatever was still to come."""
        if self._transport is not None:
            self._transport.abort()

    # What the reader of an answer does with it.

    async def head(self) -> int:
        """The status, as soon as it is known. Raises OSError."""
        while not self.status:
            await self._wait()
        return self.status

    async def whole(self, *, unless_refused: bool = False) -> bytes:
        """The whole body. Raises OSError.

        Args:
            unless_refused: return nothing, and read no further, when the status turns out to be another one than 200.
        """
        self._wants_whole = True
        try:
            while not self._complete:
                if unless_refused and self.status not in (0, 200):
                    break
                await self._wait()
        finally:
            self._wants_whole = False
        return b"" if unless_refused and self.status != 200 else self._taken()

    def give_up(self, error: Exception) -> None:
        """Have whoever waits for the provider get `error`; the connection is of no use afterwards."""
        self._fail(error)

    async def piece(self) -> bytes:
        """What comes next of the body; empty at its end. Raises OSError."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        return self._taken()

    async def pushed(self, take: Callable[[bytes], bool]) -> bool:
        """Hand what comes of the body to `take`, from within the event loop: nobody has to be woken for each piece.

        Returns:
            True: `take` returned False, and is not called again; more may be waiting. False: the body is over.

        Raises:
            OSError, and what `take` raises.
        """
        while True:
            if self._pieces and not take(self._taken()):
                return True
            if self._complete:
                return False
            self._take, self._stopped = take, False
            try:
                await self._wait()
            finally:
                self._take = None
            if self._stopped:
                return True

    @property
    def complete(self) -> bool:
        """Whether the answer has come to its end, read or not."""
        return self._complete

    @property
    def waits(self) -> bool:
        """Whether a reader waits for the provider."""
        return self._waiter is not None

    def header(self, name: bytes) -> str | None:
        """A header of the answer, its name in lower case; the first one where there are several."""
        for found, value in self._headers:
            if found.lower() == name:
                return value.decode("latin-1")
        return None

    # What the event loop does with it.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._complete:  # nobody asked: what follows cannot be trusted either
            self._fail(BrokenAnswerError("something came after the answer"))
            self.abort()
            return
        self.heard_at_s = self._loop.time()
        self._bodiless_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._bodiless_bytes > _MAX_BODILESS_BYTES and not self._complete:
                raise httptools.HttpParserError("a head or trailer without end")
            if self._wants_whole and self._n_unread > _MAX_WHOLE_BYTES:
                raise httptools.HttpParserError("a body without end")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, zlib.error) as error:
            self._fail(BrokenAnswerError(f"the answer is no HTTP: {error}"))
            self.abort()
            return
        if self._room is not None and self.status:
            self.resume_writing()  # an answer has begun: whoever is still sending need not go on
        if self._take is not None:
            self._push(self._take)
        elif self._waiter is not None and (
            self._complete or (self.status and (not self._wants_whole or self.status != 200))
        ):
            self._wake()
        elif self._when_over is not None and self._complete:
            self._tell_over()
        elif self._n_unread > _UNREAD_BYTES and not self._wants_whole and not self._read_paused and not self._complete:
            assert self._transport is not None
            self._read_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.status and self._ends_with_connection and not self._complete and exc is None:
            try:
                self._end_body()
            except zlib.error as error:
                exc = BrokenAnswerError(f"the answer is no HTTP: {error}")
        self._fail(exc or ConnectionResetError("the connection was closed"))

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # What the parser tells.

    def on_message_begin(self) -> None:
        """An answer begins, or something that nobody asked for."""
        if self._complete:
            raise BrokenAnswerError("something came after the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line of the answer."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            return  # an interim answer; the real one follows
        if status < 100:
            raise BrokenAnswerError(f"{status} is no status")
        self.status = status
        packed = None
        framed = False
        for name, value in self._headers:
            if len(name) in (14, 16, 17):
                lower = name.lower()
                if lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
                    framed = True
                elif lower == b"content-encoding":
                    packed = value.strip().lower()
        self._ends_with_connection = not framed and status not in (204, 304)
        if packed and packed != b"identity":
            if packed not in (b"gzip", b"x-gzip", b"deflate"):
                raise zlib.error(f"content-encoding {packed[:40]!r}")
            self._unpacker = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._bodiless_bytes = 0
        if self._unpacker is not None:
            data = self._unpacked(data)
            if not data:
                return
        self._pieces.append(data)
        self._n_unread += len(data)

    def on_message_complete(self) -> None:
        """The answer has come to its end."""
        if not self.status:
            self._headers.clear()  # of the interim answer
        elif not self._ends_with_connection:
            self._keeps_alive = self._keeps_alive and self._parser.should_keep_alive()
            self._end_body()

    def _begin_answer(self) -> None:
        self.status = 0
        self._when_over: Callable[[], None] | None = None
        self._parser: _Parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._n_unread = self._bodiless_bytes = 0
        self._unpacker: Any = None
        self._complete = self._ends_with_connection = False
        self._keeps_alive = True

    def _unpacked(self, data: bytes) -> bytes:
        unpacked: list[bytes] = []
        room = _MAX_UNPACKED_BYTES
        while data:
            if self._unpacker.eof:
                if data[0] != _GZIP_BEGINS:
                    break  # padding
                self._unpacker = zlib.decompressobj(
                    wbits=_GZIP_OR_ZLIB
                )  # RFC 1952, section 2.2: members follow members
            unpacked.append(self._unpacker.decompress(data, room))
            room -= len(unpacked[-1])
            if self._unpacker.unconsumed_tail or room <= 0:
                raise zlib.error("it unpacks to far too much")
            data = self._unpacker.unused_data
        return b"".join(unpacked)

    def _end_body(self) -> None:
        if self._unpacker is not None and not self._unpacker.eof:
            self._keeps_alive = False
            raise zlib.error("the packed body is cut short")
        if self._ends_with_connection:
            self._keeps_alive = False
        self._complete = True
        if self._read_paused and self._transport is not None:  # kept connections have to be heard
            self._read_paused = False
            self._transport.resume_reading()

    def _taken(self) -> bytes:
        pieces = self._pieces
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._n_unread = 0
        return taken

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self.heard_at_s = self._loop.time()
        if self._read_paused and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _push(self, take: Callable[[bytes], bool]) -> None:
        waiter = self._waiter
        try:
            self._stopped = bool(self._pieces) and not take(self._taken())
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to who waits
            self._take = None
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
            return
        if self._stopped or self._complete:
            self._take = None
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()
        self.resume_writing()
        self._tell_over()

    def _tell_over(self) -> None:
        callback, self._when_over = self._when_over, None
        if callback is not None:
            callback()


def lines_of(headers: Iterator[tuple[str, str]]) -> bytes:
    """Header lines as they go out.

    Raises:
        ValueError: a name or value holds a line break or a character that no header can.
    """
    lines: list[bytes] = []
    for name, value in headers:
        line = f"{name}: {value}".encode("latin-1")
        if b"\r" in line or b"\n" in line or b"\0" in line:
            raise ValueError(f"The header {name!r} holds a line break.")
        lines.append(line + b"\r\n")
    return b"".join(lines)

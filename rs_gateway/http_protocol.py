"""uvicorn's HTTP/1.1 protocol with limits that it lacks: on the head of a request, and on the time it takes to come."""

import asyncio
from typing import Any

import httptools
import msgspec
from ulid import ULID
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
PATIENCE_S = 30.0
"""How long a request may stand still before it is complete, or an answer before it is read."""

CONNECTION = "route_switch.connection"
"""ASGI extension: its `connection` has `answer`, `stream`, `abort` and `close_after_answer`."""

_STATUS = {400: b"400 Bad Request", 408: b"408 Request Timeout", 431: b"431 Request Header Fields Too Large"}
_CODE = {400: "invalid_request", 408: "request_timeout", 431: "headers_too_large"}


class LimitedHttpTools(HttpToolsProtocol):
    """Refuses a head of more than 64 KiB with 431, a request that stops coming for 30 s with 408, no HTTP with 400.

    All three in OpenAI's shape and with a request id; the connection is closed after them, and dropped when a client
    has read nothing of an answer for 30 s. A request that arrives in one piece, as nearly all do, costs no timer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._extensions: dict[str, dict[object, object]] = {CONNECTION: {"connection": self}}
        self._unread_bytes = 0
        self._unread_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._incomplete = False
        self._answered: RequestResponseCycle | None = None
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(PATIENCE_S, self._is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        answered = self._answered  # with requests waiting in line, `self.cycle` is the last one of those
        if answered is not None and not answered.response_complete:
            answered.disconnected = True
            answered.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._stop_timer()
        self._unset_keepalive_if_required()
        rest: bytes | memoryview = data
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    if self.parser.get_method() == b"CONNECT":
                        self._refuse(400, "This is no proxy.")
                        return
                    # Nobody has to accept an upgrade (RFC 9110, section 7.8): it is answered as if none was offered.
                    rest = memoryview(rest)[upgrade.args[0] :]
                    head = self._without_upgrade()
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    self.parser.feed_data(head)
        except httptools.HttpParserError:
            cycle = self.cycle
            if (self._in_head or not self._incomplete) and cycle and not cycle.response_complete:
                cycle.keep_alive = False  # those before it are answered; nobody reads on after them
                self.flow.pause_reading()
            else:
                self.send_400_response("Invalid HTTP request received.")
            return
        # What came with the end of one head or body is not counted towards the next head: at most one read of it.
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"The request line and headers exceed {MAX_HEAD_BYTES:,} bytes.")
        elif self._incomplete and not self.transport.is_closing():
            self._timer = self.loop.call_later(PATIENCE_S, self._is_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._in_head = self._incomplete = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def _without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() in (b"close", b"keep-alive")]
                lines += [b"connection: " + b",".join(kept)] if kept else []
            elif name not in (b"upgrade", b"http2-settings"):
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._incomplete = self._in_head = False
        super().on_message_complete()

    def answer(self, head: bytes, body: bytes) -> bool:
        """Send a whole answer with one write; False when that cannot be, and the application has to send it itself.

        Args:
            head: status line and header lines, `content-length` among them, each with its line end.
        """
        cycle = self.cycle
        # With requests waiting in line, the newest cycle is not the one that is being answered.
        if self.pipeline or cycle.response_started or cycle.disconnected or self.flow.write_paused:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        if cycle.keep_alive:
            self.transport.write(b"%b\r\n%b" % (head, body))
        else:
            self.transport.write(b"%bconnection: close\r\n\r\n%b" % (head, body))
            self.transport.close()
        cycle.message_event.set()
        cycle.on_response()
        return True

    def stream(self) -> "DirectStream | None":
        """A way past ASGI for the answer that is to begin now; None where the application has to send it itself."""
        cycle = self.cycle
        # With requests waiting in line, the newest cycle is not the one that is being answered.
        return None if self.pipeline or cycle.response_started else DirectStream(cycle, self.flow)

    def abort(self) -> None:
        """Drop the connection at once, with what the client has not read of it."""
        self.transport.abort()

    def close_after_answer(self) -> None:
        """Close the connection when the answer that is under way has been sent."""
        if self.cycle and not self.pipeline:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(PATIENCE_S, self._is_unread)

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def _is_unread(self) -> None:
        """Closing would wait for a client that reads nothing; an answer that moves on, however slowly, may go on."""
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes >= self._unread_bytes:
            self.transport.abort()
        else:
            self._unread_bytes = unread_bytes
            self._unread_timer = self.loop.call_later(PATIENCE_S, self._is_unread)

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _is_late(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # it is we who do not read on
            self._timer = self.loop.call_later(PATIENCE_S, self._is_late)
        elif self._incomplete:
            self._refuse(408, f"No more of the request arrived within {PATIENCE_S:.0f} s.")
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, message: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # an answer is on its way: nothing can be said between its bytes
            return
        error: dict[str, Any] = {
            "message": message,
            "type": "invalid_request_error",
            "param": None,
            "code": _CODE[status],
        }
        body = msgspec.json.encode({"error": error})
        head = (
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head % (_STATUS[status], len(body), str(ULID()).encode()) + body)
        self.transport.close()


class DirectStream:
    """One streamed answer, written chunk by chunk without a message and a coroutine for each."""

    __slots__ = ("_cycle", "_flow")

    def __init__(self, cycle: RequestResponseCycle, flow: FlowControl) -> None:
        self._cycle, self._flow = cycle, flow

    def begin(self, head: bytes, block: bytes) -> bool:
        """Send status line and header lines (each with its line end), and a first block. Returns as `write`."""
        cycle = self._cycle
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.chunked_encoding = True
        cycle.waiting_for_100_continue = False
        last_line = b"" if cycle.keep_alive else b"connection: close\r\n"
        if cycle.scope["http_version"] == "1.0":  # knows no chunks; the end of the connection is the end
            cycle.chunked_encoding = False
            cycle.transport.write(b"%b%b\r\n%b" % (head, last_line, block))
            return not self._flow.write_paused
        first = b"%x\r\n%b\r\n" % (len(block), block) if block else b""
        cycle.transport.write(b"%btransfer-encoding: chunked\r\n%b\r\n%b" % (head, last_line, first))
        return not self._flow.write_paused

    def write(self, block: bytes) -> bool:
        """Send a block that is not empty. False: there is no room for more; wait for `room`."""
        if not self._cycle.disconnected:
            self._cycle.transport.write(
                b"%x\r\n%b\r\n" % (len(block), block) if self._cycle.chunked_encoding else block
            )
        return not self._flow.write_paused

    async def room(self) -> None:
        """Wait until more can be written."""
        if not self._cycle.disconnected:
            await self._flow.drain()

    def end(self, block: bytes) -> None:
        """Send the last block, which is not empty; the connection stays open when both sides want it."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        cycle.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(block), block) if cycle.chunked_encoding else block)
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def fail(self, block: bytes) -> None:
        """Send the last block of an answer that broke off, and close the connection."""
        self._cycle.keep_alive = False
        self.end(block)

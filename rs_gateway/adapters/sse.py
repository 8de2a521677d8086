"""Server-sent events: network bytes in, `data:` payloads out, whatever the chunk borders."""

import codecs

from rs_gateway.domain.ports import DONE

_MAX_EVENT_BYTES = 32 * 1024 * 1024


class SseDecoder:
    """Takes bytes as they arrive; one instance a stream.

    Understands LF and CRLF line ends, a byte order mark, comments, `id:`, `event:` and `retry:` fields, and data split
    over several lines (WHATWG HTML, section 9.2.6).

    Attributes:
        done: the stream's own end marker has come.
        malformed: a line came that is no field. Who sends one does not speak the protocol, and half an answer must not
            pass for a whole one: nothing after it counts.
    """

    def __init__(self) -> None:
        self._begun = False
        self._is_between_events = False
        self._buffer = b""
        self._data: list[bytes] = []
        self.done = False
        self.malformed = False

    def feed(self, received: bytes) -> list[bytes]:
        """Payloads completed by `received`, in order; the last of all is DONE, and none comes after `malformed`."""
        if self._is_between_events and received[:6] == b"data: " and received.find(b"\n") == len(received) - 2:
            # One event of one line, as nearly all reads of a stream are.
            payload = received[6:-2]
            if received.endswith(b"\n") and payload != DONE and b"\r" not in payload and not payload.isspace():
                return [payload] if payload else []
        payloads: list[bytes] = []
        if not self._begun:
            self._begun, received = True, received.removeprefix(codecs.BOM_UTF8)
        if not self._buffer and not self._data and not self.done and not self.malformed:
            received = self._feed_whole_events(received, payloads)
            if not received:
                self._is_between_events = not self.done
                return payloads
        lines = (self._buffer + received).split(b"\n")
        self._buffer = lines.pop()
        for raw in lines:
            if self.done or self.malformed:
                break
            line = raw[:-1] if raw.endswith(b"\r") else raw
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line:
                self._dispatch(payloads)
            elif not line.startswith((b":", b"event:", b"id:", b"retry:")):
                self.malformed = True
        self.malformed = self.malformed or len(self._buffer) > _MAX_EVENT_BYTES
        self._is_between_events = not (self._buffer or self._data or self.done or self.malformed)
        return payloads

    def end(self) -> list[bytes]:
        """What the end of the connection completes: an end marker without the empty line that belongs after it.

        Half an event is dropped, as the standard says.
        """
        line = self._buffer.removesuffix(b"\r")
        data = [*self._data, line.removeprefix(b"data:")] if line.startswith(b"data:") else self._data
        if not self.done and not self.malformed and len(data) == 1 and data[0].strip() == DONE:
            self.done = True
            return [DONE]
        return []

    def _feed_whole_events(self, received: bytes, payloads: list[bytes]) -> bytes:
        """Take the events that are one `data: ` line each, as nearly all are. Returns what begins with another kind."""
        if not received.endswith(b"\n\n"):
            return received
        position = 0
        for event in received[:-2].split(b"\n\n"):
            if not event.startswith(b"data: ") or b"\n" in event or b"\r" in event:
                return received[position:]
            position += len(event) + 2
            payload = event[6:]
            if payload == DONE:
                self.done = True
                payloads.append(DONE)
                return b""
            if payload and not payload.isspace():
                payloads.append(payload)
        return b""

    def _dispatch(self, payloads: list[bytes]) -> None:
        if not self._data:
            return
        payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        if payload.strip() == DONE:
            self.done = True
            payloads.append(DONE)
        elif payload.strip():
            payloads.append(payload)

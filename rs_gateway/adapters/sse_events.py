"""Server-sent events that are passed on as they came: network bytes in, whole events out."""

import codecs
import re

from rs_gateway.domain.endpoints import Event

_MAX_EVENT_BYTES = 32 * 1024 * 1024
_CRLF_END = re.compile(rb"(?<=\n)\r\n")
_FIELDS = (b"event:", b"data:", b":", b"id:", b"retry:")


class SseEvents:
    """Takes bytes as they arrive; one instance a stream. Half an event never gets out.

    Attributes:
        malformed: a line came that is no field. Nothing after it counts.
    """

    def __init__(self) -> None:
        self._begun = False
        self._buffer = b""
        self.malformed = False

    def feed(self, received: bytes) -> list[Event]:
        """Events completed by `received`, in order."""
        if not self._begun:
            self._begun, received = True, received.removeprefix(codecs.BOM_UTF8)
        parts = _split(self._buffer + received)
        self._buffer = parts.pop()
        events: list[Event] = []
        for raw in parts:
            data = self._data_of(raw)
            if self.malformed:
                break
            events.append(Event(raw, data))
        self.malformed = self.malformed or len(self._buffer) > _MAX_EVENT_BYTES
        return events

    def _data_of(self, raw: bytes) -> bytes:
        # Nearly all events are a name and one line of data.
        name, found, rest = raw.partition(b"\ndata: ")
        if found and name.startswith(b"event:") and rest.find(b"\n") == len(rest) - 2 and b"\n" not in name:
            return rest[:-2]
        data: list[bytes] = []
        for ended in raw.split(b"\n"):
            line = ended[:-1] if ended.endswith(b"\r") else ended
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line and not line.startswith(_FIELDS):
                self.malformed = True
        return data[0] if len(data) == 1 else b"\n".join(data)


def _split(received: bytes) -> list[bytes]:
    """Whole events, each with its empty line, and what comes after the last one."""
    if b"\r" not in received:
        if received.endswith(b"\n\n") and received.find(b"\n\n") == len(received) - 2:
            return [received, b""]
        parts = received.split(b"\n\n")
        return [*(part + b"\n\n" for part in parts[:-1]), parts[-1]]
    parts: list[bytes] = []
    begin = 0
    for end in _CRLF_END.finditer(received):
        parts.append(received[begin : end.end()])
        begin = end.end()
    return [*parts, received[begin:]]

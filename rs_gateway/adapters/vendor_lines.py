"""The event stream of a vendor with a format of its own, watched on its way to whoever translates it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from rs_gateway.domain.chat import JsonValue
from rs_gateway.domain.errors import ProviderCutError, ProviderError, ProviderGarbageError, ProviderTimeoutError

_SKIPPED = (":", "event:", "id:", "retry:")
Ending = Callable[[bytes], bool]
"""Whether an event says why the answer ended. Raises msgspec.DecodeError for what is no event."""


class _Delta(msgspec.Struct):
    stop_reason: JsonValue = None


class _AnthropicEvent(msgspec.Struct):
    type: str
    delta: _Delta | None = None


class _Candidate(msgspec.Struct):
    finish_reason: JsonValue = msgspec.field(default=None, name="finishReason")


class _Feedback(msgspec.Struct):
    block_reason: JsonValue = msgspec.field(default=None, name="blockReason")


class _GeminiEvent(msgspec.Struct):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = msgspec.field(default=None, name="promptFeedback")


class _CohereEvent(msgspec.Struct):
    type: str


_anthropic_decoder = msgspec.json.Decoder(_AnthropicEvent)
_gemini_decoder = msgspec.json.Decoder(_GeminiEvent)
_cohere_decoder = msgspec.json.Decoder(_CohereEvent)


def _ends_anthropic(payload: bytes) -> bool:
    event = _anthropic_decoder.decode(payload)
    return event.type == "message_delta" and event.delta is not None and event.delta.stop_reason is not None


def _ends_gemini(payload: bytes) -> bool:
    event = _gemini_decoder.decode(payload)
    blocked = event.prompt_feedback is not None and event.prompt_feedback.block_reason is not None
    return blocked or any(c.finish_reason is not None for c in event.candidates or ())


def _ends_cohere(payload: bytes) -> bool:
    return _cohere_decoder.decode(payload).type == "message-end"


def _ends_unknown(payload: bytes) -> bool:
    """A format that we do not know: being JSON is all that can be asked of it."""
    msgspec.json.decode(payload, type=msgspec.Raw)
    return True


ENDINGS: dict[str, Ending] = {
    "anthropic": _ends_anthropic,
    "gemini": _ends_gemini,
    "cohere_chat": _ends_cohere,
}
"""How each vendor, by litellm's name, says that an answer is whole."""


class VendorLines:
    """Passes `data:` lines on, and nothing else. A stream that is not whole raises instead of just ending.

    Whoever iterates may wrap what is raised here in errors of its own; `failure` keeps ours.

    Args:
        lines: of the response body, without their line ends.
        name: the provider's, for messages. vendor: litellm's name of it.
        first_byte_by: loop time until which the first line must have come.
        idle_timeout_s: how long the next one may take. Every line counts, those that are skipped too.
    """

    def __init__(
        self, lines: AsyncIterator[str], *, name: str, vendor: str, first_byte_by: float, idle_timeout_s: float
    ) -> None:
        self.failure: ProviderError | None = None
        self._lines = lines
        self._name = name
        self._ends = ENDINGS.get(vendor, _ends_unknown)
        self._first_byte_by = first_byte_by
        self._idle_timeout_s = idle_timeout_s
        self._begun = False
        self._passed = False
        self._ended = False

    def __aiter__(self) -> "VendorLines":
        return self

    async def __anext__(self) -> str:
        """The next `data:` line, whole. Raises ProviderError."""
        while True:
            line = await self._next()
            if line is None:
                if not self._ended:
                    raise self._failed(self._broken(f"{self._name} ended a stream in the middle of an answer."))
                raise StopAsyncIteration
            if not line or line.startswith(_SKIPPED):
                continue
            payload = line[5:].strip().encode() if line.startswith("data:") else b""
            if payload == b"[DONE]":
                continue
            try:
                self._ended = self._ends(payload) or self._ended
            except msgspec.DecodeError:
                raise self._failed(self._broken(f"{self._name} sent a malformed event stream.")) from None
            self._passed = True
            return line

    async def aclose(self) -> None:
        """Let go of the response. Nothing to be done here: whoever opened it closes it."""

    async def _next(self) -> str | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._idle_timeout_s if self._begun else self._first_byte_by
        try:
            async with asyncio.timeout_at(deadline):
                line = await anext(self._lines, None)
        except TimeoutError as error:
            words = "fell silent in the middle of an answer" if self._begun else "did not answer in time"
            raise self._failed(ProviderTimeoutError(f"{self._name} {words}.", provider=self._name)) from error
        self._begun = True
        return line

    def _broken(self, message: str) -> ProviderError:
        """Before its first event it never was an answer; after that it is a cut one."""
        if self._passed:
            return ProviderCutError(message, provider=self._name)
        return ProviderGarbageError(
            f"{self._name} answered 200 with something that is no event stream.", provider=self._name, status=200
        )

    def _failed(self, error: ProviderError) -> ProviderError:
        self.failure = error
        return error

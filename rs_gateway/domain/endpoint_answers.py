"""Reading the answers of embeddings, Responses and Messages: whole ones, and streams event by event."""

from typing import ClassVar, Literal, Protocol, TypeAlias

import msgspec

from rs_gateway.domain.answers import token_count
from rs_gateway.domain.chat import JsonObject, JsonValue
from rs_gateway.domain.endpoints import EndpointAnswer, EndpointRequest, text_length
from rs_gateway.domain.traces import Outcome, Usage, UsageSource

_CHARACTERS_PER_TOKEN = 4
"""OpenAI's rule of thumb for English; only ever used for counts that are marked as estimated."""
_RESPONSE_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_MESSAGE_OUTCOMES = {
    "end_turn": Outcome.COMPLETE,
    "stop_sequence": Outcome.COMPLETE,
    "tool_use": Outcome.COMPLETE,
    "refusal": Outcome.CONTENT_FILTERED,
}

Progress: TypeAlias = Literal["goes on", "ended", "failed"]


_NOTHING = msgspec.Raw()


class _Embeddings(msgspec.Struct):
    data: list[msgspec.Raw]
    model: JsonValue = None
    usage: JsonValue = None


class _Response(msgspec.Struct):
    output: list[JsonObject]
    model: JsonValue = None
    status: JsonValue = None
    incomplete_details: JsonValue = None
    usage: JsonValue = None


class _Begun(msgspec.Struct):
    model: JsonValue = None


class _Message(msgspec.Struct):
    content: list[JsonObject]
    model: JsonValue = None
    stop_reason: JsonValue = None
    usage: JsonValue = None


class _ResponseEvent(msgspec.Struct):
    type: str
    response: msgspec.Raw = _NOTHING
    delta: JsonValue = None
    sequence_number: JsonValue = None


class _MessageEvent(msgspec.Struct):
    type: str
    message: JsonValue = None
    index: JsonValue = None
    content_block: JsonValue = None
    delta: JsonValue = None
    usage: JsonValue = None
    error: JsonValue = None


_embeddings = msgspec.json.Decoder(_Embeddings)
_response = msgspec.json.Decoder(_Response)
_begun = msgspec.json.Decoder(_Begun)
_message = msgspec.json.Decoder(_Message)
_response_event = msgspec.json.Decoder(_ResponseEvent)
_message_event = msgspec.json.Decoder(_MessageEvent)


def answer_of(request: EndpointRequest, body: bytes) -> EndpointAnswer:
    """What a whole answer says. Raises msgspec.DecodeError when `body` is no answer of this endpoint."""
    if request.endpoint == "embeddings":
        embeddings = _embeddings.decode(body)
        if not embeddings.data:
            raise msgspec.ValidationError("embeddings without data")
        tokens = token_count(_object(embeddings.usage).get("prompt_tokens"))
        usage = Usage(tokens, 0, UsageSource.PROVIDER) if tokens is not None else _estimate(request, 0)
        return EndpointAnswer(
            _text(embeddings.model), None, Outcome.COMPLETE, usage, {"n_embeddings": len(embeddings.data)}
        )
    if request.endpoint == "responses":
        return _answer_of_response(request, _response.decode(body))
    message = _message.decode(body)
    return _answer_of_message(
        request, message.content, _object(message.usage), _text(message.model), _text(message.stop_reason)
    )


class Follower(Protocol):
    """Follows a stream event by event."""

    def add(self, data: bytes) -> Progress:
        """Take in what one event says. `ended`: the protocol's own end; `failed`: the provider reports an error.

        Raises msgspec.DecodeError when it is no event of this protocol.
        """
        ...

    @property
    def error_type(self) -> str | None:
        """The type of the error that the provider reported."""
        ...

    @property
    def next_number(self) -> int:
        """The number that the next event would have, in protocols that count them."""
        ...

    def answer(self) -> EndpointAnswer:
        """What the answer says, as far as it came. Its outcome counts only after the end."""
        ...


def follower_of(request: EndpointRequest) -> Follower:
    """A follower for a stream of this request's endpoint."""
    return FollowedMessage(request) if request.endpoint == "messages" else FollowedResponse(request)


class FollowedResponse:
    """A stream of OpenAI's Responses: its last event carries the whole response."""

    error_type: str | None = None

    def __init__(self, request: EndpointRequest) -> None:
        self._request = request
        self._answer: EndpointAnswer | None = None
        self._model: str | None = None
        self._texts: list[str] = []
        self._n_characters = 0
        self.next_number = 0

    def add(self, data: bytes) -> Progress:
        event = _response_event.decode(data)
        if isinstance(event.sequence_number, int):
            self.next_number = event.sequence_number + 1
        if event.type == "error":
            return "failed"
        if isinstance(event.delta, str):
            self._n_characters += len(event.delta)
            if event.type == "response.output_text.delta":
                self._texts.append(event.delta)
        elif event.type in _RESPONSE_ENDS:
            response = _response.decode(event.response)
            response.status = event.type.removeprefix("response.")
            self._answer = _answer_of_response(self._request, response)
            return "ended"
        elif event.response is not _NOTHING and self._model is None:
            self._model = _text(_begun.decode(event.response).model)
        return "goes on"

    def answer(self) -> EndpointAnswer:
        if self._answer is not None:
            return self._answer
        text = "".join(self._texts)
        part: JsonObject = {"type": "output_text", "text": text}
        said: JsonObject = {"type": "message", "role": "assistant", "content": [part]}
        return EndpointAnswer(
            self._model,
            None,
            Outcome.PROVIDER_CUT,
            _estimate(self._request, self._n_characters),
            {"output": [said] if text else []},
        )


class FollowedMessage:
    """A stream of Anthropic's Messages: usage at its start and end, content in blocks between."""

    next_number = 0
    _PIECES: ClassVar = {
        "text_delta": "text",
        "thinking_delta": "thinking",
        "input_json_delta": "partial_json",
        "signature_delta": "signature",
    }

    def __init__(self, request: EndpointRequest) -> None:
        self._request = request
        self._model: str | None = None
        self._stop_reason: str | None = None
        self._usage: JsonObject = {}
        self._blocks: dict[int, JsonObject] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self._n_characters = 0
        self._ended = False
        self.error_type: str | None = None

    def add(self, data: bytes) -> Progress:
        event = _message_event.decode(data)
        if event.type == "content_block_delta":
            self._add_piece(event.index, _object(event.delta))
        elif event.type == "content_block_start" and isinstance(event.index, int):
            self._blocks[event.index] = dict(_object(event.content_block))
        elif event.type == "message_start":
            message = _object(event.message)
            self._model = _text(message.get("model"))
            self._usage.update(_object(message.get("usage")))
        elif event.type == "message_delta":
            self._stop_reason = _text(_object(event.delta).get("stop_reason")) or self._stop_reason
            self._usage.update({k: v for k, v in _object(event.usage).items() if v is not None})
        elif event.type == "error":
            self.error_type = _text(_object(event.error).get("type"))
            return "failed"
        elif event.type == "message_stop":
            self._ended = True
            return "ended"
        return "goes on"

    def answer(self) -> EndpointAnswer:
        answer = _answer_of_message(self._request, self._content(), self._usage, self._model, self._stop_reason)
        if self._ended:
            return answer
        # The count at the start of a message is not yet that of its end.
        estimated = _estimate(self._request, self._n_characters)
        usage = Usage(
            answer.usage.input_tokens if answer.usage.source is UsageSource.PROVIDER else estimated.input_tokens,
            estimated.output_tokens,
            UsageSource.ESTIMATED,
            cached_input_tokens=answer.usage.cached_input_tokens,
            cache_write_tokens=answer.usage.cache_write_tokens,
        )
        return EndpointAnswer(answer.model, answer.finish_reason, Outcome.PROVIDER_CUT, usage, answer.response)

    def _add_piece(self, index: JsonValue, delta: JsonObject) -> None:
        name = self._PIECES.get(str(delta.get("type")))
        piece = delta.get(name) if name is not None else None
        if name is None or not isinstance(piece, str) or not isinstance(index, int):
            return
        if name != "signature":
            self._n_characters += len(piece)
        self._pieces.setdefault((index, name), []).append(piece)

    def _content(self) -> list[JsonObject]:
        content = {index: dict(block) for index, block in self._blocks.items()}
        for (index, name), pieces in self._pieces.items():
            block, text = content.setdefault(index, {}), "".join(pieces)
            if name == "partial_json":
                block["input"] = _json_or_text(text)
            else:
                block[name] = str(block.get(name) or "") + text
        return [content[index] for index in sorted(content)]


def _answer_of_response(request: EndpointRequest, response: _Response) -> EndpointAnswer:
    status = _text(response.status) or "completed"
    reason = _text(_object(response.incomplete_details).get("reason"))
    outcome = Outcome.COMPLETE
    if status == "incomplete":
        outcome = Outcome.CONTENT_FILTERED if reason == "content_filter" else Outcome.TRUNCATED
    elif status != "completed":
        outcome = Outcome.PROVIDER_ERROR
    counts = _object(response.usage)
    input_tokens, output_tokens = token_count(counts.get("input_tokens")), token_count(counts.get("output_tokens"))
    if not input_tokens or output_tokens is None:
        usage = _estimate(request, text_length(response.output))
    else:
        usage = Usage(
            input_tokens,
            output_tokens,
            UsageSource.PROVIDER,
            cached_input_tokens=token_count(_object(counts.get("input_tokens_details")).get("cached_tokens")),
            reasoning_tokens=token_count(_object(counts.get("output_tokens_details")).get("reasoning_tokens")),
        )
    return EndpointAnswer(_text(response.model), reason or status, outcome, usage, {"output": response.output})


def _answer_of_message(
    request: EndpointRequest,
    content: list[JsonObject],
    counts: JsonObject,
    model: str | None,
    stop_reason: str | None,
) -> EndpointAnswer:
    fresh, output_tokens = token_count(counts.get("input_tokens")), token_count(counts.get("output_tokens"))
    read, written = (
        token_count(counts.get("cache_read_input_tokens")),
        token_count(counts.get("cache_creation_input_tokens")),
    )
    if fresh is None or output_tokens is None or not fresh + (read or 0) + (written or 0):
        usage = _estimate(request, text_length(content))
    else:
        # Anthropic's input_tokens are only those that were neither read from its cache nor written to it.
        usage = Usage(
            fresh + (read or 0) + (written or 0),
            output_tokens,
            UsageSource.PROVIDER,
            cached_input_tokens=read,
            cache_write_tokens=written,
        )
    # max_tokens, model_context_window_exceeded, pause_turn, or nothing: there would have been more.
    outcome = _MESSAGE_OUTCOMES.get(stop_reason or "", Outcome.TRUNCATED)
    return EndpointAnswer(model, stop_reason, outcome, usage, {"role": "assistant", "content": content})


def _estimate(request: EndpointRequest, output_characters: int) -> Usage:
    return Usage(
        -(-request.input_characters // _CHARACTERS_PER_TOKEN),
        -(-output_characters // _CHARACTERS_PER_TOKEN),
        UsageSource.ESTIMATED,
    )


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _json_or_text(text: str) -> JsonValue:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text

"""Responses and Messages of providers that only speak chat: litellm translates, the chat adapter asks.

litellm's own calls are not used here: they make up the end of a stream that just stops, and keep other timeouts.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import anyio.to_thread
import msgspec

from rs_gateway.adapters.litellm_chat import load_litellm
from rs_gateway.domain.answers import StreamedAnswer, WireChunk, decode_chunk, decode_completion
from rs_gateway.domain.chat import JsonObject, JsonValue, ProviderCall
from rs_gateway.domain.endpoints import ENDPOINT_PATHS, Endpoint, EndpointCall, Event
from rs_gateway.domain.errors import (
    InvalidRequestError,
    ProviderCutError,
    ProviderGarbageError,
    ProviderOverloadedError,
    RouteSwitchError,
)
from rs_gateway.domain.ports import DONE, ChatProvider

_RESPONSES = "litellm.responses.litellm_completion_transformation"
_MESSAGES = "litellm.llms.anthropic.pass_through.adapters"
_FIELDS: Mapping[Endpoint, frozenset[str]] = {
    "responses": frozenset(
        {
            *("input", "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "stream"),
            *("temperature", "text", "tool_choice", "tools", "top_p", "user"),
        }
    ),
    "messages": frozenset(
        {
            *("messages", "system", "max_tokens", "metadata", "stop_sequences", "stream", "temperature", "thinking"),
            *("tool_choice", "tools", "top_k", "top_p"),
        }
    ),
}
"""What chat has words for."""
_DEFAULTS: Mapping[str, JsonValue] = {
    "store": False,
    "truncation": "disabled",
    "include": [],
    "service_tier": "auto",
    "background": False,
}
"""Fields that ask for nothing as long as they have this value."""
_TOOL_TYPES: Mapping[Endpoint, frozenset[str | None]] = {
    "responses": frozenset({"function"}),
    "messages": frozenset({None, "custom"}),
}
_NOT_PARAMETERS = frozenset({"model", "messages", "stream", "stream_options", "custom_llm_provider"})


class _Translators(NamedTuple):
    """litellm's pieces, loaded."""

    responses: Any
    responses_stream: Any
    messages: Any
    messages_stream: Any
    completion: Any
    chunk: Any


@dataclass(frozen=True, slots=True)
class _Translated:
    """A request in chat's words, and what is needed to translate its answer back."""

    call: ProviderCall
    fields: JsonObject
    tool_names: dict[str, str]


class TranslatedEndpoints:
    """EndpointProvider over a ChatProvider.

    Args:
        chat: whoever answers; stays the caller's to close.
        limit_field: how the provider's chat API calls the limit of an answer (`max_tokens`, at OpenAI itself
            `max_completion_tokens`).
    """

    def __init__(self, name: str, chat: ChatProvider, *, limit_field: str = "max_tokens") -> None:
        self._name, self._chat, self._limit_field = name, chat, limit_field
        self._translators: _Translators | None = None

    async def ask(self, call: EndpointCall) -> bytes:
        translators, translated = await self._translate(call)
        body = await self._chat.complete(translated.call)
        try:
            decode_completion(body)
            answer = self._back(call, translators, translated, body)
        except Exception as error:  # whatever litellm trips over, it is no answer
            raise self._garbage() from error
        return msgspec.json.encode(answer)

    @asynccontextmanager
    async def stream(self, call: EndpointCall) -> AsyncGenerator[AsyncIterator[Sequence[Event]]]:
        translators, translated = await self._translate(call)
        async with self._chat.stream(translated.call) as batches:
            chunks = _Chunks(batches, translators.chunk, provider=self._name)
            await chunks.begin()  # litellm writes its first events without looking
            if call.request.endpoint == "messages":
                events = translators.messages_stream(
                    completion_stream=chunks, model=call.model, tool_name_mapping=translated.tool_names
                )
            else:
                events = translators.responses_stream(
                    model=call.model,
                    litellm_custom_stream_wrapper=chunks,
                    request_input=translated.fields["input"],
                    responses_api_request=_asked(translated.fields),
                    custom_llm_provider="openai",
                    litellm_metadata={},
                )
            yield self._events(events)

    async def aclose(self) -> None:
        """Nothing of its own to close."""

    async def _events(self, events: AsyncIterator[Any]) -> AsyncIterator[Sequence[Event]]:
        number = 0
        try:
            async for event in events:
                if isinstance(event, dict):
                    fields = event
                else:
                    fields = {**event.model_dump(mode="json", exclude_none=True), "sequence_number": number}
                number += 1
                data = msgspec.json.encode(fields)
                yield [Event(b"event: " + str(fields["type"]).encode() + b"\ndata: " + data + b"\n\n", data)]
        except RouteSwitchError:
            raise
        except Exception as error:  # whatever litellm trips over, the client has half an answer
            words = f"{self._name}: the rest of its answer could not be translated."
            raise ProviderCutError(words, provider=self._name) from error

    async def _translate(self, call: EndpointCall) -> tuple[_Translators, _Translated]:
        refuse_untranslatable(call, provider=self._name)
        if self._translators is None:
            self._translators = await anyio.to_thread.run_sync(_load)
        translators = self._translators
        fields = {name: value for name, value in call.body.items() if value is not None}
        try:
            chat, names = _CHAT[call.request.endpoint](translators, call, fields)
        except Exception as error:  # litellm looks into what the client sent, and stumbles in many ways
            raise InvalidRequestError(
                f"{self._name} does not speak {ENDPOINT_PATHS[call.request.endpoint]} itself, and the request could "
                f"not be translated for it ({type(error).__name__}).",
            ) from error
        parameters = {k: v for k, v in chat.items() if k not in _NOT_PARAMETERS and v is not None}
        if "max_tokens" in parameters:
            parameters[self._limit_field] = parameters.pop("max_tokens")
        messages = tuple(_tidied(message) for message in chat["messages"])
        return translators, _Translated(
            ProviderCall(call.model, messages, parameters, call.timeout_s), fields, dict(names)
        )

    def _back(self, call: EndpointCall, translators: _Translators, translated: _Translated, body: bytes) -> JsonObject:
        completion = translators.completion(**msgspec.json.decode(body))
        if call.request.endpoint == "messages":
            return translators.messages.translate_completion_output_params(
                completion, tool_name_mapping=translated.tool_names
            )
        response = translators.responses.transform_chat_completion_response_to_responses_api_response(
            chat_completion_response=completion,
            request_input=translated.fields["input"],
            responses_api_request=_asked(translated.fields),
        )
        return response.model_dump(mode="json", exclude_none=True)

    def _garbage(self) -> ProviderGarbageError:
        return ProviderGarbageError(
            f"{self._name} answered 200 with something that is no chat completion.", provider=self._name, status=200
        )


class _Chunks:
    """A chat stream as litellm's translators want it; it ends only where the provider's answer is whole."""

    logging_obj = None
    chunks = None
    messages = None

    def __init__(self, batches: AsyncIterator[Sequence[bytes]], make: Callable[..., Any], *, provider: str) -> None:
        self._batches, self._make, self._provider = batches, make, provider
        self._answer = StreamedAnswer()
        self._waiting: list[bytes] = []

    async def begin(self) -> None:
        """Wait for the first chunk. Raises ProviderError."""
        if not await self._more():
            raise ProviderGarbageError(
                f"{self._provider} answered with an empty stream.", provider=self._provider, status=200
            )
        self._decoded(self._waiting[0])

    def __aiter__(self) -> "_Chunks":
        return self

    async def __anext__(self) -> Any:
        if not self._waiting and not await self._more():
            if not self._answer.whole:
                words = f"{self._provider} ended a stream without a finish_reason."
                raise ProviderCutError(words, provider=self._provider)
            raise StopAsyncIteration
        payload = self._waiting.pop(0)
        self._answer.add(self._decoded(payload))
        return self._make(**msgspec.json.decode(payload))

    async def _more(self) -> bool:
        while not self._waiting:
            batch = await anext(self._batches, None)
            if batch is None:
                return False
            self._waiting = [payload for payload in batch if payload is not DONE]
        return True

    def _decoded(self, payload: bytes) -> WireChunk:
        try:
            chunk = decode_chunk(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProviderCutError(f"{self._provider} sent a malformed chunk.", provider=self._provider) from error
        if chunk.error is not None:
            words = f"{self._provider} reported an error in its stream."
            raise ProviderOverloadedError(words, provider=self._provider)
        return chunk


def refuse_untranslatable(call: EndpointCall, *, provider: str) -> None:
    """Raises InvalidRequestError: what cannot be translated would be lost without a word."""
    endpoint, fields = call.request.endpoint, call.request.fields
    path = ENDPOINT_PATHS[endpoint]
    for name, value in fields.items():
        if name not in _FIELDS[endpoint] and value is not None and _DEFAULTS.get(name) != value:
            raise InvalidRequestError(
                f"{provider} does not speak {path} itself, and `{name[:100]}` cannot be translated for it: leave it "
                "out, or ask a provider that speaks it.",
                param=name[:100],
            )
    said = "messages" if endpoint == "messages" else "input"
    if not isinstance(fields.get(said), list | str) or not fields[said]:
        raise InvalidRequestError(f"`{said}` is missing or empty.", param=said)
    if endpoint == "messages" and not isinstance(call.body.get("max_tokens"), int):
        raise InvalidRequestError("`max_tokens` is missing: name a number of tokens.", param="max_tokens")
    tools: JsonValue = fields.get("tools") or ()
    for position, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if kind not in _TOOL_TYPES[endpoint]:
            raise InvalidRequestError(
                f"`tools[{position}]` is of type {str(kind)[:50]!r}, which {provider} does not run: only function "
                "tools can be translated for it.",
                param=f"tools[{position}].type",
            )


def _load() -> _Translators:
    load_litellm()  # sets it up; its parts must not be imported before
    types = import_module("litellm.types.utils")
    return _Translators(
        import_module(f"{_RESPONSES}.transformation").LiteLLMCompletionResponsesConfig,
        import_module(f"{_RESPONSES}.streaming_iterator").LiteLLMCompletionStreamingIterator,
        import_module(f"{_MESSAGES}.transformation").AnthropicAdapter(),
        import_module(f"{_MESSAGES}.streaming_iterator").AnthropicStreamWrapper,
        types.ModelResponse,
        types.ModelResponseStream,
    )


def _chat_of_response(
    translators: _Translators, call: EndpointCall, fields: JsonObject
) -> tuple[JsonObject, dict[str, str]]:
    chat = translators.responses.transform_responses_api_request_to_chat_completion_request(
        model=call.model,
        input=fields["input"],
        responses_api_request=_asked(fields),
        custom_llm_provider="openai",
        stream=call.request.stream,
    )
    return chat, {}


def _chat_of_messages(
    translators: _Translators, call: EndpointCall, fields: JsonObject
) -> tuple[JsonObject, dict[str, str]]:
    return translators.messages.translate_completion_input_params_with_tool_mapping(
        dict(fields), custom_llm_provider="openai"
    )


_CHAT: Mapping[Endpoint, Callable[[_Translators, EndpointCall, JsonObject], tuple[JsonObject, dict[str, str]]]] = {
    "responses": _chat_of_response,
    "messages": _chat_of_messages,
}


def _asked(fields: JsonObject) -> JsonObject:
    return {name: value for name, value in fields.items() if name not in ("input", "model", "stream")}


def _tidied(message: Any) -> JsonObject:
    """The message without what only litellm knows."""
    tidied = {name: value for name, value in dict(message).items() if value is not None or name == "content"}
    calls: JsonValue = tidied.get("tool_calls")
    if isinstance(calls, list):
        tidied["tool_calls"] = [{k: v for k, v in dict(c).items() if k != "index"} for c in calls]
    return tidied

"""The endpoints beside chat: what is asked, and how each one's answer tells model, usage and whether it is whole."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from rs_gateway.domain.chat import JsonObject, JsonValue, Message
from rs_gateway.domain.errors import InvalidRequestError, ModelNotFoundError, RouteSwitchError
from rs_gateway.domain.traces import Outcome, Usage

Endpoint: TypeAlias = Literal["embeddings", "responses", "messages"]
"""OpenAI's embeddings, OpenAI's Responses, Anthropic's Messages."""
ENDPOINT_PATHS: Mapping[Endpoint, str] = {
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}

_CHAT_ONLY = frozenset(
    {
        *("max_completion_tokens", "n", "seed", "stop", "logprobs", "logit_bias", "response_format", "stream_options"),
        *("frequency_penalty", "presence_penalty", "functions", "function_call", "modalities", "audio", "prediction"),
        *("reasoning_effort", "verbosity"),
    }
)
_GENERATION = frozenset(
    {
        *("temperature", "top_p", "top_k", "max_tokens", "tools", "tool_choice", "parallel_tool_calls", "store"),
        *("metadata", "service_tier", "thinking", "reasoning", "stream"),
    }
)
_FOREIGN_OPTIONS: Mapping[Endpoint, frozenset[str]] = {
    "embeddings": _CHAT_ONLY | _GENERATION,
    "responses": _CHAT_ONLY | {"max_tokens", "thinking", "stream"},
    "messages": _CHAT_ONLY | {"user", "store", "parallel_tool_calls", "stream"},
}


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """One request of a client.

    Attributes:
        fields: every top-level field but `model`, forwarded unchanged.
        headers: those headers of the client that its protocol selects features with; lower case.
    """

    endpoint: Endpoint
    model: str
    fields: JsonObject
    stream: bool
    headers: Mapping[str, str]

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said, where the endpoint has messages. A Responses `input` that is text is one user message."""
        said = self.fields.get("messages" if self.endpoint == "messages" else "input")
        if self.endpoint == "embeddings":
            return ()
        if isinstance(said, str):
            return ({"role": "user", "content": said},)
        return tuple(m for m in said if isinstance(m, dict)) if isinstance(said, list) else ()

    @property
    def parameters(self) -> JsonObject:
        """All fields beside the messages."""
        said = {"embeddings": None, "responses": "input", "messages": "messages"}[self.endpoint]
        return {name: value for name, value in self.fields.items() if name != said}

    @property
    def input_characters(self) -> int:
        """Length of the text that was sent; what estimates of its tokens go by."""
        return sum(text_length(self.fields.get(name)) for name in ("input", "messages", "system", "instructions"))

    @property
    def end_user(self) -> str | None:
        """The client's own user id, if it named one."""
        user = self.fields.get("user")
        if user is None and isinstance(metadata := self.fields.get("metadata"), dict):
            user = metadata.get("user_id")
        return user if isinstance(user, str) else None


@dataclass(frozen=True, slots=True)
class EndpointCall:
    """What one provider is asked.

    Attributes:
        model: the provider's name for it.
        defaults: the provider's options, under the request's own fields.
        timeout_s: what is left of the request's deadline, in seconds.
    """

    request: EndpointRequest
    model: str
    defaults: JsonObject
    timeout_s: float

    @property
    def body(self) -> JsonObject:
        """The whole body for a provider that speaks the endpoint itself."""
        return {**self.defaults, **self.request.fields, "model": self.model}


class Event(NamedTuple):
    """One server-sent event.

    Attributes:
        raw: as it came, with the empty line that ends it; data: what it says, empty for comments.
    """

    raw: bytes
    data: bytes


class EndpointProvider(Protocol):
    """One provider of these endpoints. Raises ProviderError and its kinds, and InvalidRequestError for what it cannot
    translate; nothing else of its own."""

    async def ask(self, call: EndpointCall) -> bytes:
        """The body of the answer, as it came; not yet checked."""
        ...

    def stream(self, call: EndpointCall) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Event]]]:
        """Batches of whole events, as they arrive, until the provider closes the stream.

        Whether it was whole is for the reader of the events to tell. A connection that breaks raises ProviderCutError.
        Leaving the context cancels the upstream call.
        """
        ...

    async def aclose(self) -> None:
        """Close pooled connections."""
        ...


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """What an answer says of itself, as far as it came.

    Attributes:
        response: what is kept of it in the trace; never an embedding.
    """

    model: str | None
    finish_reason: str | None
    outcome: Outcome
    usage: Usage
    response: JsonObject | None


class EndpointModelNotFoundError(ModelNotFoundError):
    """No provider lists this model, so that it cannot be reached without a template."""

    def __init__(self, request: EndpointRequest, *, available: Sequence[str]) -> None:
        self.name, self.available = request.model, tuple(sorted(available))
        known = ", ".join(self.available[:30]) or "nothing: no provider lists `models` in route-switch.yaml"
        RouteSwitchError.__init__(
            self,
            f"The model {request.model[:100]!r} cannot be asked on {ENDPOINT_PATHS[request.endpoint]}. "
            f"You can ask for: {known}.",
        )


class TemplateOnEndpointError(InvalidRequestError):
    """A template was asked for where templates are not rendered."""

    code = "template_not_here"

    def __init__(self, request: EndpointRequest) -> None:
        super().__init__(
            f"{request.model[:100]!r} is a template, and templates answer on /v1/chat/completions only: "
            f"on {ENDPOINT_PATHS[request.endpoint]}, ask for a model that a provider lists.",
            param="model",
        )


def options_for(endpoint: Endpoint, options: JsonObject) -> JsonObject:
    """A provider's default options as far as this endpoint can know them; the others speak chat only."""
    if not options:
        return options
    foreign = _FOREIGN_OPTIONS[endpoint]
    return {name: value for name, value in options.items() if name not in foreign}


def text_length(value: JsonValue) -> int:
    """Characters of text in messages and parts; what else they hold (images, ids) does not count."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(text_length, value))
    if isinstance(value, dict):
        return sum(text_length(value.get(name)) for name in ("text", "content", "arguments", "output", "thinking"))
    return 0

"""What a client asked and what a provider is asked: OpenAI's request, split into what we own and what we forward."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

JsonValue: TypeAlias = Any
"""What JSON can hold. Values we only forward are never looked into, so they need no narrower type."""
JsonObject: TypeAlias = dict[str, JsonValue]
Message: TypeAlias = JsonObject
"""One chat message as on the wire: `role`, `content` (string, null or parts), tool calls ..."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One `/v1/chat/completions` request.

    Attributes:
        model: what the client asked for: a template id or a model name.
        variables: values for the template's placeholders; ours, never forwarded.
        template_id, combination_id: taken out of `metadata`; ours, never forwarded.
        parameters: every other top-level field, forwarded unchanged.
        include_usage: whether the client itself asked for the usage chunk of a stream.
        n_bytes: length of the body; 0 when it came otherwise.
    """

    model: str
    messages: tuple[Message, ...]
    variables: Mapping[str, str]
    template_id: str | None
    combination_id: str | None
    parameters: JsonObject
    stream: bool
    include_usage: bool
    n_bytes: int = 0

    @property
    def end_user(self) -> str | None:
        """The client's own `user` field, if it is a string."""
        user = self.parameters.get("user")
        return user if isinstance(user, str) else None


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """What one provider is asked: the rendered messages and the parameters that go with them."""

    model: str
    messages: tuple[Message, ...]
    parameters: JsonObject
    timeout_s: float
    """What is left of the request's deadline, in seconds."""
    is_watched: bool = False
    """Whether the caller ends the call itself when that is over, so that nobody else need set a timer for it."""

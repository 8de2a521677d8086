"""What of a request may be handed to litellm, and what of it would reach the vendor."""

from collections.abc import Iterable, Mapping

from rs_gateway.adapters.litellm_errors import unsupported_parameter
from rs_gateway.domain.chat import JsonObject, JsonValue

_OPENAI = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
"""litellm's call takes addresses, keys and headers beside these, and a client must be able to choose none of them."""
_VENDORS_OWN: Mapping[str, frozenset[str]] = {
    "anthropic": frozenset({"top_k", "context_management", "cache_control"}),
    "gemini": frozenset({"top_k", "safety_settings"}),
    "cohere_chat": frozenset({"k", "p", "safety_mode", "documents", "citation_options"}),
}
"""Further ones that reach the vendor as they are."""
_OURS = frozenset({"stream", "stream_options"})
_ASKS_FOR_NOTHING: Mapping[str, tuple[JsonValue, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "store": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "metadata": ({},),
}
"""Values that say what happens anyway: leaving them out drops nothing."""


def forwardable(vendor: str, known: Iterable[str] | None) -> frozenset[str]:
    """Names of the parameters that reach `vendor`.

    Args:
        vendor: litellm's name of it.
        known: what litellm says that it translates for the model; None when it does not know.
    """
    translated = _OPENAI if known is None else _OPENAI.intersection(known)
    return translated | _VENDORS_OWN.get(vendor, frozenset())


def forwarded(parameters: JsonObject, *, known: frozenset[str], name: str) -> JsonObject:
    """The parameters for litellm's call. Raises ProviderRefusedError for one that would be lost on the way.

    Args:
        known: as from `forwardable`.
        name: the provider's, for messages.
    """
    kept: JsonObject = {}
    for parameter, value in parameters.items():
        if parameter in _OURS or value is None:
            continue
        if parameter in known:
            # One stop sequence may be a bare string in OpenAI's protocol, but not in Cohere's.
            kept[parameter] = [value] if parameter == "stop" and isinstance(value, str) else value
        elif value not in _ASKS_FOR_NOTHING.get(parameter, ()):
            raise unsupported_parameter(parameter, name=name)
    return kept

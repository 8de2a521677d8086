"""Images and files that a client names by their address: litellm would download many of them, from this process."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from rs_gateway.domain.chat import JsonValue, Message
from rs_gateway.domain.errors import ProviderRefusedError

_NO_MEDIA = frozenset(
    {
        *("role", "name", "refusal", "reasoning_content", "thinking_blocks", "tool_calls", "tool_call_id"),
        *("function_call", "annotations", "provider_specific_fields"),
    }
)
"""Fields of a message that hold words, or what a model once said about its sources. Of any other we don't know."""
_WORDS = frozenset(
    {
        *("text", "thinking", "refusal", "data", "title", "context", "citations", "annotations", "input", "arguments"),
        *("type", "id", "name", "filename", "format", "media_type", "detail", "cache_control"),
    }
)
"""The same for the parts of a content, at whatever depth."""
_SCHEME = re.compile(r"\s*(?:https?|gs|s3|ftp|file):", re.IGNORECASE)
_HTTPS, _HTTP = ("https://",), ("https://", "http://")
_REFERENCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "anthropic": {"image_url": _HTTPS, "image_url.url": _HTTPS, "file.file_id": _HTTPS},
    "openai": {"image_url": _HTTP, "image_url.url": _HTTP},
    "azure": {"image_url": _HTTP, "image_url.url": _HTTP},
}
"""litellm's vendor -> field of a content part -> addresses that it hands on as they are; found in its source, and held
by `tests/gateway/providers/test_media.py`."""


class _Found(NamedTuple):
    """An address, and where it stands: in the message, and in the content part."""

    path: str
    field: str
    address: str


def refuse_addresses(messages: Iterable[Message], *, vendor: str, name: str) -> None:
    """Raises ProviderRefusedError for an address that the vendor itself would not fetch; data: URLs are none.

    Args:
        vendor: litellm's name of it; name: the provider's, for messages.
    """
    passed_on = _REFERENCES.get(vendor, {})
    for message in messages:
        for found in _addresses_of(message):
            if not found.address.startswith(passed_on.get(found.field, ())):
                # Which message it is only the client can count: a template puts others before its own.
                where = f"messages[].{found.path}"
                raise ProviderRefusedError(
                    f"`{where}` is an address that {name} does not fetch itself, and the gateway fetches none: send "
                    "the data in a data: URL.",
                    provider=name,
                    status=400,
                    upstream_code="unsupported_parameter",
                    upstream_type="invalid_request_error",
                    upstream_param=where,
                )


def _addresses_of(message: Message) -> Iterator[_Found]:
    for field, value in message.items():
        if field in _NO_MEDIA or (field == "content" and isinstance(value, str)):
            continue
        if isinstance(value, list):
            for position, part in enumerate(value):
                for inner, address in _addresses(part, ""):
                    yield _Found(f"{field}[{position}]{inner}", inner.removeprefix("."), address)
        else:
            for inner, address in _addresses(value, ""):
                yield _Found(field + inner, "", address)


def _addresses(value: JsonValue, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if not value.startswith("data:") and ("://" in value or _SCHEME.match(value)):
            yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _WORDS and not (key == "content" and isinstance(inner, str)):
                yield from _addresses(inner, f"{path}.{key[:50]}")
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _addresses(inner, f"{path}[{position}]")

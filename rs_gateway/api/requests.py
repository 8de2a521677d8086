"""A request body -> ChatRequest. Parsed once; what we do not own is not looked into."""

from typing import Any

import msgspec

from rs_gateway.domain.chat import ChatRequest, JsonObject, Message
from rs_gateway.domain.errors import InvalidRequestError

MAX_DEPTH = 128
"""Levels of lists and objects inside each other; JSON schemas of tools need a few dozen at most."""
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises InvalidRequestError, naming the field and what it should be."""
    fields = decode_object(body)
    model = fields.pop("model", None)
    if not isinstance(model, str) or not model:
        raise InvalidRequestError("`model` is missing: name a template or a model.", param="model")
    messages = _messages(fields.pop("messages", None))
    variables = _variables(fields.pop("variables", None))
    stream = _flag(fields.pop("stream", None), "stream")
    metadata = fields.get("metadata")
    template_id = combination_id = None
    if metadata is not None:
        if not isinstance(metadata, dict):
            raise InvalidRequestError(f"`metadata` is an object, not {_kind(metadata)}.", param="metadata")
        template_id = _name(metadata.pop("template_id", None), "metadata.template_id")
        combination_id = _name(metadata.pop("combination_id", None), "metadata.combination_id")
        if not metadata:
            del fields["metadata"]
    return ChatRequest(
        model=model,
        messages=messages,
        variables=variables,
        template_id=template_id,
        combination_id=combination_id,
        parameters=fields,
        stream=stream,
        include_usage=stream and _include_usage(fields),
        n_bytes=len(body),
    )


def decode_object(body: bytes) -> JsonObject:
    """The JSON object that a body holds. Raises InvalidRequestError."""
    try:
        decoded = msgspec.json.decode(body)
    except RecursionError:
        raise InvalidRequestError("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(decoded, dict):
        raise InvalidRequestError(f"The body is a JSON object, not {_kind(decoded)}.")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deeper(decoded, MAX_DEPTH):
        raise InvalidRequestError(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return decoded


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects stand more than `limit` levels inside each other."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _messages(value: Any) -> tuple[Message, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequestError(f"`messages` is a list, not {_kind(value)}.", param="messages")
    for index, message in enumerate(value):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidRequestError(f"`{where}` is an object, not {_kind(message)}.", param=where)
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidRequestError(
                f"`{where}.role` is one of {', '.join(sorted(ROLES))}, not {str(role)[:50]!r}.",
                param=f"{where}.role",
            )
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidRequestError(
                f"`{where}.content` is a string, a list of parts or null, not {_kind(content)}.",
                param=f"{where}.content",
            )
    return tuple(value)


def _variables(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"`variables` is an object of names and values, not {_kind(value)}.", param="variables"
        )
    return {name: _variable(name, item) for name, item in value.items()}


def _variable(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    raise InvalidRequestError(
        f"`variables.{name}` is a string or a number, not {_kind(value)}.", param=f"variables.{name}"
    )


def _flag(value: Any, name: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequestError(f"`{name}` is true or false, not {_kind(value)}.", param=name)
    return value


def _name(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"`{where}` is a string, not {_kind(value)}.", param=where)
    return value


def _include_usage(fields: JsonObject) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequestError(f"`stream_options` is an object, not {_kind(options)}.", param="stream_options")
    return options.get("include_usage") is True


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")

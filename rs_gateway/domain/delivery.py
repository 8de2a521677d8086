"""What a client gets of an answer that was written in an output format: the same answer, with its text bare."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from rs_gateway.domain.chat import JsonObject, JsonValue
from rs_gateway.domain.output_formats import OutputFormat, Reading, read_answer

_NOT_TEXT_ALONE = ("refusal", "tool_calls", "function_call", "audio")
_UNREADABLE = (msgspec.MsgspecError, AttributeError, KeyError, TypeError, ValueError, RecursionError)


def delivered_completion(body: bytes, output: OutputFormat) -> tuple[bytes, bool | None]:
    """A `chat.completion` for the client, and whether every answer in it could be parsed; None: none was to be.

    A choice that is anything but whole text, or that cannot be parsed, stays as it came.
    """
    try:
        completion = msgspec.json.decode(body)
        readings: list[Reading] = []
        for choice in completion["choices"]:
            message = choice["message"]
            if not isinstance(message.get("content"), str) or any(message.get(name) for name in _NOT_TEXT_ALONE):
                continue
            reading = read_answer(output, message["content"], finish_reason=choice.get("finish_reason"))
            readings.append(reading)
            if reading.parsed:
                message["content"] = reading.text
                _forget_tokens(choice)
        parsed = _all_parsed(readings)
        return (msgspec.json.encode(completion) if any(r.parsed for r in readings) else body), parsed
    except _UNREADABLE:
        return body, False


def delivered_stream(chunks: Sequence[bytes], output: OutputFormat) -> tuple[list[bytes], bool | None]:
    """All chunks of a whole stream for the client; otherwise as `delivered_completion`.

    The text of a parsed choice becomes one chunk, right before the one that ends the choice.
    """
    try:
        decoded: list[JsonObject] = [msgspec.json.decode(chunk) for chunk in chunks]
        readings = {
            index: read_answer(output, "".join(text.pieces), finish_reason=text.finish_reason)
            for index, text in _texts(decoded).items()
            if text.stands_alone
        }
        answers = {index: reading.text for index, reading in readings.items() if reading.parsed}
        parsed = _all_parsed(readings.values())
        return ([msgspec.json.encode(c) for c in _rewritten(decoded, answers)] if answers else list(chunks)), parsed
    except _UNREADABLE:
        return list(chunks), False


@dataclass(slots=True)
class _Text:
    """The text of one choice of a stream; `stands_alone` unless the choice holds anything else for the client."""

    pieces: list[str]
    stands_alone: bool = True
    finish_reason: str | None = None


def _texts(chunks: Iterable[JsonObject]) -> dict[int, _Text]:
    texts: dict[int, _Text] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            text = texts.setdefault(choice.get("index", 0), _Text([]))
            delta = choice.get("delta") or {}
            content = delta.get("content")
            if isinstance(content, str):
                text.pieces.append(content)
            elif content is not None:
                text.stands_alone = False
            if any(delta.get(name) for name in _NOT_TEXT_ALONE):
                text.stands_alone = False
            text.finish_reason = choice.get("finish_reason") or text.finish_reason
    return texts


def _rewritten(chunks: Iterable[JsonObject], answers: Mapping[int, str]) -> list[JsonObject]:
    rewritten: list[JsonObject] = []
    for chunk in chunks:
        kept: list[JsonValue] = []
        for choice in chunk["choices"]:
            index = choice.get("index", 0)
            if index not in answers:
                kept.append(choice)
                continue
            delta = choice.get("delta") or {}
            delta.pop("content", None)
            ends = choice.get("finish_reason") is not None
            if ends:
                # A choice that begins and ends in one chunk has its role there, and a role comes first.
                first = {"role": delta.pop("role")} if "role" in delta else {}
                whole = {"index": index, "delta": {**first, "content": answers[index]}, "finish_reason": None}
                usage = {"usage": None} if "usage" in chunk else {}
                rewritten.append({**chunk, "choices": [whole], **usage})
            if delta or ends:
                begins = {"content": ""} if "role" in delta else {}
                _forget_tokens(choice)
                kept.append({**choice, "delta": {**delta, **begins}})
        if kept or not chunk["choices"]:
            rewritten.append({**chunk, "choices": kept})
    return rewritten


def _forget_tokens(choice: JsonObject) -> None:
    """The tokens that it lists are those of the text that the client does not get."""
    if choice.get("logprobs") is not None:
        choice["logprobs"] = None


def _all_parsed(readings: Iterable[Reading]) -> bool | None:
    known = [reading.parsed for reading in readings if reading.parsed is not None]
    return all(known) if known else None

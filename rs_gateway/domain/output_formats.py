"""How a version has its answers written, and how the bare answer is read out of them again.

A version's instruction and demos say to the model what its `output` is; the text is sent as it stands, so its hash
covers every word of that. Here is what such texts are made with, and the one parser that serving and optimising share.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from rs_gateway.domain.traces import Outcome, outcome_of


class OutputFormat(StrEnum):
    """How a model is told to write its answer. Applications get the bare answer in any case."""

    BARE = "bare"
    """The answer and nothing else."""
    LABELLED = "labelled"
    """One line: `Answer: ` and the answer."""
    JSON = "json"
    """One JSON object: `{"answer": "..."}`."""


_SENTENCES = {
    OutputFormat.BARE: "",
    OutputFormat.LABELLED: 'Write the answer on one line that begins with "Answer:".',
    OutputFormat.JSON: 'Write the answer as text in a JSON object with the one key "answer".',
}
# Models like to set a label in bold. The first label counts: small models go on with questions of their own after it.
_LABEL = re.compile(r"^[^\S\n]*(?:\*\*answer:\*\*|\*\*answer\*\*:|answer:)\s*(\S[^\n]*)", re.IGNORECASE | re.MULTILINE)
_MOST_OBJECTS = 20
"""Braces at which an object is looked for, so that a long text of braces costs no time."""
_decode = json.JSONDecoder().raw_decode
_decode_numbers_as_written = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).raw_decode


def sentence(output: OutputFormat) -> str:
    """What an instruction says of the format; empty for `bare`."""
    return _SENTENCES[output]


def admits(output: OutputFormat, answer: str) -> bool:
    """Whether the format can hold this answer, so that `parse` finds it again.

    A labelled line holds one line without space around it. Answers that are JSON are left out of JSON: they would stand
    there with every quote escaped.
    """
    if not _is_unicode(answer):
        return output is OutputFormat.BARE
    match output:
        case OutputFormat.BARE:
            return True
        case OutputFormat.LABELLED:
            return bool(answer) and answer == answer.strip() and len(answer.splitlines()) == 1
        case OutputFormat.JSON:
            return not answer.lstrip().startswith(("{", "["))


def write(output: OutputFormat, answer: str) -> str:
    """The answer as a model is to write it; how a demo shows it."""
    match output:
        case OutputFormat.BARE:
            return answer
        case OutputFormat.LABELLED:
            return f"Answer: {answer}"
        case OutputFormat.JSON:
            return json.dumps({"answer": answer}, ensure_ascii=False)


def parse(output: OutputFormat, text: str) -> str | None:
    """The bare answer in what a model wrote, or None. Raises nothing.

    Words around a labelled line or a JSON object do not matter. A JSON value that is no text is taken as its JSON.
    """
    match output:
        case OutputFormat.BARE:
            return text
        case OutputFormat.LABELLED:
            found = _LABEL.search(text)
            answer = found[1].splitlines()[0].strip() if found is not None else ""
            return answer if answer and _is_unicode(answer) else None
        case OutputFormat.JSON:
            answer = _json_answer(text)
            return answer if answer is not None and _is_unicode(answer) else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What an application gets of an answer.

    Attributes:
        parsed: whether `text` was read out of what the model wrote; False: it is delivered as it came, since it is not
            in the format; None: there was nothing to parse.
    """

    text: str
    parsed: bool | None


def read_answer(output: OutputFormat, text: str, *, finish_reason: str | None) -> Reading:
    """What the application gets when a model answered `text`. An answer that was cut short is not looked into."""
    if output is OutputFormat.BARE or outcome_of(finish_reason) is not Outcome.COMPLETE:
        return Reading(text, None)
    answer = parse(output, text)
    return Reading(text, False) if answer is None else Reading(answer, True)


def _json_answer(text: str) -> str | None:
    position = -1
    for _ in range(_MOST_OBJECTS):
        position = text.find("{", position + 1)
        if position == -1:
            return None
        try:
            value = _decode(text, position)[0].get("answer")
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = _decode_numbers_as_written(text, position)[0]["answer"]
        except (ValueError, RecursionError):
            continue
        if value is not None:
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

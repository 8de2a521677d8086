"""What a judge's reply says: a grade or a preference, or nothing that could be relied on."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rs_gateway.domain.evaluation import Reply
from rs_pipelines.evaluators.numeric import numbers_in

_THOUGHT = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_GRADE_NAMES = ("score", "grade", "rating")
_PREFERENCE_NAMES = ("better", "winner", "verdict", "preference")
_LABELLED_GRADE = re.compile(
    rf"\b(?:{'|'.join(_GRADE_NAMES)})\b[\"'*_`]*\s*(?:is|[:=])[\s\"'*_`]*([-+]?\d+(?:\.\d+)?)", re.IGNORECASE
)
# Capitals only, but for a text that says nothing else: "the verdict is a tie".
_LABELLED_PREFERENCE = re.compile(
    rf"\b(?:{'|'.join(_PREFERENCE_NAMES)})\b[\"'*_`]*\s*(?:is|[:=])[\s\"'*_`]*"
    r"(?:(?:answer|response|a)\s+)?((?-i:[AB])|tie)\b",
    re.IGNORECASE,
)
_BRACKETED_PREFERENCE = re.compile(r"\[\[\s*(A|B|tie|C)\s*\]\]", re.IGNORECASE)
_WHOLE_PREFERENCE = re.compile(r"\A(?:(?:answer|response)\s+)?([AB]|tie)\Z", re.IGNORECASE)
_PREFERENCES: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "c": 0.5}
_DECODER = json.JSONDecoder()
_LAST_OBJECTS = 20


def read_grade(reply: Reply, *, low: float, high: float) -> float | None:
    """The grade as a share of the scale, in [0, 1]; None when there is none, or it is off the scale.

    In this order: the last JSON object with a `score`, the last `score: 4`, the last number of all. A reply that was
    cut off may have been about to say something else, so its last number is not believed.
    """
    text = _spoken(reply.text)
    grade = next((g for g in map(_as_number, _fields(text, _GRADE_NAMES)) if g is not None), None)
    if grade is None:
        labelled = _LABELLED_GRADE.findall(text)
        if labelled:
            grade = float(labelled[-1])
        elif not reply.cut:
            # "3/5" and "3 out of 5" say 3.
            numbers = numbers_in(re.sub(rf"(\d)\s*(?:/|out of)\s*{re.escape(f'{high:g}')}(?![\d.]*\d)", r"\1", text))
            grade = numbers[-1] if numbers else None
    return (grade - low) / (high - low) if grade is not None and low <= grade <= high else None


def read_preference(reply: Reply) -> float | None:
    """1 when A is called better, 0 when B is, 0.5 for a tie; None when the reply does not say so plainly.

    In this order: the last JSON object with a `better`, the last `better: A`, the last `[[A]]`, a last line that says
    nothing else. A bare letter within a sentence is not believed: "A" is an article, and both letters are named in any
    comparison.
    """
    text = _spoken(reply.text)
    for said in _fields(text, _PREFERENCE_NAMES):
        match = _WHOLE_PREFERENCE.match(said.strip()) if isinstance(said, str) else None
        if match is not None:
            return _PREFERENCES[match[1].lower()]
    for pattern in (_LABELLED_PREFERENCE, _BRACKETED_PREFERENCE):
        if found := pattern.findall(text):
            return _PREFERENCES[found[-1].lower()]
    lines = text.strip().splitlines()
    match = _WHOLE_PREFERENCE.match(lines[-1].strip(" \t.*_`\"'()[]")) if lines and not reply.cut else None
    return None if match is None else _PREFERENCES[match[1].lower()]


def _spoken(text: str) -> str:
    """Without the thinking aloud of models that mark it."""
    return _THOUGHT.sub("", text)


def _fields(text: str, names: tuple[str, ...]) -> Iterator[Any]:
    """Values under one of these names in the JSON objects of a text, the last one first."""
    starts = [match.start() for match in re.finditer(r"\{", text)]
    for start in reversed(starts[-_LAST_OBJECTS:]):
        try:
            found, _ = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield from (value for key, value in found.items() if str(key).lower() in names)


def _as_number(value: object) -> float | None:
    if isinstance(value, str):
        numbers = numbers_in(value.split("/")[0])
        value = numbers[0] if len(numbers) == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None

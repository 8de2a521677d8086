"""What must not be stored is replaced before it is: addresses, card numbers, keys. A rule maps text to text.

Every built-in rule takes time proportional to the length of the text, whatever it is: prompts are written by strangers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rs_gateway.domain.chat import JsonValue
from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.traces import Trace

_T = TypeVar("_T")


class RedactionError(RouteSwitchError):
    """A rule failed, so nobody knows what the text still holds: it must not be stored."""

    code = "redaction_failed"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of thing that is not stored.

    Attributes:
        redact: returns the text without it, and the text itself where there is none.
    """

    name: str
    redact: Callable[[str], str]


class Redactor:
    """Applies rules, in order, to every text of a record. Keys of JSON objects stay: they are names.

    Attributes:
        names: of the rules, in that order.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rule.redact for rule in rules)
        self.names = tuple(rule.name for rule in rules)

    def text(self, text: str) -> str:
        """`text` without what the rules name. Binary data (a base64 data URL, long bare base64) is left as it is."""
        if _is_binary(text):
            return text
        for redact in self._rules:
            text = redact(text)
        return text

    def value(self, value: JsonValue) -> JsonValue:
        """A JSON value with all of its strings redacted; the same object when nothing changed."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            items = {key: self.value(item) for key, item in value.items()}
            return items if any(items[key] is not item for key, item in value.items()) else value
        if isinstance(value, list | tuple):
            members = [self.value(member) for member in value]
            if all(new is old for new, old in zip(members, value, strict=True)):
                return value
            return members if isinstance(value, list) else tuple(members)
        return value

    def trace(self, trace: Trace) -> Trace:
        """A trace with its payload and its end user (often an e-mail address) redacted; itself when nothing changed."""
        payload = trace.payload
        if payload is not None:
            payload = _with(
                payload,
                request_messages=self.value(payload.request_messages),
                variables=self.value(payload.variables),
                parameters=self.value(payload.parameters),
                rendered_messages=self.value(payload.rendered_messages),
                response=self.value(payload.response),
            )
        return _with(trace, payload=payload, end_user=self.value(trace.end_user))

    def feedback(self, feedback: Feedback) -> Feedback:
        """A feedback with its label or comment, and the name of who gave it, redacted; itself when nothing changed."""
        return _with(feedback, value=self.value(feedback.value), source=self._source(feedback.source))

    def _source(self, source: str) -> str:
        # What kind of source it is stays, whatever a hook makes of it: how far a label is trusted goes by that.
        kind, colon, name = source.partition(":")
        if kind not in _SOURCE_KINDS:
            return self.text(source)
        redacted = self.text(name) if name else name
        return source if redacted is name else kind + colon + redacted


def emails(text: str) -> str:
    """Replace e-mail addresses by `[email]`; those that a URL spells with `%40` too."""
    if "@" not in text and "%40" not in text:
        return text
    parts: list[str] = []
    end = 0
    for at in _AT.finditer(text):
        if at.start() < end:
            continue
        # Outwards from the sign, so that a text without one costs nothing and each one costs a bounded number of steps.
        domain = _DOMAIN.match(text, at.end())
        if domain is None:
            continue
        local = _LOCAL_REVERSED.match(text[max(end, at.start() - _MAX_LOCAL) : at.start()][::-1])
        if local is not None:
            parts += text[end : at.start() - local.end()], "[email]"
            end = domain.end()
    return "".join([*parts, text[end:]]) if parts else text


def card_numbers(text: str) -> str:
    """Replace payment card numbers by `[card]`: 13 to 19 digits with a valid check digit (Luhn).

    Digits may stand in groups of three or more, one space or dash apart. No card begins with 0 or 1, but millisecond
    timestamps do. Digits behind a decimal point are a fraction.
    """
    redacted = _DIGIT_RUN.sub(_without_cards, text)
    return text if redacted == text else redacted


def api_keys(text: str) -> str:
    """Replace what looks like a secret by `[api_key]`: vendors' keys, bearer tokens, JWTs, private keys."""
    for needed, kinds in _API_KEYS.items():
        if needed in text:
            for prefix, key in kinds:
                if prefix in text:
                    text = key.sub("[api_key]", text)
    return text


BUILT_IN: Mapping[str, Rule] = {
    rule.name: rule
    # Keys first: a token may hold an "@" or a run of digits, and is to go as a whole.
    for rule in (Rule("api_keys", api_keys), Rule("emails", emails), Rule("card_numbers", card_numbers))
}
"""The rules that a configuration can name, in the order in which they apply."""

_SOURCE_KINDS = frozenset({"human", "teacher"})
_MAX_LOCAL = 256
_AT = re.compile("@|%40")
# Scripts written without spaces are not part of an address: the words before it would go as well.
_LETTER = r"[^\W_\u0e00-\u0eff\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef]"
_LOCAL_REVERSED = re.compile(rf"(?:{_LETTER}|[_.%+-]){{1,{_MAX_LOCAL}}}")
_ALPHABETIC = _LETTER.replace(r"\W_", r"\W\d_")
_DOMAIN = re.compile(
    rf"(?:{_LETTER}(?:{_LETTER}|[_-]){{0,62}}\.){{1,8}}(?:xn--[a-z0-9-]{{2,59}}|{_ALPHABETIC}{{2,63}})", re.IGNORECASE
)

_GAP = " \u00a0\u2009\u202f\u2013-"
_DIGIT_RUN = re.compile(rf"\d(?<!\d\d)(?<!\d\.\d)[\d{_GAP}]{{11,}}\d", re.ASCII)
_DIGITS = re.compile(r"\d+", re.ASCII)
_DOUBLED = str.maketrans("0123456789", "0246813579")
_CARD_LENGTHS = range(13, 20)
_SHORTEST_GROUP = 3


def _without_cards(run: re.Match[str]) -> str:
    text = run.group()
    groups = [found.span() for found in _DIGITS.finditer(text)]
    parts: list[str] = []
    end, first = 0, 0
    while first < len(groups):
        last = _last_group_of_card(text, groups, first)
        if last is None:
            first += 1
            continue
        parts += text[end : groups[first][0]], "[card]"
        end, first = groups[last][1], last + 1
    return "".join([*parts, text[end:]])


def _last_group_of_card(text: str, groups: Sequence[tuple[int, int]], first: int) -> int | None:
    """Where a card number that begins with group `first` ends; the longest one, None if there is none."""
    begin = groups[first][0]
    if int(text[begin]) < 2:
        return None
    digits, found = "", None
    for index in range(first, len(groups)):
        start, stop = groups[index]
        if index > first and start - groups[index - 1][1] != 1:
            break
        if len(digits) + stop - start > _CARD_LENGTHS.stop - 1:
            break
        digits += text[start:stop]
        if len(digits) in _CARD_LENGTHS and _luhn(digits):
            found = index
        if stop - start < _SHORTEST_GROUP:
            break  # only a last group may be short; tables of small numbers are no cards
    return found


def _luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    return (sum(map(int, digits[-1::-2])) + sum(map(int, digits[-2::-2].translate(_DOUBLED)))) % 10 == 0


_Keys = tuple[tuple[str, re.Pattern[str]], ...]


def _keys(boundary: str, prefixes: Sequence[str], rest: str) -> _Keys:
    """Kinds of keys: a prefix, which no character of the class `boundary` precedes, and what follows."""
    # The prefix comes first, the look-behind after it: so that the search skips from prefix to prefix.
    return tuple(
        (prefix, re.compile(rf"{re.escape(prefix)}(?<!{boundary}{re.escape(prefix)}){rest}", re.ASCII))
        for prefix in prefixes
    )


_NOTHING = r"[^\s\S]"
_API_KEYS: Mapping[str, _Keys] = {
    "-": (
        # a private key that was cut off goes to the next row of dashes, or to the end
        *_keys(
            _NOTHING,
            ("-----BEGIN ",),
            r"[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:[^-]++|-(?!----))*+"
            r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?",
        ),
        *_keys(r"[\w-]", ("sk-", "rs-", "rk-", "xai-"), r"[\w-]{16,}+"),
        *_keys("[A-Za-z0-9]", ("glpat-",), r"[\w-]{20,}+"),
        *_keys("[A-Za-z0-9]", ("xox",), r"[a-z]-[\w-]{10,}+"),
    ),
    "_": (
        *_keys(r"[\w-]", ("sk_", "pk_", "rk_", "rs_", "gsk_", "hf_", "npm_", "whsec_", "github_pat_"), r"\w{16,}+"),
        *_keys("[A-Za-z0-9]", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), "[A-Za-z0-9]{20,}+"),
    ),
    "A": (
        *_keys("[A-Za-z0-9]", ("AKIA", "ASIA"), "[A-Z0-9]{16}(?![A-Za-z0-9])"),
        *_keys("[A-Za-z0-9]", ("AIza",), r"[\w-]{30,}+"),
    ),
    "eyJ": _keys(r"[\w-]", ("eyJ",), r"[\w-]{8,}+\.eyJ[\w-]{4,}+\.[\w-]*+"),
    # a word of prose has no digit
    "earer ": _keys(r"\w", ("Bearer ", "bearer "), r"[ \t]{0,3}(?=[A-Za-z._~+/=-]{0,200}\d)[\w.~+/=-]{16,}+"),
}
"""What a text must hold at all -> the kinds of keys that hold it. Most texts are let go after these five looks."""

_BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]*+={0,2}[\r\n]*+")
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100}(?:;[\w.-]{1,50}=[\w.-]{1,100}){0,4};base64,", re.ASCII)
_SHORTEST_BARE_BASE64 = 1024


def _is_binary(text: str) -> bool:
    """Whether a text is nothing but encoded bytes: looking for words in them finds only accidents, and breaks them."""
    url = _DATA_URL.match(text)
    if url is not None:
        return _BASE64.fullmatch(text, url.end()) is not None
    return len(text) >= _SHORTEST_BARE_BASE64 and _BASE64.fullmatch(text) is not None


def _with(record: _T, **fields: object) -> _T:
    """`record` with these fields, and `record` itself where they are what it holds."""
    if all(getattr(record, name) is value for name, value in fields.items()):
        return record
    return replace(record, **fields)  # type: ignore[type-var] - every caller's record is a dataclass

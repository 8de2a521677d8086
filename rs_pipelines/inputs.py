"""When two inputs are the same, and which side of the split an input is on. Pure."""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence

from rs_gateway.domain.chat import JsonValue, Message
from rs_pipelines.sample import Split

TRAIN_SHARE = 0.30
VAL_SHARE = 0.30
"""The rest, 40 %, is the test split: a proof needs more rows than a search step."""


def normal_text(text: str) -> str:
    """The text without differences of case, spacing and Unicode form. Applying it again changes nothing.

    Source: NFKC_Casefold as in the Unicode Standard, section 3.13, D147.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold()).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def input_key(variables: Mapping[str, str], messages: Sequence[Message]) -> str:
    """Hash of the normalised input, hex: equal for inputs that differ in case, spacing or Unicode form only."""
    content = [{name: normal_text(value) for name, value in variables.items()}, [_normal(m) for m in messages]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def example_id(template_id: str, key: str) -> str:
    """Id of the example that `template_id` makes of the input with this key; 16 hex digits."""
    return hashlib.sha256(f"{template_id}\n{key}".encode()).hexdigest()[:16]


def split_of(key: str) -> Split:
    """The side that an input is on when no imported file says otherwise; the same in every run, on every machine."""
    position = int(hashlib.sha256(f"split:{key}".encode()).hexdigest()[:12], 16) / 16**12
    if position < TRAIN_SHARE:
        return Split.TRAIN
    return Split.VAL if position < TRAIN_SHARE + VAL_SHARE else Split.TEST


def _normal(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return normal_text(value)
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    return value

"""What expected answers look like as a whole: a closed list, JSON objects with certain keys, or free text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

_CLOSED_LIST = 20
_LONGEST_LABEL = 60
_STRATUM_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class LabelShape:
    """What all expected answers of a task have in common.

    Attributes:
        closed: every label, most frequent first, when they are few and come back; empty otherwise.
        json_keys: keys in order of first appearance, when every label is a JSON object; empty otherwise.
        frequent: labels that many rows share, of a task that is no closed list (such as `none`).
    """

    closed: tuple[str, ...]
    json_keys: tuple[str, ...]
    frequent: frozenset[str]

    def stratum(self, label: str) -> str:
        """The group that a label belongs to when rows are drawn: its own, its filled JSON keys, or all others."""
        if label in self.closed or label in self.frequent:
            return label
        if self.json_keys:
            value = json_object(label) or {}
            return ",".join(key for key in self.json_keys if value.get(key) not in (None, "", [], {}))
        return ""


def label_shape(labels: Sequence[str]) -> LabelShape:
    """The shape of a task's labels (of train rows; at least one)."""
    counts = Counter(labels)
    objects = [json_object(label) for label in labels]
    if labels and all(value is not None for value in objects):
        keys = dict.fromkeys(key for value in objects if value is not None for key in value)
        return LabelShape((), tuple(keys), frozenset())
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    few = len(counts) <= min(_CLOSED_LIST, len(labels) // 2) and max(map(len, counts), default=0) <= _LONGEST_LABEL
    if few:
        return LabelShape(tuple(ranked), (), frozenset())
    frequent = frozenset(label for label, n in counts.items() if n > 1 and n >= _STRATUM_SHARE * len(labels))
    return LabelShape((), (), frequent)


def json_object(label: str) -> dict[str, object] | None:
    """The label as a JSON object, or None when it is none."""
    if not label.lstrip().startswith("{"):
        return None
    try:
        return msgspec.json.decode(label, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None

"""The sample of one optimisation is drawn from the examples that there are."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rs_gateway.domain.errors import ConfigurationError, RouteSwitchError
from rs_pipelines.sample import TEACHER, CalibrationSample, Example, Split, Target, sample_of

MIN_PER_SPLIT = 10
"""Fewer rows on any side cannot prove a gain: exact McNemar at 2.5 % needs six rows won and none lost."""


class LabelShortageError(RouteSwitchError):
    """Too few labelled examples to search on and to prove anything with.

    Attributes:
        by_provenance, by_split: how many there are.
    """

    code = "no_labels"

    def __init__(
        self,
        target: Target,
        examples: Iterable[Example],
        *,
        min_per_split: int,
        door: "FeedbackDoor",
        own_answers: int = 0,
    ) -> None:
        examples, template_id = tuple(examples), target.template_id
        self.template_id = template_id
        self.by_provenance = Counter(e.provenance for e in examples)
        self.by_split = {split: sum(e.split is split for e in examples) for split in Split}
        origins = ", ".join(f"{n} {provenance}" for provenance, n in sorted(self.by_provenance.items()))
        sides = ", ".join(f"{split} {n}" for split, n in self.by_split.items())
        own = (
            f"Of {own_answers} more only {TEACHER}{target.model} says what is right: no model is tuned, or judged, by "
            "its own answers.\n"
            if own_answers
            else ""
        )
        super().__init__(
            f"Template {template_id!r} has {len(examples)} labelled examples ({origins or 'none'}; {sides}); "
            f"at least {min_per_split} in each of train, val and test are needed.\n{own}"
            "Label answers by the trace id in their `x-route-switch-trace-id` header, then ingest:\n"
            f"  {door.command}\n"
            'or import a file of lines such as {"variables": {...}, "expected": "..."}:\n'
            f"  route-switch dataset import {template_id} FILE.jsonl"
        )


@dataclass(frozen=True, slots=True)
class FeedbackDoor:
    """Where people send labels.

    Attributes:
        url: the gateway's address.
        needs_key: whether it lets nobody in without a client key.
    """

    url: str
    needs_key: bool

    @property
    def command(self) -> str:
        """A label as a command for the shell, with capitals where something is to be filled in."""
        label = {"trace_id": "TRACE_ID", "kind": "label", "value": "THE RIGHT OUTPUT", "source": "human"}
        key = "-H 'Authorization: Bearer CLIENT_KEY' " if self.needs_key else ""
        return f"curl -X POST {self.url}/v1/feedback {key}-H 'Content-Type: application/json' -d '{json.dumps(label)}'"


def draw_sample(
    target: Target,
    examples: Sequence[Example],
    *,
    max_records: int,
    seed: int,
    door: FeedbackDoor,
    min_per_split: int = MIN_PER_SPLIT,
    own_answers: int = 0,
) -> CalibrationSample:
    """At most `max_records` of the examples, with the splits in proportion, in an order that only `seed` decides.

    Where not all test rows find room, those that a person vouches for come first: the proof rests on them.
    A larger `max_records` with the same seed keeps the rows of a smaller one, as far as proportions allow.

    Args:
        door: where more labels can be sent, for the one who has too few.
        own_answers: inputs that have only a label of the target's own model, for the same one to know.

    Raises:
        LabelShortageError: fewer than `min_per_split` examples in a split.
        ConfigurationError: `max_records` has no room for `min_per_split` rows in each split.
    """
    sides = {split: [e for e in examples if e.split is split] for split in Split}
    if any(len(side) < min_per_split for side in sides.values()):
        raise LabelShortageError(target, examples, min_per_split=min_per_split, door=door, own_answers=own_answers)
    if max_records < max(1, min_per_split) * len(Split):
        raise ConfigurationError(
            f"A sample of at most {max_records} records has no room for {max(1, min_per_split)} in each of train, val "
            f"and test: allow at least {max(1, min_per_split) * len(Split)}."
        )
    quotas = _quotas({split: len(side) for split, side in sides.items()}, max_records, min_per_split)

    def place(example: Example) -> tuple[bool, str]:
        return example.split is Split.TEST and not example.is_vouched_for, _draw(seed, example)

    chosen = [example for split in Split for example in sorted(sides[split], key=place)[: quotas[split]]]
    return sample_of(target.template_id, target.model, tuple(chosen))


def _draw(seed: int, example: Example) -> str:
    return hashlib.sha256(f"{seed}:{example.example_id}".encode()).hexdigest()


def _quotas(counts: Mapping[Split, int], max_records: int, minimum: int) -> dict[Split, int]:
    """How many rows of each split to take: proportional, whole, and at least `minimum` each."""
    total = sum(counts.values())
    if total <= max_records:
        return dict(counts)
    exact = {split: max_records * n / total for split, n in counts.items()}
    quotas = {split: max(minimum, int(share)) for split, share in exact.items()}
    while (spare := max_records - sum(quotas.values())) != 0:
        step = 1 if spare > 0 else -1
        movable = [s for s in quotas if (quotas[s] < counts[s] if step > 0 else quotas[s] > minimum)]
        split = max(movable, key=lambda s: step * (exact[s] - quotas[s]))
        quotas[split] += step
    return quotas

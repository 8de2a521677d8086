"""What a test split can prove, by what is known of the live prompt."""

import math
from dataclasses import dataclass
from statistics import pstdev
from typing import Literal

from rs_pipelines.evaluator_sanity import EvaluatorSanity
from rs_pipelines.gate import GatePolicy
from rs_pipelines.live_probe import LiveProbe
from rs_pipelines.power import least_excluded_loss, smallest_excluded_loss, smallest_gain, smallest_mean_gain

_ASSUMED_SCORE = 0.5
_AGREEMENT = 0.5
"""Assumed of candidate and live version: halfway between unrelated and right wherever the live version is."""
_ASSUMED_SPREAD = 0.3


@dataclass(frozen=True, slots=True)
class Provable:
    """What the test split can prove with 80 % probability.

    Attributes:
        smallest: the smallest gain or, under the objective `cost`, the smallest `max_loss` that an equally good
            candidate satisfies; None when not even the largest gain is proven.
        best_case: the same if the candidate loses no row; None for graded scores.
        live_score: what it was computed from.
        basis: test and assumptions, in words.
    """

    kind: Literal["gain", "loss"]
    smallest: float | None
    best_case: float | None
    live_score: float
    basis: str


def provable(n_test: int, *, policy: GatePolicy, evaluator: EvaluatorSanity | None, live: LiveProbe | None) -> Provable:
    """What `n_test` rows (>= 0) can prove under a policy.

    Args:
        evaluator: None: scores are taken to be 0 and 1. live: None: a score is assumed.
    """
    values = live.values if live is not None else ()
    # A few rows that are all right do not make a prompt perfect.
    score = (sum(values) + 2 * _ASSUMED_SCORE) / (len(values) + 2)
    known = f"live score from {len(values)} rows" if values else f"a live score of {score:g} is assumed"
    noise = (live.noise if live is not None else None) or 0.0
    binary = (evaluator is None or evaluator.binary) and all(value in (0.0, 1.0) for value in values)
    agreement = _AGREEMENT
    # Noise alone changes half of `noise` to the better and half to the worse.
    own_changes = 2 * score * (1 - score)
    if own_changes > 0 and noise > 0:
        agreement = min(agreement, max(0.0, 1 - noise / own_changes))
    if binary:
        spread = math.sqrt(own_changes * (1 - agreement))
    else:
        spread = max(math.sqrt(2 * (1 - _AGREEMENT)) * (pstdev(values) if len(values) > 2 else _ASSUMED_SPREAD), noise)
    if policy.objective == "cost":
        smallest = smallest_excluded_loss(n_test, spread=spread) if n_test else None
        return Provable("loss", smallest, least_excluded_loss(n_test), score, f"normal approximation, {known}")
    if not n_test:
        return Provable("gain", None, None, score, known)
    if binary and not policy.min_gain:
        smallest = smallest_gain(n_test, live=score, agreement=agreement)
        best = smallest_gain(n_test, live=score, agreement=1.0)
        return Provable("gain", smallest, best, score, f"exact McNemar, {known}")
    mean_gain = smallest_mean_gain(n_test, spread=spread, min_gain=policy.min_gain)
    return Provable(
        "gain", mean_gain if mean_gain <= 1 - score else None, None, score, f"normal approximation, {known}"
    )

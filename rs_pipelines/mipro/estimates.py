"""How good each combination probably is, from row-level results paired with the live version's on the same rows."""

from collections.abc import Collection, Mapping
from statistics import fmean
from typing import TypeAlias

from rs_pipelines.mipro.records import LIVE, Candidate

RowValues: TypeAlias = Mapping[int, float | None]
"""Position in the study's row order -> score; None is missing."""

_PRIOR_ROWS = 20
"""How many rows the prior is worth: a gain seen on 20 rows is believed by half."""
_SWEEPS = 30


def paired_gain(values: RowValues, live: RowValues) -> tuple[float, int]:
    """Mean difference from the live version over the rows that both have, and their number."""
    pairs = [(value, live.get(row)) for row, value in values.items()]
    differences = [value - other for value, other in pairs if value is not None and other is not None]
    return (fmean(differences), len(differences)) if differences else (0.0, 0)


class GainEstimates:
    """Posterior mean of every candidate's gain over the live version.

    A candidate's gain is expected to be the sum of the effects of its instruction, its demo set and its output format,
    each shrunken towards 0 as if 20 more rows had shown no gain; what was measured moves the estimate from there, in
    proportion to its rows.
    Every candidate sees the same rows first, so differences are paired and the rows' difficulty cancels out.
    """

    def __init__(self, results: Mapping[Candidate, RowValues]) -> None:
        """
        Args:
            results: row-level results so far, the live version's among them.
        """
        live = results.get(LIVE, {})
        self._measured = {c: paired_gain(values, live) for c, values in results.items() if c != LIVE}
        self._effects: list[dict[int, float]] = [{}, {}, {}]
        for _ in range(_SWEEPS):
            for factor in range(len(self._effects)):
                self._effects[factor] = self._fitted(factor)

    def gain(self, candidate: Candidate) -> float:
        """Posterior mean of the difference from the live version, which itself is exactly 0."""
        if candidate == LIVE:
            return 0.0
        prior = sum(effects.get(level, 0.0) for effects, level in zip(self._effects, _levels(candidate), strict=True))
        measured, rows = self._measured.get(candidate, (0.0, 0))
        return (measured * rows + prior * _PRIOR_ROWS) / (rows + _PRIOR_ROWS)

    def _fitted(self, factor: int) -> dict[int, float]:
        """One Gauss-Seidel step of the ridge fit: the effect of each of the factor's levels given all other effects."""
        sums: dict[int, float] = {}
        weights: dict[int, int] = {}
        for candidate in sorted(self._measured):
            measured, rows = self._measured[candidate]
            levels = _levels(candidate)
            level = levels[factor]
            # What is live is the reference: its effect is 0 by definition.
            if level != 0:
                others = sum(self._effects[f].get(other, 0.0) for f, other in enumerate(levels) if f != factor)
                sums[level] = sums.get(level, 0.0) + rows * (measured - others)
                weights[level] = weights.get(level, 0) + rows
        return {level: total / (weights[level] + _PRIOR_ROWS) for level, total in sums.items()}


def _levels(candidate: Candidate) -> tuple[int, int, int]:
    return candidate.instruction, candidate.demo_set, candidate.output_format


def final_choice(
    results: Mapping[Candidate, RowValues], *, eligible: Collection[Candidate], lengths: Mapping[Candidate, int]
) -> Candidate:
    """The eligible candidate with the highest posterior mean; less than half a row apart, the shortest prompt.

    Args:
        results: row-level results of all candidates, the live version's among them.
        eligible: candidates evaluated on all validation rows; at least one.
        lengths: characters of each eligible candidate's prompt.
    """
    estimates = GainEstimates(results)
    gains = {candidate: estimates.gain(candidate) for candidate in eligible}
    half_a_row = 0.5 / max(len(results[candidate]) for candidate in eligible)
    near = [candidate for candidate, gain in gains.items() if gain > max(gains.values()) - half_a_row]
    return min(near, key=lambda candidate: (lengths[candidate], -gains[candidate], candidate))

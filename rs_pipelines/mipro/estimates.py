"""How good each combination probably is, from row-level results paired with the live version's on the same rows."""

from collections.abc import Collection, Mapping, Sequence
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

    A candidate's gain is expected to be the sum of an instruction's and a demo set's effect, each shrunken towards 0 as
    if 20 more rows had shown no gain; what was measured moves the estimate from there, in proportion to its rows.
    Every candidate sees the same rows first, so differences are paired and the rows' difficulty cancels out.
    """

    def __init__(self, results: Mapping[Candidate, RowValues]) -> None:
        """
        Args:
            results: row-level results so far, the live version's (0, 0) among them.
        """
        live = results.get(LIVE, {})
        self._measured = {c: paired_gain(values, live) for c, values in results.items() if c != LIVE}
        self._instructions: dict[int, float] = {}
        self._demo_sets: dict[int, float] = {}
        for _ in range(_SWEEPS):
            self._instructions = self._effects([(c.instruction, c, c.demo_set, self._demo_sets) for c in self._order()])
            self._demo_sets = self._effects([(c.demo_set, c, c.instruction, self._instructions) for c in self._order()])

    def gain(self, candidate: Candidate) -> float:
        """Posterior mean of the difference from the live version, which itself is exactly 0."""
        if candidate == LIVE:
            return 0.0
        prior = self._instructions.get(candidate.instruction, 0.0) + self._demo_sets.get(candidate.demo_set, 0.0)
        measured, rows = self._measured.get(candidate, (0.0, 0))
        return (measured * rows + prior * _PRIOR_ROWS) / (rows + _PRIOR_ROWS)

    def _order(self) -> list[Candidate]:
        return sorted(self._measured)

    def _effects(self, terms: Sequence[tuple[int, Candidate, int, Mapping[int, float]]]) -> dict[int, float]:
        """One Gauss-Seidel half-sweep of the ridge fit: each level's effect given the other factor's effects."""
        sums: dict[int, float] = {}
        weights: dict[int, int] = {}
        for level, candidate, other, others in terms:
            measured, rows = self._measured[candidate]
            # The live instruction and the live demos are the reference: their effect is 0 by definition.
            if level != 0:
                sums[level] = sums.get(level, 0.0) + rows * (measured - others.get(other, 0.0))
                weights[level] = weights.get(level, 0) + rows
        return {level: total / (weights[level] + _PRIOR_ROWS) for level, total in sums.items()}


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

"""What a search policy may see of a score table: one score at a time, every first one counted as a model call."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.score_tables import Resplit, ScoreTable
from rs_pipelines.mipro.records import Candidate


class CallsSpentError(Exception):
    """The policy asked for a score that its budget does not cover; it was not given."""


@dataclass(slots=True)
class Replay:
    """A table's validation rows, opened one score at a time.

    Positions 0 to n_rows - 1 are the rows of the split in its order. A score that was seen before is free, as an answer
    from a cache is.

    Attributes:
        max_calls: None is no limit.
    """

    table: ScoreTable
    split: Resplit
    max_calls: int | None = None
    seen: dict[Candidate, dict[int, float]] = field(default_factory=dict[Candidate, dict[int, float]])
    calls: int = 0
    evaluations: int = 0
    """Scores asked for, free ones included."""

    @property
    def n_rows(self) -> int:
        """Validation rows."""
        return len(self.split.val)

    @property
    def calls_left(self) -> int:
        """Calls that may still be made; as good as without limit when there is none."""
        return (1 << 30) if self.max_calls is None else self.max_calls - self.calls

    def score(self, candidate: Candidate, positions: Iterable[int]) -> list[float]:
        """Scores of a candidate on the rows at these positions. Raises CallsSpentError."""
        return [self._one(candidate, position) for position in positions]

    def test_mean(self, candidate: Candidate) -> float:
        """Mean score on the test rows; for judging, not for the policy."""
        scores = self.table.scores_of[candidate]
        return sum(scores[row] for row in self.split.test) / len(self.split.test)

    def _one(self, candidate: Candidate, position: int) -> float:
        self.evaluations += 1
        known = self.seen.setdefault(candidate, {})
        if position not in known:
            if self.calls_left < 1:
                raise CallsSpentError
            self.calls += 1
            known[position] = self.table.scores_of[candidate][self.split.val[position]]
        return known[position]


Policy: TypeAlias = Callable[[Replay, int], Candidate]
"""Spends calls on a replay and chooses. The integer is a seed; the same seed makes the same choice."""

"""ExactMatch: the answer is the expected text."""

from collections.abc import Sequence
from dataclasses import dataclass

from rs_gateway.domain.evaluation import Answer, Score
from rs_pipelines.evaluators.comparable import comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactMatch:
    """1 when output and expected text are the same, else 0; by default case and spacing do not count."""

    case_sensitive: bool = False
    whitespace_sensitive: bool = False
    ignore_punctuation: bool = False

    @property
    def name(self) -> str:
        """Name and version."""
        return "exact_match/1"

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """1 or 0 for each answer."""
        return [self._score(answer) for answer in answers]

    def _score(self, answer: Answer) -> Score:
        same = self._comparable(answer.output) == self._comparable(answer.expected)
        return Score(float(same), same, "" if same else "not the expected text", self.name)

    def _comparable(self, text: str) -> str:
        return comparable(
            text,
            case_sensitive=self.case_sensitive,
            whitespace_sensitive=self.whitespace_sensitive,
            ignore_punctuation=self.ignore_punctuation,
        )

"""KeywordMatch: which part of the keywords stands in the answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from rs_gateway.domain.evaluation import Answer, Score
from rs_pipelines.evaluators.comparable import comparable

_SEPARATORS = re.compile(r"[,;\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeywordMatch:
    """The share of keywords found in the output.

    Attributes:
        keywords: what to look for in every answer; when empty, the expected text holds them, separated by commas,
            semicolons or lines, or by spaces where there is none of these.
        whole_words: whether `art` must not be found in `start`.
        threshold: share of keywords from which an answer passes.
    """

    keywords: tuple[str, ...] = ()
    case_sensitive: bool = False
    whole_words: bool = True
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0

    @property
    def name(self) -> str:
        """Name and version."""
        return "keyword_match/1"

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """The share found, for each answer."""
        return [self._score(answer) for answer in answers]

    def _score(self, answer: Answer) -> Score:
        keywords = self._keywords(answer.expected)
        if not keywords:
            return Score(0.0, False, "the expected text holds no keyword", self.name)
        text = comparable(answer.output, case_sensitive=self.case_sensitive)
        missing = [keyword for keyword in keywords if not self._stands_in(keyword, text)]
        value = 1 - len(missing) / len(keywords)
        return Score(value, value >= self.threshold, f"missing: {', '.join(missing)}" if missing else "", self.name)

    def _keywords(self, expected: str) -> list[str]:
        if self.keywords:
            found: Sequence[str] = self.keywords
        else:
            found = _SEPARATORS.split(expected) if _SEPARATORS.search(expected) else expected.split()
        forms = (comparable(keyword, case_sensitive=self.case_sensitive) for keyword in found)
        return list(dict.fromkeys(form for form in forms if form))

    def _stands_in(self, keyword: str, text: str) -> bool:
        if not self.whole_words:
            return keyword in text
        # Not \b: a keyword may begin or end with what is no letter, as C++ does.
        return re.search(rf"(?<!\w){re.escape(keyword)}(?!\w)", text) is not None

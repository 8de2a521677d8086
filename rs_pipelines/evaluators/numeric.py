"""Numeric: the number in the answer is the expected one, within a tolerance."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from rs_gateway.domain.evaluation import Answer, Score

# Not inside a word or another number (A12, 1.2.3); thousands may be set off by commas.
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?![,\d])|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d{1,4})?"
)
_Tolerance = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeric:
    """1 when the number is near enough, else 0.

    Attributes:
        absolute, relative: allowed distance, in the number's unit and as a share of the expected number; the larger
            of the two counts.
        take: which number of the output counts; `only` refuses an output with several.
    """

    absolute: _Tolerance = 1e-9
    relative: _Tolerance = 1e-9
    take: Literal["first", "last", "only"] = "last"

    @property
    def name(self) -> str:
        """Name and version."""
        return "numeric/1"

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """1 or 0 for each answer."""
        return [self._score(answer) for answer in answers]

    def _score(self, answer: Answer) -> Score:
        expected = numbers_in(answer.expected)
        if len(expected) != 1:
            return Score(0.0, False, f"the expected text holds {len(expected)} numbers, not one", self.name)
        found = numbers_in(answer.output)
        if not found or (self.take == "only" and len(found) > 1):
            return Score(0.0, False, f"{len(found)} numbers in the answer", self.name)
        number = found[0] if self.take == "first" else found[-1]
        near = abs(number - expected[0]) <= max(self.absolute, self.relative * abs(expected[0]))
        return Score(float(near), near, "" if near else f"{number:g} instead of {expected[0]:g}", self.name)


def numbers_in(text: str) -> list[float]:
    """All finite numbers of a text, in their order."""
    found = (float(match[0].replace(",", "").replace("\u2212", "-")) for match in _NUMBER.finditer(text))
    return [number for number in found if math.isfinite(number)]

"""Regex: the answer matches a pattern, or what the pattern picks out of it is the expected text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Answer, Score
from rs_pipelines.evaluators.comparable import comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex:
    """1 when the output matches, else 0. With a group `(?P<answer>...)`, what it holds must be the expected text.

    Patterns run on Rust's regex engine, through Polars: its time is linear in the text whatever the pattern, so none
    can hang an evaluation as Python's `(a+)+$` would. It knows neither look-around nor back-references.

    Attributes:
        match: `search` finds the pattern anywhere, `full` wants it to be the whole output.
        max_chars: a longer output is wrong, unread.
    """

    pattern: str
    match: Literal["search", "full"] = "search"
    case_sensitive: bool = True
    max_chars: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20_000
    _captures: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        import polars as pl  # here, so that `check` and `template register` load it for nobody else

        try:
            groups = pl.Series([""]).str.extract_groups(self._compiled).struct.fields
            pl.Series([""]).str.contains(self._compiled, literal=False, strict=True)
        except pl.exceptions.PolarsError as error:
            raise ConfigurationError(f"Regex: the pattern {self.pattern!r} cannot be used: {error}") from error
        object.__setattr__(self, "_captures", "answer" in groups)

    @property
    def name(self) -> str:
        """Name and version."""
        return "regex/1"

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """1 or 0 for each answer."""
        import polars as pl

        texts = pl.Series([a.output[: self.max_chars] for a in answers], dtype=pl.String())
        matched = texts.str.contains(self._compiled, literal=False, strict=True).to_list()
        captured: list[str | None] = [None] * len(answers)
        if self._captures and answers:
            captured = texts.str.extract_groups(self._compiled).struct.field("answer").to_list()
        return [self._score(*row) for row in zip(answers, matched, captured, strict=True)]

    def _score(self, answer: Answer, matched: bool, captured: str | None) -> Score:
        if len(answer.output) > self.max_chars:
            return Score(0.0, False, f"longer than {self.max_chars} characters", self.name)
        if not matched:
            return Score(0.0, False, "does not match the pattern", self.name)
        if not self._captures:
            return Score(1.0, True, "", self.name)
        same = captured is not None and comparable(captured) == comparable(answer.expected)
        return Score(float(same), same, "" if same else f"the pattern picked {captured!r}"[:200], self.name)

    @property
    def _compiled(self) -> str:
        flags = "" if self.case_sensitive else "(?i)"
        return rf"{flags}\A(?:{self.pattern})\z" if self.match == "full" else f"{flags}{self.pattern}"

"""What a few answers of the live prompt say before a search: scores, noise, tokens, time."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rs_pipelines.scoring import RowScore


@dataclass(frozen=True, slots=True)
class LiveProbe:
    """The live prompt on a few validation rows, which the search would ask in any case.

    Attributes:
        values: scores of the rows that were answered; `asked` is how many were tried, as far as the budget went.
        noise: mean difference between the scores of two draws of the same answer; None: not measured, because nothing
            was asked twice, as at temperature 0, or nothing was answered twice.
        input_tokens, output_tokens: means; None where the provider did not say.
        seconds_per_call: at the configured concurrency; None when all answers were in the cache.
        error: of the last row without an answer.
        asked_twice: how many of the rows.
    """

    asked: int
    values: tuple[float, ...]
    noise: float | None
    input_tokens: float | None
    output_tokens: float | None
    seconds_per_call: float | None
    error: str | None = None
    asked_twice: int = 0


def probe_of(first: Sequence[RowScore], again: Sequence[RowScore], *, seconds_per_call: float | None) -> LiveProbe:
    """What two askings say; `again` holds another draw of the first rows, or nothing at temperature 0."""
    answered = [row for row in first if row.value is not None]
    pairs = [(a.value, b.value) for a, b in zip(first, again, strict=False)]
    drawn_twice = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    inputs = [row.input_tokens for row in answered if row.input_tokens is not None]
    outputs = [row.output_tokens for row in answered if row.output_tokens is not None]
    return LiveProbe(
        asked=sum(not row.left_out for row in first),
        values=tuple(row.value for row in answered if row.value is not None),
        noise=fmean(drawn_twice) if drawn_twice else None,
        input_tokens=fmean(inputs) if inputs else None,
        output_tokens=fmean(outputs) if outputs else None,
        seconds_per_call=seconds_per_call,
        error=next((row.error for row in reversed(first) if row.error is not None), None),
        asked_twice=len(again),
    )

"""Live figures as rows: which columns say what they are of, and how the figures themselves are stored."""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from rs_gateway.domain.stats import Figures, StatsKey, StatsRow

PLACE_COLUMNS = ("period_s", "start_s", "template_id", "version", "combination_id", "provider", "model", "endpoint")
"""What makes a row: its period and whose figures it holds. '' and 0 stand for "none"."""

Place: TypeAlias = tuple[int, int, str, int, str, str, str, str]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Figures)


def place_of(row: StatsRow) -> Place:
    """The values of PLACE_COLUMNS."""
    key = row.key
    return (
        *(row.period_s, row.start_s, key.template_id or "", key.version or 0, key.combination_id or ""),
        *(key.provider or "", key.model or "", key.endpoint),
    )


def stats_row(row: Sequence[object]) -> StatsRow:
    """A row of PLACE_COLUMNS and the stored figures. Raises msgspec.MsgspecError: they cannot be read."""
    period_s, start_s, template_id, version, combination_id, provider, model, endpoint, figures = row
    assert isinstance(period_s, int)
    assert isinstance(start_s, int)
    assert isinstance(version, int)
    assert isinstance(figures, bytes)
    key = StatsKey(
        template_id=_or_none(template_id),
        version=version or None,
        combination_id=_or_none(combination_id),
        provider=_or_none(provider),
        model=_or_none(model),
        endpoint=str(endpoint),
    )
    return StatsRow(period_s, start_s, key, decoded(figures))


def encoded(figures: Figures) -> bytes:
    """Figures as they are stored."""
    return _encoder.encode(figures)


def decoded(figures: bytes) -> Figures:
    """Stored figures. Raises msgspec.MsgspecError."""
    return _decoder.decode(figures)


def _or_none(text: object) -> str | None:
    return str(text) if text else None

"""Moments as people write them: an hour ago, a day, a time."""

import re
from datetime import UTC, datetime

from rs_gateway.domain.errors import InvalidRequestError, shown

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def instant_s(text: str, *, now_s: float) -> float:
    """Seconds since the epoch of `2h` (so long ago), `2026-05-01` or `2026-05-01T12:00` (UTC unless it says).

    Raises:
        InvalidRequestError: it is neither.
    """
    ago = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if ago is not None:
        return now_s - int(ago[1]) * _SECONDS[ago[2]]
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            f"{shown(text)} is no moment: write how long ago, as 30m, 2h or 7d, or a time, as 2026-05-01T12:00 (UTC)."
        ) from None

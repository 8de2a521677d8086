"""How long to wait before another try."""

from collections.abc import Callable

_FIRST_S = 0.25
_MAX_S = 8.0


class Backoff:
    """Full jitter (Brooker, AWS Architecture Blog 2015), never sooner than the provider asked for.

    Args:
        draw: uniform in [0, 1).
    """

    def __init__(self, *, draw: Callable[[], float]) -> None:
        self._draw = draw

    def pause_s(self, attempt: int, *, retry_after_s: float | None) -> float:
        """Seconds to wait after try number `attempt`, counted from 0."""
        jitter_s = self._draw() * min(_MAX_S, _FIRST_S * 2**attempt)
        return jitter_s + retry_after_s if retry_after_s is not None else jitter_s

    @staticmethod
    def is_told_to_wait(retry_after_s: float | None) -> bool:
        """Whether a provider asked for a pause that is better spent asking somebody else."""
        return (retry_after_s or 0.0) > _FIRST_S

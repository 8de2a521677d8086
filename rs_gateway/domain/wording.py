"""How messages for people count things and suggest names."""

import difflib
from collections.abc import Iterable


def counted(n: int, one: str, several: str | None = None) -> str:
    """`1 row`, `2 rows`, `1,000 rows`; `several` where it is not `one` with an s."""
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, whatever its case; None where none is close."""
    names = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), names, n=1)
    return names[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence to end with, and the space before it: ` Did you mean 'support'?`; empty where no name is close."""
    meant = closest(name, known)
    return "" if meant is None else f" Did you mean {meant!r}?"

"""Whether a command said what its document shows: words, not figures, ids, times, addresses or the width of a table."""

import re
from collections.abc import Iterable

_DRAWN = re.compile(r"[\u2500-\u257f]+")
_CHANGING = re.compile(
    r"""
      \d{4}-\d\d-\d\d[T ][\d:.]+(?:\+00:00|Z|[ ]UTC)?    # a moment
    | 127\.0\.0\.1:\d+                                    # an address
    | \b[0-9A-HJKMNP-TV-Z]{26}\b                          # a trace id
    | \b(?=[0-9a-f]*\d)[0-9a-f]{8,64}\b                   # another id, or a hash
    | (?<!HTTP/1\.1[ ])(?<!ersion[ ])(?<!version:[ ])(?<![\w.-])[-+<>]*\d[\d,]*(?:\.\d+)?(?:e-?\d+)?%?(?![\w-])
    """,
    re.VERBOSE,
)
_OMITTED = "..."
_SHORTENED = "…"


def first_line_not_said(shown: Iterable[str], output: str) -> str | None:
    """The first shown line that the output does not have, in order; None when it has all of them.

    In a shown line, `...` stands for anything, and so does `…`, where a table cuts a word.
    """
    said = [_plain(line) for line in output.splitlines()]
    for line in shown:
        wanted = _plain(line)
        if not wanted or wanted == _OMITTED:
            continue
        pattern = re.compile("(?:.*)".join(re.escape(part) for part in re.split(r"\s*(?:\.\.\.|…)\s*", wanted)))
        place = next((n for n, one in enumerate(said) if pattern.fullmatch(one)), None)
        if place is None:
            return line
        said = said[place + 1 :]
    return None


def _plain(line: str) -> str:
    return " ".join(_CHANGING.sub("#", _DRAWN.sub(" ", line)).split())

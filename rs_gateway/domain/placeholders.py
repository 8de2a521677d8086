"""Texts with placeholders: taken apart, and rendered by the one function that serving and optimising share."""

import re
from collections.abc import Mapping
from functools import lru_cache

from rs_gateway.domain.errors import MissingVariablesError, TemplateInvalidError

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
"""What a variable may be called."""


@lru_cache(maxsize=4096)
def parse_text(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split a text into (literal, placeholder name or None) parts.

    `{name}` is a placeholder, `{{` and `}}` are literal braces, and nothing else is special. A brace that starts no
    placeholder (as in a JSON example) is refused rather than guessed at.

    Raises:
        TemplateInvalidError: a single brace, or something between braces that is no identifier.
    """
    parts: list[tuple[str, str | None]] = []
    literal: list[str] = []
    position = 0
    while (found := _next_brace(text, position)) != -1:
        literal.append(text[position:found])
        brace = text[found]
        if text[found : found + 2] == brace * 2:
            literal.append(brace)
            position = found + 2
            continue
        end = text.find("}", found)
        name = text[found + 1 : end] if end != -1 else ""
        if brace == "}" or not IDENTIFIER.match(name):
            near = text[max(0, found - 20) : found + 20]
            raise TemplateInvalidError(
                f"A single {brace!r} near {near!r} starts no placeholder: write {brace * 2!r} for a literal brace."
            )
        parts.append(("".join(literal), name))
        literal.clear()
        position = end + 1
    literal.append(text[position:])
    if any(literal):
        parts.append(("".join(literal), None))
    return tuple(parts)


def _next_brace(text: str, position: int) -> int:
    opening, closing = text.find("{", position), text.find("}", position)
    return max(opening, closing) if -1 in (opening, closing) else min(opening, closing)


def names_in(text: str) -> frozenset[str]:
    """Names of the placeholders of a text. Raises TemplateInvalidError."""
    return frozenset(name for _, name in parse_text(text) if name is not None)


def escape_text(text: str) -> str:
    """Double the braces of `text`, so that it renders as itself."""
    return text.replace("{", "{{").replace("}", "}}")


def render(text: str, variables: Mapping[str, str], *, template_id: str) -> str:
    """Insert each value once, verbatim; values are never re-scanned for placeholders.

    Raises:
        MissingVariablesError: names all of the missing ones.
    """
    parts = parse_text(text)
    missing = [name for _, name in parts if name is not None and name not in variables]
    if missing:
        raise MissingVariablesError(template_id, missing)
    return "".join([literal if name is None else literal + variables[name] for literal, name in parts])

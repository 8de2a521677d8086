"""Text in the form in which two answers are compared."""

import unicodedata


def comparable(
    text: str, *, case_sensitive: bool = False, whitespace_sensitive: bool = False, ignore_punctuation: bool = False
) -> str:
    """The text without the differences that do not count. Unicode compatibility forms (NFKC) never count."""
    text = unicodedata.normalize("NFKC", text)
    if not case_sensitive:
        text = unicodedata.normalize("NFKC", text.casefold())
    if ignore_punctuation:
        text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    return text if whitespace_sensitive else " ".join(text.split())

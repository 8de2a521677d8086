"""Shorter entries in a page's table of contents; a hook of MkDocs.

Beneath `gateway`, the key `gateway.addr` is listed as `addr`: its heading, and so its anchor, has the whole path. So it
is with commands beneath their group.
"""

from collections.abc import Iterable
from typing import Any

from mkdocs.structure.pages import Page
from mkdocs.structure.toc import AnchorLink


def on_page_content(html: str, *, page: Page, **_: Any) -> str:
    """Leave out of each entry what the one above it says already."""
    _shorten(page.toc)
    return html


def _shorten(entries: Iterable[AnchorLink]) -> None:
    for entry in entries:
        for child in entry.children:
            for separator in (".", " "):
                child.title = child.title.removeprefix(f"{entry.title}{separator}")
        _shorten(entry.children)

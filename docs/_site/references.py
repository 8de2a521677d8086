"""Which pages are written from the code, and by what."""

from collections.abc import Callable, Mapping
from pathlib import Path

from docs._site.command_line import command_line_page
from docs._site.configuration import configuration_page
from docs._site.http_api import http_api_page

DOCS = Path(__file__).parents[1]
PAGES: Mapping[Path, Callable[[], str]] = {
    DOCS / "reference/http-api.md": http_api_page,
    DOCS / "reference/configuration.md": configuration_page,
    DOCS / "reference/command-line.md": command_line_page,
}


def write_pages() -> list[Path]:
    """Write every page anew; which of them have changed."""
    changed: list[Path] = []
    for path, page in PAGES.items():
        text = page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed

"""Files of the repository that the documentation links to, on the site too; a hook of MkDocs.

A page of `docs/` links to `../README.md` or `../deploy/compose.yaml` as its readers on a Git host expect it. On the
site, each file that is linked to has a place under `repository/`, and the link leads there. Links to what does not
exist stay as they are, so that MkDocs reports them.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

DOCS, ELSEWHERE = "docs", "repository"
_TARGET = re.compile(r"\]\(\s*<?([^)\s>]+)")
_FOLDER_PAGES = ("README.md", "index.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in patterns of the navigation, and see every link before MkDocs does."""
    config.nav = _unfolded(config.nav, Path(config.docs_dir))
    config.markdown_extensions.append(_LINKS)  # pyright: ignore[reportArgumentType]  # MkDocs takes objects too
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside `docs/`, and what those pages link to in turn."""
    root, in_nav = Path(config.docs_dir).parent, set(_leaves(config.nav))
    waiting = [file.src_uri for file in files.documentation_pages()]
    waiting += [uri for uri in in_nav if files.get_file_from_path(uri) is None]
    while waiting:
        uri = waiting.pop()
        if files.get_file_from_path(uri) is None and (root / _in_repository(uri)).is_file():
            level = InclusionLevel.UNDEFINED if uri in in_nav else InclusionLevel.NOT_IN_NAV
            source = str(root / _in_repository(uri))
            files.append(File.generated(config, uri, abs_src_path=source, inclusion=level))
        elif uri.startswith(f"{ELSEWHERE}/"):
            continue
        if uri.endswith(".md"):
            text = (root / _in_repository(uri)).read_text(encoding="utf-8")
            targets = (_on_site(link, uri, root) for link in _TARGET.findall(text))
            waiting += [t for t in targets if t is not None and t.startswith(f"{ELSEWHERE}/")]
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Tell the link processor which page it is on."""
    _LINKS.page, _LINKS.root = page.file.src_uri, Path(config.docs_dir).parent
    return markdown


class _Links(Treeprocessor):
    def __init__(self, owner: "_LinkExtension") -> None:
        self._owner = owner

    def run(self, root: Element) -> None:
        for element in root.iter():
            attribute = {"a": "href", "img": "src"}.get(element.tag)
            link = element.get(attribute) if attribute else None
            target = _on_site(link, self._owner.page, self._owner.root) if link else None
            if attribute and link and target is not None:
                here = posixpath.dirname(self._owner.page)
                parts = urlsplit(link)
                element.set(attribute, urlunsplit(("", "", posixpath.relpath(target, here), "", parts.fragment)))


class _LinkExtension(Extension):
    page = ""
    root = Path()

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 the name is the library's
        # After the links were read (20), before MkDocs checks and translates them (0).
        md.treeprocessors.register(_Links(self), "repository_files", 1)


_LINKS = _LinkExtension()


def _in_repository(uri: str) -> str:
    """Where a file of the site lies in the repository."""
    return uri.removeprefix(f"{ELSEWHERE}/") if uri.startswith(f"{ELSEWHERE}/") else f"{DOCS}/{uri}"


def _on_site(link: str, page: str, root: Path) -> str | None:
    """Where on the site the target of a link lies; None: a link that MkDocs understands, or that leads nowhere."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_in_repository(page)), unquote(parts.path)))
    if (root / path).is_dir():
        path = next((f"{path}/{name}" for name in _FOLDER_PAGES if (root / path / name).is_file()), path)
    if path.startswith("../") or not (root / path).is_file():
        return None
    return path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else f"{ELSEWHERE}/{path}"


def _unfolded(nav: Any, docs: Path) -> Any:
    """The navigation with each pattern replaced by the pages that match it, in the order of their names."""
    if isinstance(nav, list):
        items: list[Any] = []
        for item in nav:
            is_pattern = isinstance(item, str) and "*" in item
            items += _matching(item, docs) if is_pattern else [_unfolded(item, docs)]
        return items
    if isinstance(nav, dict):
        return {title: _unfolded(item, docs) for title, item in nav.items()}
    return nav


def _matching(pattern: str, docs: Path) -> list[str]:
    return sorted(path.relative_to(docs).as_posix() for path in docs.glob(pattern))


def _leaves(nav: Any) -> Iterator[str]:
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        if isinstance(item, str):
            yield item
        else:
            yield from _leaves(item)

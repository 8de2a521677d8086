"""The documentation as a site: whole, strict, its own, and true to the code that it describes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs._site.references import PAGES
from rs_gateway.setting_sections import RetentionSettings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=project,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    site = tmp_path_factory.mktemp("site")
    built = build(ROOT, site)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return site


class Loads(HTMLParser):
    """What a browser fetches by itself when it opens the page, and the anchors that the page has."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors.add(attributes.get("id") or "")
        if tag in ("script", "img", "iframe", "source"):
            self.fetched.append(attributes.get("src") or "")
        if tag == "link" and attributes.get("rel") != "canonical":
            self.fetched.append(attributes.get("href") or "")


def read(page: Path) -> Loads:
    loads = Loads()
    loads.feed(page.read_text(encoding="utf-8"))
    return loads


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()
    assert (site / "search/search_index.json").is_file()


def test_no_page_fetches_anything_from_somebody_elses_server(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    fetched = {address for page in pages for address in read(page).fetched}
    assert {address for address in fetched if re.match(r"(https?:)?//", address)} == set()


def test_a_file_outside_the_documentation_that_a_page_links_to_is_on_the_site(site: Path) -> None:
    assert 'href="repository/index.html"' in (site / "index.html").read_text()
    readme = (site / "repository/index.html").read_text()
    assert 'href="../guides/performance.html"' in readme
    assert 'src="../images/lineage.png"' in readme
    notebook = site / "repository/notebooks/01_traces.ipynb"
    assert notebook.read_bytes() == (ROOT / "notebooks/01_traces.ipynb").read_bytes()


def test_links_that_lead_nowhere_fail_the_build(tmp_path: Path) -> None:
    for name in ("README.md", "CHANGELOG.md"):
        (tmp_path / name).write_text("# A file of the repository\n")
    gone = ["no-such-page.md", "routing.md#no-such-anchor", "../../deploy/no-such.yaml", "../../README.md#no-such-part"]
    (tmp_path / "docs/guides").mkdir(parents=True)
    (tmp_path / "docs/guides/routing.md").write_text("\n\n".join(["# Routing", *(f"[gone]({link})" for link in gone)]))
    settings = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[0]
    settings = settings.replace("  - docs/_site/", f"  - {DOCS}/_site/")
    (tmp_path / "mkdocs.yml").write_text(f"{settings}\nnav: [guides/routing.md, repository/CHANGELOG.md]\n")

    built = build(tmp_path, tmp_path / "site")

    assert built.returncode != 0
    warnings = [line for line in built.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == len(gone), built.stderr
    for link in gone:
        assert any(link.split("#")[-1].split("/")[-1] in line for line in warnings), (link, warnings)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_reference_says_what_the_code_says(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path](), "run `make docs`, or `python -m docs._site --references`"


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"^\| \[\d{4}\]\((\S+)\) \| (.+) \|$", (DOCS / "decisions/README.md").read_text(), re.MULTILINE)
    titles = {path.name: path.read_text().split("\n")[0] for path in sorted(DOCS.glob("decisions/0*.md"))}
    assert listed == [(name, title.removeprefix(f"# {name[:4]} ")) for name, title in titles.items()]


def fences() -> Iterator[tuple[str, str]]:
    for path in sorted(DOCS.rglob("*.md")):
        for line in re.findall(r"^ *```(\S.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield path.name, line


def test_blocks_of_code_name_their_language_and_nothing_else() -> None:
    """Of more words the site's Markdown makes running text, and of what follows nobody knows what."""
    assert [(name, words) for name, words in fences() if not re.fullmatch(r"[\w+-]+", words)] == []


def test_the_configuration_reference_has_every_key() -> None:
    text = (DOCS / "reference/configuration.md").read_text()
    headings = set(re.findall(r"^### `(.+)`$", text, re.MULTILINE))
    assert {"data_dir", "model_providers.<name>.api_key", "gateway.combinations[].weight"} <= headings
    assert {f"privacy.retention.{name}" for name in RetentionSettings.model_fields} <= headings
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(headings) > 100
    assert text.count("```yaml") == len(sections)

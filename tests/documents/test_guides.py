"""The pages on migrating and the guides can be followed as they stand."""

from pathlib import Path

import pytest

from tests.documents.following import GUIDES, MIGRATIONS, follow

pytestmark = pytest.mark.e2e


@pytest.mark.usefixtures("have_curl")
@pytest.mark.parametrize("document", MIGRATIONS)
def test_whoever_comes_from_elsewhere_can_do_all_that_is_said(document: str, tmp_path: Path) -> None:
    follow(document, folder=tmp_path)


@pytest.mark.usefixtures("have_curl")
@pytest.mark.parametrize("guides", GUIDES, ids=" ".join)
def test_guides_can_be_followed_one_after_the_other(
    guides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-...")
    follow(*guides, folder=tmp_path, first="source .venv/bin/activate")

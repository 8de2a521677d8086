"""The guides can be followed as they stand."""

from pathlib import Path

import pytest

from tests.documents.following import GUIDES, follow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]  # the longest round of guides types sixty commands


@pytest.mark.usefixtures("have_curl")
@pytest.mark.parametrize("guides", GUIDES, ids=" ".join)
def test_guides_can_be_followed_one_after_the_other(
    guides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-...")
    follow(*guides, folder=tmp_path, first="source .venv/bin/activate")

"""The pages on migrating can be followed as they stand."""

from pathlib import Path

import pytest

from tests.documents.following import MIGRATIONS, follow

pytestmark = pytest.mark.e2e


@pytest.mark.usefixtures("have_curl")
@pytest.mark.parametrize("document", MIGRATIONS)
def test_whoever_comes_from_elsewhere_can_do_all_that_is_said(document: str, tmp_path: Path) -> None:
    follow(document, folder=tmp_path)

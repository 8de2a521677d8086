"""README.md and the quick start can be followed as they stand: all that they have a reader type is run, in order."""

from pathlib import Path

import pytest

from tests.documents.following import BEGINNINGS, GUIDES, MIGRATIONS, NOT_FOLLOWED, NOT_RUN, SET_UP, follow
from tests.documents.reader import ROOT

pytestmark = pytest.mark.e2e


@pytest.mark.usefixtures("have_curl")
@pytest.mark.parametrize("document", BEGINNINGS)
def test_a_newcomer_can_do_all_that_is_said(document: str, tmp_path: Path) -> None:
    follow(document, folder=tmp_path)


def test_every_command_that_is_left_out_is_one_of_a_document_that_is_followed() -> None:
    followed = {*BEGINNINGS, *MIGRATIONS, *(guide for guides in GUIDES for guide in guides)}
    assert {one.document for one in NOT_RUN} <= followed


def test_every_page_is_followed_or_it_is_said_why_not() -> None:
    pages = {str(page.relative_to(ROOT)) for folder in ("docs", "docs/guides") for page in (ROOT / folder).glob("*.md")}
    followed = {*BEGINNINGS, *(guide for guides in GUIDES for guide in guides)}
    assert pages <= followed | NOT_FOLLOWED.keys()
    assert not followed & NOT_FOLLOWED.keys()


def test_the_set_up_that_is_left_out_is_run_by_ci() -> None:
    lines = {line.strip() for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()}
    assert {one.command for one in NOT_RUN if one.reason == SET_UP} <= lines

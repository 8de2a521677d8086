"""What the hash of a version stands for, and which ids a template may have."""

from dataclasses import replace

import pytest

from rs_gateway.domain.errors import TemplateInvalidError
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import Demo, PromptText, check_template_id


def test_the_hash_is_of_what_is_served_and_of_nothing_else() -> None:
    one = PromptText("i", "u", (Demo("a", "b", "example-1"),))
    assert one.content_hash == PromptText("i", "u", (Demo("a", "b"),)).content_hash
    assert one.content_hash != PromptText("i", "u", (Demo("a", "c"),)).content_hash
    assert PromptText("i", None).content_hash != PromptText("i", "").content_hash


@pytest.mark.parametrize("template_id", ["", ".", "..", "a/b", "-a", "a b", "a\n", "ä", "x" * 101])
def test_a_template_id_that_could_leave_its_directory_is_refused(template_id: str) -> None:
    with pytest.raises(TemplateInvalidError):
        check_template_id(template_id)


def test_the_hash_covers_the_output_format_and_is_the_one_of_old_for_bare_answers() -> None:
    bare = PromptText("Find it.", "{message}", (Demo("a", "b"),))
    assert bare.content_hash == "de7ad7bd2478820bdb267012522bef10285bcb49d9f7c1a9bb06bcacfa97c088"
    hashes = {replace(bare, output=output).content_hash for output in OutputFormat}
    assert len(hashes) == 3

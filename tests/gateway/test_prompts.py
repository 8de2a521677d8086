"""Rendering: values go in once, verbatim; what is no placeholder is refused, never guessed at."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.errors import MissingVariablesError, TemplateInvalidError
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import (
    Demo,
    PromptText,
    check_template_id,
    escape_text,
    parse_text,
    render,
    render_messages,
)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@given(st.text())
def test_escaped_text_renders_as_itself(text: str) -> None:
    assert render(escape_text(text), {}, template_id="t") == text


@given(st.lists(st.tuples(st.text(), names), max_size=5), st.text(), st.dictionaries(names, st.text()))
def test_values_are_inserted_verbatim_and_never_scanned_again(
    parts: list[tuple[str, str]], tail: str, values: dict[str, str]
) -> None:
    values = {**{name: "{other} {{" for _, name in parts}, **values}
    text = "".join(escape_text(literal) + "{" + name + "}" for literal, name in parts) + escape_text(tail)
    assert render(text, values, template_id="t") == "".join(literal + values[n] for literal, n in parts) + tail


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{a b}", '{"city": "x"}', "{0}", "{a", "a}", "{{a}", "{a.b}", "{a!r}"]
)
def test_a_brace_that_starts_no_placeholder_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(TemplateInvalidError, match="literal brace"):
        parse_text(text)


def test_every_missing_variable_of_all_texts_is_named() -> None:
    text = PromptText("{a} {b}", "{c}")
    with pytest.raises(MissingVariablesError) as caught:
        render_messages(text, {"b": "x"}, [], template_id="t")
    assert caught.value.missing == ("a", "c")


def test_an_empty_instruction_sends_no_system_message() -> None:
    assert render_messages(PromptText("", "{q}"), {"q": "hi"}, [], template_id="t") == (
        {"role": "user", "content": "hi"},
    )


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

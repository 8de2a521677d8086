"""Values go in once, verbatim; what is no placeholder is refused, never guessed at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.errors import TemplateInvalidError
from rs_gateway.domain.placeholders import escape_text, parse_text, render

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

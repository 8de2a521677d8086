"""Whatever a person writes, reading it as YAML gives values or words, and ends."""

import pytest

from rs_gateway.yaml_text import YamlTextError, parse_yaml


@pytest.mark.parametrize(
    "text",
    ['!!int ""', '!!float ""', '!!int "-"', '"\\UFFFFFFFF"', f'!!float "{":".join("1" * 400)}"', "!!timestamp x"],
)
def test_a_scalar_that_its_tag_does_not_allow_is_refused_in_words(text: str) -> None:
    with pytest.raises(YamlTextError, match="no valid YAML"):
        parse_yaml(f"api: {{port: {text}}}")


@pytest.mark.parametrize("text", ["&a [*a]", "&a {b: {c: *a}}"])
def test_an_alias_within_what_it_stands_for_is_refused(text: str) -> None:
    with pytest.raises(YamlTextError, match="within what it stands for"):
        parse_yaml(text)


def test_aliases_that_stand_for_more_than_memory_holds_are_refused() -> None:
    lines = ["n0: &n0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"n{n}: &n{n} [{', '.join([f'*n{n - 1}'] * 10)}]" for n in range(1, 30)]
    with pytest.raises(YamlTextError, match="stand for more than 1,000,000 values"):
        parse_yaml("\n".join(lines))


def test_aliases_and_merged_keys_are_read() -> None:
    text = "one: &one {a: 1}\ntwo: {<<: *one, b: 2}\nthree: [*one, *one]\n"
    assert parse_yaml(text) == {"one": {"a": 1}, "two": {"a": 1, "b": 2}, "three": [{"a": 1}, {"a": 1}]}
    assert parse_yaml("") is None

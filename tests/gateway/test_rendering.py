"""What a provider is sent for a version."""

import pytest

from rs_gateway.domain.errors import MissingVariablesError
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.rendering import render_messages


def test_every_missing_variable_of_all_texts_is_named() -> None:
    text = PromptText("{a} {b}", "{c}")
    with pytest.raises(MissingVariablesError) as caught:
        render_messages(text, {"b": "x"}, [], template_id="t")
    assert caught.value.missing == ("a", "c")


def test_an_empty_instruction_sends_no_system_message() -> None:
    assert render_messages(PromptText("", "{q}"), {"q": "hi"}, [], template_id="t") == (
        {"role": "user", "content": "hi"},
    )

"""Versions that show each request the demos most like it: the same whoever renders them, and no cost to the others."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.errors import TemplateInvalidError
from rs_gateway.domain.nearest import NearestIndex
from rs_gateway.domain.prompts import Demo, PromptTemplate, PromptText, check_text, render_messages
from tests import upstream as wire
from tests.running import ORIGIN, running_gateway
from tests.upstream import Upstream

TOPICS = ("refund of my order", "parcel that never came", "password does not work", "invoice with a wrong address")
DEMOS = tuple(Demo(topic, f"label {n}", f"e{n}") for n, topic in enumerate(TOPICS))
TEXT = PromptText("Classify.", "{message}", DEMOS, nearest=2)
TEMPLATE = PromptTemplate("support", "Support", ("message",), {"name": "ExactMatch"})

words = st.lists(st.sampled_from("abcdefgh"), max_size=6).map(" ".join)


def shown(text: PromptText, message: str) -> list[str]:
    """User turns of the demos that a request is shown."""
    rendered = render_messages(text, {"message": message}, (), template_id="support")
    return [str(m["content"]) for m in rendered if m["role"] == "user"][:-1]


def test_the_demo_most_like_the_input_comes_last() -> None:
    assert shown(TEXT, "my parcel never came, where is it?")[-1] == TOPICS[1]
    assert shown(TEXT, "I forgot the PASSWORD")[-1] == TOPICS[2]
    assert len(shown(TEXT, "anything")) == 2


def test_each_demo_keeps_its_own_answer() -> None:
    rendered = render_messages(TEXT, {"message": "a refund, please"}, (), template_id="support")
    assert rendered[-3:-1] == (
        {"role": "user", "content": TOPICS[0]},
        {"role": "assistant", "content": "label 0"},
    )


def test_without_a_user_text_the_clients_last_words_count() -> None:
    text = replace(TEXT, user=None)
    parts = [{"type": "text", "text": "the invoice is wrong"}]
    messages = ({"role": "user", "content": "refund"}, {"role": "user", "content": parts})
    rendered = render_messages(text, {}, messages, template_id="support")
    assert rendered[3] == {"role": "user", "content": TOPICS[3]}
    assert len(render_messages(text, {}, ({"role": "assistant", "content": "x"},), template_id="support")) == 1 + 4 + 1


@given(st.lists(words, min_size=1, max_size=12), words, st.integers(1, 12))
def test_nearest_are_different_texts_and_a_text_is_nearest_to_itself(texts: list[str], asked: str, count: int) -> None:
    index = NearestIndex(texts)
    found = index.nearest(asked, count)
    assert len(found) == len(set(found)) == min(count, len(texts))
    assert found == index.nearest(asked, count)
    for text in texts:
        if text:
            best = texts[index.nearest(text, 1)[0]]
            assert set(best.split()) == set(text.split()) or set(best.split()) & set(text.split())


@given(st.lists(words, min_size=1, max_size=12), words)
def test_more_demos_are_the_same_ones_and_some_before_them(texts: list[str], asked: str) -> None:
    index = NearestIndex(texts)
    for count in range(1, len(texts)):
        assert index.nearest(asked, count + 1)[1:] == index.nearest(asked, count)


@pytest.mark.parametrize("nearest", [-1, 4, 9])
def test_a_number_that_leaves_nothing_to_choose_is_refused(nearest: int) -> None:
    with pytest.raises(TemplateInvalidError, match=rf"`nearest` is {nearest}, and there are 4 demos"):
        check_text(replace(TEXT, nearest=nearest), template=TEMPLATE)


def test_it_belongs_to_the_texts_identity_and_versions_without_it_keep_theirs() -> None:
    assert TEXT.content_hash != replace(TEXT, nearest=0).content_hash != replace(TEXT, nearest=3).content_hash
    assert replace(TEXT, nearest=0).content_hash == PromptText("Classify.", "{message}", DEMOS).content_hash


def test_a_pool_is_stored_read_back_and_served(tmp_path: Path) -> None:
    registry = PromptFiles(tmp_path / "data/prompts")
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    assert registry.get("support").versions[1].text == TEXT
    with Upstream([wire.answers("label 2")]).running() as up:
        combination = {"id": "c", "template_id": "support", "model": "m", "provider": "p"}
        configuration = {
            "model_providers": {"p": {"base_url": up.base_url}},
            "gateway": {"combinations": [combination]},
        }
        with running_gateway(tmp_path, configuration) as gateway:
            body = {"model": "support", "messages": [], "variables": {"message": "password?"}}
            assert gateway.ask(body).status_code == 200
    sent = [message["content"] for message in up.requests[0]["messages"]]
    assert sent[-3:] == [TOPICS[2], "label 2", "password?"]
    assert len(sent) == 1 + 2 * 2 + 1

"""Versions that show each request the demos most like it: the same whoever renders them, and no cost to the others."""

import os
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.errors import TemplateInvalidError
from rs_gateway.domain.nearest import NearestIndex, terms_of
from rs_gateway.domain.prompts import Demo, PromptTemplate, PromptText, check_text
from rs_gateway.domain.rendering import render_messages
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


@pytest.mark.parametrize(
    ("pool", "asked", "best"),
    [
        (("我要退款", "包裹还没有到", "密码不对", "发票地址错了"), "我的包裹在哪里", 1),
        (("返金してください", "荷物が届きません", "パスワードを忘れた", "請求書の住所"), "ﾊﾟｽﾜｰﾄﾞが違う", 2),
        (("환불해 주세요", "택배가 오지 않아요", "비밀번호가 틀려요", "청구서 주소"), "택배는 어디에", 1),
        (("ขอเงินคืน", "พัสดุยังไม่มา", "รหัสผ่านไม่ถูกต้อง", "ที่อยู่ในใบแจ้งหนี้ผิด"), "ลืมรหัสผ่าน", 2),
        (("ສົ່ງເງິນຄືນ", "ພັດສະດຸບໍ່ມາ", "ລະຫັດຜ່ານຜິດ"), "ລືມລະຫັດຜ່ານ", 2),
        (("សូមសងប្រាក់", "កញ្ចប់មិនទាន់មក", "ពាក្យសម្ងាត់ខុស"), "កញ្ចប់នៅឯណា", 1),
        (("ငွေပြန်အမ်းပါ", "ပစ္စည်းမရောက်သေးဘူး", "စကားဝှက်မှားနေတယ်"), "စကားဝှက်မေ့နေတယ်", 2),
        (("पैसे वापस करो", "पार्सल नहीं आया", "बिल का पता"), "मेरा बिल गलत है", 2),
        (("refund my order", "STRASSE UND HAUSNUMMER", "p\u00e4ckchen fehlt"), "stra\u00dfe", 1),
        (("refund my order", "STRASSE UND HAUSNUMMER", "p\u00e4ckchen fehlt"), "PA\u0308CKCHEN", 2),
        (("refund", "parcel", "密码 password"), "\uff30\uff21\uff32\uff23\uff25\uff2c", 1),
        (("喝水", "吃饭", "看书"), "饭", 1),
    ],
)
def test_likeness_is_seen_in_scripts_without_spaces_and_in_every_spelling(
    pool: tuple[str, ...], asked: str, best: int
) -> None:
    assert NearestIndex(pool).nearest(asked, 1) == [best]


@given(st.text())
def test_how_a_character_is_encoded_makes_no_difference(text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert terms_of(unicodedata.normalize(form, text)) == terms_of(text)


@given(st.text(st.characters(categories=["Lo", "Ll", "Nd"]), min_size=1))
def test_no_letter_is_lost(text: str) -> None:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    assert {c for c in folded if c.isalnum()} <= set("".join(terms_of(text)))


def test_every_process_chooses_the_same_ones() -> None:
    program = (
        "from random import Random\n"
        "from rs_gateway.domain.nearest import NearestIndex\n"
        "rng = Random(1)\n"
        "texts = [' '.join(rng.choices('abcdefghij', k=8)) for _ in range(200)]\n"
        "index = NearestIndex([*texts, *texts[::-1]])\n"
        "print([index.nearest(' '.join(rng.choices('abcdefghij', k=8)), 10) for _ in range(200)])\n"
    )
    chosen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(chosen) == 1


@pytest.mark.parametrize("user", [None, "Answer in one word."])
def test_where_the_user_text_is_the_same_for_all_the_clients_last_words_decide(user: str | None) -> None:
    text = replace(TEXT, instruction="Classify {message}.", user=user)
    messages = (
        {"role": "user", "content": "password forgotten"},
        {"role": "assistant", "content": "your invoice?"},
    )
    rendered = render_messages(text, {"message": "refund"}, messages, template_id="support")
    assert rendered[3]["content"] == TOPICS[2]


def test_where_the_client_says_nothing_the_values_in_the_instruction_decide() -> None:
    text = replace(TEXT, instruction="Classify {message}.", user="Answer in one word.")
    rendered = render_messages(text, {"message": "invoice", "unused": "refund"}, (), template_id="support")
    assert rendered[3]["content"] == TOPICS[3]


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

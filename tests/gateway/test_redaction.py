"""Redaction: what goes, what stays, and that no text, however odd, makes it slow."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.redaction import BUILT_IN, Redactor, Rule, api_keys, card_numbers, emails
from rs_gateway.domain.traces import Outcome, Trace, TracePayload, Usage

ALL = Redactor(list(BUILT_IN.values()))

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB\n\nMIIEow+/=\n"
    "-----END RSA PRIVATE KEY-----"
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ann@example.com.", "write to [email]."),
        ("<Ann.O-Neil+test_1@mail.example.co.uk>", "<[email]>"),
        ("a@b.com,c@d.org", "[email],[email]"),
        ("?q=ann%40example.com&x=1", "?q=[email]&x=1"),
        ("jürgen@müller.de", "[email]"),
        ("请联系ann@example.com谢谢", "请联系[email]谢谢"),
        ("ann@example.xn--p1ai", "[email]"),
        ("x" * 400 + "@example.com", "x" * 144 + "[email]"),
    ],
)
def test_an_email_address_goes_and_the_words_around_it_stay(text: str, left: str) -> None:
    assert emails(text) == left


@pytest.mark.parametrize("text", ["user@localhost", "@decorator", "A @ B.T", "3 @ 2.50", "a@b", "@", "numpy@1.2.3", ""])
def test_an_at_sign_alone_is_no_address(text: str) -> None:
    assert emails(text) is text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("card 4111111111111111 exp 12/29", "card [card] exp 12/29"),
        ("4111 1111 1111 1111", "[card]"),
        ("4111-1111-1111-1111,", "[card],"),
        ("4111\u00a01111\u00a01111\u00a01111", "[card]"),
        ("3782 822463 10005", "[card]"),
        ("no. 12 4111 1111 1111 1111 12", "no. 12 [card] 12"),
        ("4222222222222 and 6304000000000000000", "[card] and [card]"),
        ("4111111111111111 5555555555554444", "[card] [card]"),
    ],
)
def test_a_card_number_goes_however_it_is_grouped(text: str, left: str) -> None:
    assert card_numbers(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "1732413812345",
        "0000000000000000",
        "0.4111111111111111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "41111111111111114111111111111111",
        "4111  1111  1111  1111 and 555-1234",
        "2026-11-24 02:03:32",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert card_numbers(text) is text


@given(st.text("0123456789", min_size=12, max_size=18), st.sampled_from("23456789"))
def test_every_number_with_a_valid_check_digit_goes_and_with_another_one_stays(body: str, first: str) -> None:
    body = first + body[1:]
    weights = [int(c) * (2 if i % 2 == 0 else 1) for i, c in enumerate(reversed(body))]
    check = -sum(w // 10 + w % 10 for w in weights) % 10
    assert card_numbers(f"({body}{check})") == "([card])"
    assert card_numbers(f"({body}{(check + 1) % 10})") == f"({body}{(check + 1) % 10})"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdefghijklmnopqrstuvwx",
        "sk-proj-A1b2C3d4E5f6-G7h8_I9",
        "sk-ant-api03-A1b2C3d4E5f6G7h8",
        "rs-A1b2C3d4E5f6G7h8I9j0",
        "sk_live_A1b2C3d4E5f6G7h8",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_A1b2C3d4E5f6G7h8I9j0A1b2C3d4E5f6G7h8",
        "github_pat_A1b2C3d4E5f6G7h8I9j0_x",
        "glpat-A1b2C3d4E5f6G7h8I9j0",
        "xoxb-123456789012-abcdefABCDEF",
        "AIzaSyA1b2C3d4E5f6G7h8I9j0A1b2C3d4E5f6G",
        "hf_A1b2C3d4E5f6G7h8I9j0",
        "Bearer A1b2C3d4.E5f6/G7h8==",
        JWT,
        PEM,
        PEM.replace("\n", "\\n"),
    ],
)
def test_a_key_goes_wherever_it_stands(secret: str) -> None:
    for before, after in (("", ""), ('{"key": "', '"}'), ("key=", "&x=1"), ("Hello ", ".")):
        if after == "." and ("." in secret or "Bearer" in secret):
            continue  # there a full stop belongs to the token
        assert api_keys(before + secret + after) == f"{before}[api_key]{after}"


@pytest.mark.parametrize(
    "text",
    ["ask-me-anything-about-sketches", "the bearer of responsibilities", "sk-short", "-----BEGIN CERTIFICATE-----\nAB"],
)
def test_words_that_only_look_like_keys_stay(text: str) -> None:
    assert api_keys(text) is text


def test_a_private_key_that_was_cut_off_goes_to_its_end() -> None:
    assert api_keys("see -----BEGIN PRIVATE KEY-----\nMIIEow") == "see [api_key]"


_PIECES = st.sampled_from(
    [
        *(
            "@",
            "%40",
            ".",
            "-",
            " ",
            "[",
            "]",
            "a",
            "b.com",
            "ann@example.com",
            "4111",
            "1111",
            "4111111111111111",
            "é",
        ),
        *("sk-", "rs-A1b2C3d4E5f6G7h8I9j0", "AKIAIOSFODNN7EXAMPLE", "eyJ", "Bearer ", "x1" * 12, "1.", "2", "中", JWT),
        *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "[email]", "[card]", "[api_key]", "\n", "_", "/"),
    ]
)
_TEXTS = st.one_of(st.text(max_size=60), st.lists(st.one_of(_PIECES, st.text(max_size=3)), max_size=14).map("".join))


@given(_TEXTS)
def test_what_was_redacted_holds_nothing_more_to_redact(text: str) -> None:
    redacted = ALL.text(text)
    assert ALL.text(redacted) == redacted
    assert all(rule.redact(redacted) == redacted for rule in BUILT_IN.values())


@given(_TEXTS)
def test_a_text_changes_only_where_a_mark_appears(text: str) -> None:
    redacted = ALL.text(text)
    between = re.split(r"\[email\]|\[card\]|\[api_key\]", redacted)
    assert re.fullmatch(".*".join(re.escape(part) for part in between), text, re.DOTALL)


@given(st.text("abc XYZ\n,;é中", max_size=200))
def test_a_text_with_nothing_in_it_stays_the_same_object(text: str) -> None:
    assert ALL.text(text) is text


_ADVERSARIES = [
    *(
        "a",
        "@",
        "a@",
        "a.",
        "a@a.",
        "a@" + "a." * 9,
        "%40",
        "a" * 300 + "@",
        "1",
        "1 ",
        "12-",
        "222 ",
        "4111-1111-",
        "1.1 ",
    ),
    *("sk-", "sk-a ", "rs-sk-", "eyJ", "eyJaaaaaaaaaa.", "eyJaaaaaaaaaa.eyJ", "Bearer ", "bearer aaaaaaaaaaaaaaaaa "),
    *(
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN ",
        "-",
        "-----BEGIN A PRIVATE KEY-----a-",
        "xoxb-",
        "ghp_",
        "AKIA",
        "AIza",
    ),
    *("data:;base64,", "[email]", "1\u00a0", "a_-"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", _ADVERSARIES)
@pytest.mark.parametrize("tail", ["", "!", " " * 300_000])
def test_a_megabyte_of_anything_is_redacted_in_time_proportional_to_its_length(piece: str, tail: str) -> None:
    # Anything quadratic takes hours for this; what is linear takes well under a second.
    ALL.text(piece * (1_000_000 // len(piece)) + tail)


def test_pictures_and_files_are_neither_read_nor_broken() -> None:
    accident = "AKIAIOSFODNN7EXAMPLE" * 100
    for binary in (f"data:image/png;base64,{accident}", f"data:audio/wav;codecs=1;base64,{accident}==", accident):
        assert ALL.text(binary) is binary


def test_a_text_that_only_poses_as_a_picture_is_redacted() -> None:
    assert ALL.text("data:image/png;base64,AAAA ann@example.com") == "data:image/png;base64,AAAA [email]"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []


@given(_JSON)
def test_json_keeps_its_shape_and_is_the_same_object_when_nothing_had_to_go(value: Any) -> None:
    redacted = ALL.value(value)
    assert _strings(redacted) == [ALL.text(text) for text in _strings(value)]
    if _strings(redacted) == _strings(value):
        assert redacted is value


def test_keys_and_numbers_of_json_stay() -> None:
    value = {"ann@example.com": 4111111111111111, "to": ["ann@example.com", None]}
    assert ALL.value(value) == {"ann@example.com": 4111111111111111, "to": ["[email]", None]}
    assert value["to"] == ["ann@example.com", None]


_TRACE = Trace(
    trace_id="01JD0000000000000000000000",
    started_at=0.0,
    request_model="m",
    outcome=Outcome.COMPLETE,
    stream=False,
    latency_s=0.1,
    usage=Usage.unknown(),
    end_user="ann@example.com",
    payload=TracePayload(
        request_messages=({"role": "user", "content": [{"type": "text", "text": "I am ann@example.com"}]},),
        variables={"mail": "ann@example.com"},
        parameters={"user": "ann@example.com", "temperature": 0},
        rendered_messages=({"role": "user", "content": "I am ann@example.com"},),
        response={"role": "assistant", "tool_calls": [{"function": {"arguments": '{"to": "ann@example.com"}'}}]},
    ),
)


def test_nothing_of_a_trace_keeps_what_a_rule_names() -> None:
    redacted = ALL.trace(_TRACE)
    assert "ann@example.com" not in repr(redacted)
    assert redacted.payload is not None
    assert redacted.payload.parameters == {"user": "[email]", "temperature": 0}
    assert isinstance(redacted.payload.request_messages, tuple)
    assert redacted.trace_id == _TRACE.trace_id
    assert ALL.trace(redacted) is redacted


def test_a_trace_without_a_payload_stays_as_it_is() -> None:
    bare = replace(_TRACE, payload=None, end_user=None)
    assert ALL.trace(bare) is bare


def test_labels_and_comments_are_redacted_and_scores_stay() -> None:
    label = Feedback("f", "t", FeedbackKind.LABEL, "to ann@example.com", "human", 0.0)
    score = Feedback("f", "t", FeedbackKind.SCORE, 0.5, "human", 0.0)
    assert ALL.feedback(label).value == "to [email]"
    assert ALL.feedback(score) is score


@pytest.mark.parametrize(
    ("source", "stored"),
    [
        ("human:ann@example.com", "human:[email]"),
        ("teacher:https://ann@example.com/gpt", "teacher:https://[email]/gpt"),
        ("ann@example.com", "[email]"),
        ("crm", "crm"),
    ],
)
def test_who_gave_feedback_is_redacted_too(source: str, stored: str) -> None:
    given = Feedback("f", "t", FeedbackKind.SCORE, 0.5, source, 0.0)
    assert ALL.feedback(given).source == stored


@pytest.mark.parametrize(("source", "stored"), [("human", "human"), ("teacher:gpt", "teacher:GPT"), ("crm", "CRM")])
def test_no_rule_turns_a_teacher_into_a_human(source: str, stored: str) -> None:
    given = Feedback("f", "t", FeedbackKind.SCORE, 0.5, source, 0.0)
    assert Redactor([Rule("shout", str.upper)]).feedback(given).source == stored


def test_rules_apply_in_their_order() -> None:
    shout = Rule("shout", str.upper)
    assert Redactor([Rule("emails", emails), shout]).text("ann@example.com") == "[EMAIL]"

"""Redaction as the configuration names it, and the operator's own function."""

import sys
from pathlib import Path

import pytest

from rs_gateway.adapters.redaction_hooks import load_hook, prepare_for, redactor_for
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.redaction import RedactionError
from rs_gateway.domain.traces import Outcome, Trace, TracePayload, Usage

HOOK = """
names = ["Ann"]

def no_names(text: str) -> str:
    for name in names:
        text = text.replace(name, "[name]")
    return text

def forgets_to_return(text):
    text.replace("Ann", "")

def gives_up(text):
    raise LookupError(text)
"""


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_privacy.py").write_text(HOOK)
    (tmp_path / "broken_privacy.py").write_text("raise RuntimeError('no dictionary')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("our_privacy", "broken_privacy"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def _trace(text: str) -> Trace:
    payload = TracePayload(({"role": "user", "content": text},), {}, {}, (), None)
    return Trace("t", 0.0, "m", Outcome.COMPLETE, False, 0.1, Usage.unknown(), payload=payload)


@pytest.mark.usefixtures("hooks")
def test_a_hook_redacts_what_the_built_in_rules_left() -> None:
    redactor = redactor_for(["emails"], hook="our_privacy:no_names")
    assert redactor is not None
    prepared = prepare_for(redactor)(_trace("Ann <Ann@example.com>"))
    assert isinstance(prepared, Trace)
    assert prepared.payload is not None
    assert prepared.payload.request_messages[0]["content"] == "[name] <[email]>"


@pytest.mark.usefixtures("hooks")
def test_feedback_goes_through_the_hook_too() -> None:
    redactor = redactor_for([], hook="our_privacy:no_names")
    assert redactor is not None
    prepared = prepare_for(redactor)(Feedback("f", "t", FeedbackKind.COMMENT, "Ann knows", "human", 0.0))
    assert isinstance(prepared, Feedback)
    assert prepared.value == "[name] knows"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("our_privacy:gives_up", "'our_privacy:gives_up' raised LookupError"),
        ("our_privacy:forgets_to_return", "returned NoneType"),
    ],
)
def test_a_hook_that_fails_says_so_without_quoting_the_text(hook: str, why: str) -> None:
    redactor = redactor_for([], hook=hook)
    assert redactor is not None
    with pytest.raises(RedactionError, match=why) as raised:
        prepare_for(redactor)(_trace("Ann's secret"))
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None  # no log shows the hook's own error


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("our_privacy", "not of the form `module:function`"),
        ("our_privacy:", "not of the form"),
        ("../our_privacy:no_names", "not of the form"),
        ("no_such_module_here:redact", "cannot be imported .ModuleNotFoundError"),
        ("broken_privacy:redact", "no dictionary"),
        ("our_privacy:no_such", "has no function 'no_such'"),
        ("our_privacy:names", "has no function 'names'"),
    ],
)
def test_a_hook_that_cannot_be_used_is_refused_by_name(hook: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as raised:
        load_hook(hook)
    assert hook in str(raised.value)


def test_a_rule_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigurationError, match=r"'phones'.*api_keys, card_numbers, emails"):
        redactor_for(["emails", "phones"], hook=None)


def test_asking_for_nothing_costs_nothing() -> None:
    assert redactor_for([], hook=None) is None

"""What of a vendor's words about a failure reaches a client."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.vendor_words import fit_for_clients

SECRET = "sk-proj-A1b2C3d4E5f6G7h8"


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9000 (8000 in the messages).",
        "Invalid value: 'sytem'. Supported values are: 'system', 'assistant', 'user', 'function', and 'tool'.",
        "messages.0.content.1.image.source: field required; tools[0:1] is no list, at 12:30 on 2026-11-24",
        "Rate limit reached for gpt-4o in organization org-abc on tokens per min (TPM): Limit 30000, Used 29950.",
        "claude-3.5-sonnet: prompt is too long: 212 tokens > 200 maximum",
        "*bold* and **bolder** stay, and so does max_tokens*n",
        "Größe überschritten — bitte kürzen",
    ],
)
def test_words_for_a_person_stay_as_they_are(words: str) -> None:
    assert fit_for_clients(words, secret=SECRET, host="api.openai.com") == words


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (f"not with {SECRET}", "not with ***"),
        ("Incorrect API key provided: sk-proj-***G7h8.", "Incorrect API key provided: ***."),
        ("Incorrect API key provided: sk-proj…", "Incorrect API key provided: ***"),
        ("key other-ab***yz is over", "key *** is over"),
        ("another's key sk-A1b2C3d4E5f6G7h8I9j0K1l2", "another's key [api_key]"),
        ("see https://platform.openai.com/docs now", "see (address) now"),
        ("redis://cache:6379/0 is down", "(address) is down"),
        ("connect to 10.0.0.7:8000 failed", "connect to (address) failed"),
        ("connect to [fe80::1%eth0]:8000 failed", "connect to (address) failed"),
        ("localhost:11434 refused", "(address) refused"),
        ("gpu-7.corp.internal:8000 refused", "(address) refused"),
        (
            "HTTPConnectionPool(host='gpu-7', port=8000): Max retries",
            "HTTPConnectionPool(host=(address), port=8000): Max retries",
        ),
        ("model served by VLLM.corp.internal is gone", "model served by (address) is gone"),
        ("\n  first\nTraceback (most recent call last):\n  File", "first"),
    ],
)
def test_addresses_keys_and_further_lines_go(words: str, left: str) -> None:
    assert fit_for_clients(words, secret=SECRET, host="vllm.corp.internal:8000") == left


def test_a_host_with_a_common_name_goes_only_with_its_port() -> None:
    words = "ollama runner at ollama:11434 has terminated"
    assert fit_for_clients(words, secret=None, host="ollama:11434") == "ollama runner at (address) has terminated"


@given(st.text(), st.text())
def test_the_key_is_never_left_and_no_line_is_long(before: str, after: str) -> None:
    left = fit_for_clients(before + SECRET + after, secret=SECRET, host="h:1")
    assert SECRET not in left
    assert "\n" not in left
    assert len(left) <= 500


@pytest.mark.parametrize("unit", ["a", "a.", "*", "a-", "1.", "[:", "://", "host=", "sk-pro", "a*"])
def test_no_words_take_long_to_read(unit: str) -> None:
    began = time.process_time()
    fit_for_clients(unit * 100_000, secret=SECRET, host="api.openai.com")
    assert time.process_time() - began < 0.5

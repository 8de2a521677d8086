"""Reading what a provider counted, whatever shape it comes in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.answers import (
    counted_usage,
    decode_chunk,
    decode_completion,
    estimated_usage,
    generated_characters,
)
from rs_gateway.domain.traces import Usage, UsageSource

CHOICE = {"message": {"role": "assistant", "content": "Yes"}, "finish_reason": "stop"}
WORDS = st.text("ab1", max_size=3)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
    max_leaves=5,
)


def read(usage: Any) -> Usage:
    body = json.dumps({"choices": [CHOICE], "usage": usage}).encode()
    return counted_usage(decode_completion(body).usage) or estimated_usage(input_characters=40, output_characters=4)


def counted(**parts: int | None) -> Usage:
    return Usage(100, 20, UsageSource.PROVIDER, **parts)


@pytest.mark.parametrize(
    ("spelt", "means"),
    [
        ({}, counted()),
        ({"prompt_tokens_details": {"cached_tokens": 64}}, counted(cached_input_tokens=64)),
        ({"completion_tokens_details": {"reasoning_tokens": 8}}, counted(reasoning_tokens=8)),
        ({"cache_creation_input_tokens": 50}, counted(cache_write_tokens=50)),
        ({"prompt_tokens_details": {"cache_creation_tokens": 50}}, counted(cache_write_tokens=50)),
        ({"prompt_tokens_details": {"cache_write_tokens": 50}}, counted(cache_write_tokens=50)),
        ({"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}, counted(cached_input_tokens=64)),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, counted(cached_input_tokens=0)),
        ({"prompt_tokens_details": None, "completion_tokens_details": "none"}, counted()),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, counted()),
    ],
)
def test_the_parts_are_read_in_every_spelling(spelt: dict[str, Any], means: Usage) -> None:
    assert read({"prompt_tokens": 100, "completion_tokens": 20, **spelt}) == means


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "prompt_tokens",
                "completion_tokens",
                "prompt_tokens_details",
                "completion_tokens_details",
                "cache_creation_input_tokens",
                "prompt_cache_hit_tokens",
            ]
        ),
        junk | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "cache_creation_tokens"]), junk),
    )
)
def test_no_shape_of_usage_costs_the_client_its_answer(usage: dict[str, Any]) -> None:
    read(usage)
    payload = json.dumps({"choices": [], "usage": usage}).encode()
    assert counted_usage(decode_chunk(payload).usage) or estimated_usage(input_characters=1, output_characters=1)


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
@pytest.mark.parametrize("count", [-1, True, 5.0, "5", None, [5], 2**31, 2**53 + 1, 2**63 - 1, 2**64, 10**400])
def test_a_count_that_no_answer_can_have_was_not_reported(name: str, count: Any) -> None:
    usage = read({"prompt_tokens": 100, "completion_tokens": 20, name: count})
    assert usage == Usage(10, 1, UsageSource.ESTIMATED)


@pytest.mark.parametrize("count", [-1, True, 5.0, 2**31, 2**63 - 1, 10**400])
def test_a_part_that_no_answer_can_have_was_not_reported_and_the_rest_counts(count: Any) -> None:
    parts: dict[str, Any] = {
        "prompt_tokens_details": {"cached_tokens": count, "cache_write_tokens": count},
        "completion_tokens_details": {"reasoning_tokens": count},
    }
    assert read({"prompt_tokens": 100, "completion_tokens": 20, **parts}) == counted()


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_every_plausible_count_is_taken_as_it_is(n_input: int, n_output: int) -> None:
    usage = Usage(n_input, n_output, UsageSource.PROVIDER)
    assert read({"prompt_tokens": n_input, "completion_tokens": n_output}) == usage


@pytest.mark.parametrize("field", ["content", "refusal", "reasoning_content", "tool_calls"])
def test_content_that_is_nested_deeply_is_counted_without_following_it(field: str) -> None:
    nested: Any = "x"
    for _ in range(100_000):
        nested = [{"text": nested}]
    assert generated_characters({field: nested}) == 0


def test_the_text_of_parts_counts() -> None:
    assert generated_characters({"content": [{"type": "text", "text": "four"}, {"text": ["no"]}, "no", {}]}) == 4

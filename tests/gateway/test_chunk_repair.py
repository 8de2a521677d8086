"""What clients trip over in a provider's chunks is put right on the way."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.calls import read_batch
from rs_gateway.domain.answers import StreamedAnswer

FIRST = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m-2"}


def carried(*chunks: dict[str, Any], wants_usage: bool = True) -> tuple[list[dict[str, Any]], StreamedAnswer]:
    """What a client gets of a stream of these chunks."""
    answer = StreamedAnswer()
    out: list[dict[str, Any]] = []
    for chunk in chunks:
        payload = json.dumps(chunk, ensure_ascii=False).encode()
        block = read_batch([payload], answer, wants_usage=wants_usage, provider="p").block
        out += [json.loads(event.removeprefix("data: ")) for event in block.decode().split("\n\n") if event]
    return out, answer


def said(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**FIRST, "choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more}


def test_every_chunk_has_the_id_the_time_and_the_model_of_the_first() -> None:
    others = [said({"content": "b"}, id="other"), said({"content": "c"}, created=5), said({"content": "d"}, model="x")]
    without = {"choices": [{"index": 0, "delta": {"content": "e"}}]}
    seen, _ = carried(said({"content": "a"}), *others, without)
    assert [{name: chunk[name] for name in ("id", "created", "model")} for chunk in seen] == [
        {"id": "chatcmpl-7", "created": 1_700_000_000, "model": "m-2"}
    ] * 5
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in seen) == "abcde"


def test_a_nameless_chunk_before_the_first_named_one_does_not_name_the_others() -> None:
    azure = {"id": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
    seen, _ = carried(azure, said({"content": "a"}), said({"content": "b"}))
    assert [chunk["id"] for chunk in seen] == ["", "chatcmpl-7", "chatcmpl-7"]


def test_a_count_of_tokens_without_choices_gets_an_empty_list_of_them() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    seen, answer = carried(
        said({"content": "a"}), {**FIRST, "usage": usage}, {**FIRST, "choices": None, "usage": usage}
    )
    assert [chunk["choices"] for chunk in seen[1:]] == [[], []]
    assert answer.usage is not None
    assert answer.usage.input_tokens == 3
    assert len(carried(said({"content": "a"}), {**FIRST, "usage": usage}, wants_usage=False)[0]) == 1


def test_a_role_is_said_once_for_each_choice() -> None:
    second = {**FIRST, "choices": [{"index": 1, "delta": {"role": "assistant", "content": "x"}}]}
    seen, _ = carried(said({"role": "assistant", "content": "a"}), said({"role": "assistant", "content": "b"}), second)
    assert [chunk["choices"][0]["delta"].get("role") for chunk in seen] == ["assistant", None, "assistant"]


def test_tool_calls_without_an_index_are_numbered_by_their_ids() -> None:
    calls = [
        [{"id": "call-a", "function": {"name": "f", "arguments": ""}}],
        [{"function": {"arguments": "{}"}}],
        [{"id": "call-b", "function": {"name": "g", "arguments": "{"}}, {"id": "call-c", "function": {"name": "h"}}],
        [{"function": {"arguments": "}"}}],
    ]
    seen, answer = carried(*(said({"tool_calls": parts}) for parts in calls))
    assert [[call["index"] for call in chunk["choices"][0]["delta"]["tool_calls"]] for chunk in seen] == [
        [0],
        [0],
        [1, 2],
        [2],
    ]
    message = answer.message()
    assert message is not None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f", "g", "h"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ["{}", "{", "}"]


@given(st.lists(st.text(max_size=5), max_size=5), st.booleans())
def test_chunks_that_are_right_go_out_byte_for_byte(words: list[str], wants_usage: bool) -> None:
    answer = StreamedAnswer()
    for word in words:
        payload = json.dumps(said({"content": word})).encode()
        block = read_batch([payload], answer, wants_usage=wants_usage, provider="p").block
        assert block == b"data: " + payload + b"\n\n"


def test_all_that_was_generated_counts_as_output() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "x" * 30}}
    second = {**FIRST, "choices": [{"index": 1, "delta": {"content": "y" * 20}}]}
    _, answer = carried(
        said({"content": "a" * 10}), said({"reasoning_content": "r" * 40}), second, said({"tool_calls": [call]})
    )
    assert answer.output_characters == 10 + 40 + 20 + 31

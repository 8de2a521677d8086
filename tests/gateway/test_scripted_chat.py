"""The scripted model: it answers like a provider, plain and streamed, and fails like one."""

import json

import anyio
import pytest

from rs_gateway.adapters.scripted_chat import ScriptedChat, ScriptedReply
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ProviderCutError, ProviderOverloadedError

CALL = ProviderCall("tiny", ({"role": "user", "content": "one two three"},), {}, timeout_s=1.0)


async def streamed(chat: ScriptedChat) -> list[bytes]:
    async with chat.stream(CALL) as batches:
        return [payload async for batch in batches for payload in batch]


def test_a_plain_answer_is_a_chat_completion_with_usage() -> None:
    body = json.loads(anyio.run(ScriptedChat(["four five"]).complete, CALL))
    assert body["choices"][0]["message"]["content"] == "four five"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_replies_come_in_order_and_the_last_is_repeated() -> None:
    chat = ScriptedChat(["a", "b"])
    texts = [json.loads(anyio.run(chat.complete, CALL))["choices"][0]["message"]["content"] for _ in range(3)]
    assert texts == ["a", "b", "b"]


@pytest.mark.parametrize("text", ["", "word", "several words  with gaps", " spaces around "])
def test_a_stream_adds_up_to_the_plain_answer(text: str) -> None:
    chunks = [json.loads(payload) for payload in anyio.run(streamed, ScriptedChat([text]))]
    deltas = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(deltas) == text
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["prompt_tokens"] == 3


def test_a_cut_stream_is_never_a_complete_one() -> None:
    with pytest.raises(ProviderCutError):
        anyio.run(streamed, ScriptedChat([ScriptedReply("a b c d", cut_after=2)]))


def test_faults_meet_the_calls_that_they_are_meant_for() -> None:
    error = ProviderOverloadedError("busy", provider="scripted", status=503)
    chat = ScriptedChat(["a"], fault=lambda n: error if n == 0 else None)
    with pytest.raises(ProviderOverloadedError):
        anyio.run(streamed, chat)
    assert anyio.run(streamed, chat)
    assert len(chat.calls) == 2

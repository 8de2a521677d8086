"""litellm as a client of ours: the translation layer that half of the ecosystem calls through."""

import asyncio
from typing import Any

import litellm
import pytest
from litellm.exceptions import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    RateLimitError,
    ServiceUnavailableError,
)
from pydantic import BaseModel

from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import CHAT, CUT, PARALLEL, SLOW, TEXT
from tests.running import eventually

# litellm's own types use a qualifier that pydantic warns of, and it closes its clients in its own time.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ASK: Any = [{"role": "user", "content": "Where?"}]


class Weather(BaseModel):
    city: str
    days: int


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": Weather.model_json_schema()}}


def ask(stage: Stage, model: str = CHAT, messages: Any = ASK, *, num_retries: int = 0, **options: Any) -> Any:
    return litellm.completion(
        model=f"openai/{model}",
        messages=messages,
        api_base=stage.base_url,
        api_key="any",
        num_retries=num_retries,
        max_retries=num_retries,
        _skip_mcp_handler=True,  # it looks for MCP servers among tools with a package that it does not require
        **options,
    )


def test_a_chat_answer_arrives_with_its_usage(stage: Stage) -> None:
    answer = ask(stage)
    assert answer.choices[0].message.content == TEXT
    assert (answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (21, 8)


def test_text_is_streamed_and_usage_comes_when_asked_for(stage: Stage) -> None:
    chunks = list(ask(stage, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].usage.total_tokens == 30


def test_a_tool_is_called(stage: Stage) -> None:
    answer = ask(stage, tools=[tool("weather")])
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["weather"]


def test_parallel_calls_keep_their_places_in_a_stream(stage: Stage) -> None:
    chunks = list(ask(stage, PARALLEL, tools=[tool("a"), tool("b")], parallel_tool_calls=True, stream=True))
    whole: Any = litellm.stream_chunk_builder(chunks)
    calls = whole.choices[0].message.tool_calls
    assert [(call.id, call.function.name) for call in calls] == [("call_0", "a"), ("call_1", "b")]
    assert all(Weather.model_validate_json(call.function.arguments).days == 3 for call in calls)


def test_structured_output_is_asked_for_by_schema(stage: Stage) -> None:
    answer = ask(stage, response_format=Weather)
    assert Weather.model_validate_json(answer.choices[0].message.content) == Weather(city="Paris", days=3)
    assert stage.asked["response_format"]["type"] == "json_schema"


def test_an_image_reaches_the_upstream_as_it_was(stage: Stage) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    ask(stage, messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}])
    assert stage.asked["messages"][0]["content"][1] == part


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("status-400", BadRequestError),
        ("status-401", AuthenticationError),
        ("nobody", NotFoundError),
        ("status-429", RateLimitError),
        ("status-503", ServiceUnavailableError),
    ],
)
def test_an_upstream_error_is_the_clients_own_exception(stage: Stage, model: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        ask(stage, model)


def test_the_clients_own_retry_succeeds(stage: Stage) -> None:
    assert ask(stage, "flaky-500", num_retries=1).choices[0].message.content == TEXT


def test_a_stream_that_is_cut_is_an_error_for_the_client(stage: Stage) -> None:
    with pytest.raises(Exception, match="broke off"):
        list(ask(stage, CUT, stream=True))


def test_leaving_a_stream_cancels_the_upstream_call(stage: Stage) -> None:
    before = stage.upstream.hang_ups

    async def leave() -> None:
        stream: Any = await litellm.acompletion(
            model=f"openai/{SLOW}", messages=ASK, api_base=stage.base_url, api_key="any", stream=True
        )
        await anext(stream)
        await stream.aclose()
        await litellm.close_litellm_async_clients()  # pyright: ignore[reportPrivateImportUsage]  # its documented way

    asyncio.run(leave())
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)

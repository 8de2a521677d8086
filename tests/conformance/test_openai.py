"""OpenAI's own client, whose `.stream()` and `.parse()` check more of an answer than anybody else's."""

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import (
    CHAT,
    CUT,
    PARALLEL,
    REFUSING,
    SILENT,
    SLOW,
    TEXT,
    USAGE,
)
from tests.running import eventually

ASK: Any = [{"role": "user", "content": "Where?"}]
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


class Answer(BaseModel):
    city: str
    population: int
    capital: bool


def tool(name: str) -> ChatCompletionToolParam:
    return {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city", "days"],
            },
        },
    }


@pytest.fixture
def client(stage: Stage) -> Iterator[OpenAI]:
    with OpenAI(base_url=stage.base_url, api_key="any", max_retries=0, timeout=60) as made:
        yield made


def test_a_chat_answer_is_complete_to_the_last_field(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=ASK)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == USAGE
    assert (answer.model, answer.system_fingerprint) == (f"{CHAT}-2026-01-01", "fp_1")
    assert answer._request_id  # pyright: ignore[reportPrivateUsage]  # it is how OpenAI documents it


def test_several_choices_all_arrive(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=ASK, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_raw_stream_chunks_are_openais(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=CHAT, messages=ASK, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert [c.choices[0].delta.role for c in chunks if c.choices[0].delta.role] == ["assistant"]
    assert all(c.usage is None for c in chunks)


def test_usage_comes_last_with_no_choices_when_it_is_asked_for(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=CHAT, messages=ASK, stream=True, stream_options=options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 30


def test_the_stream_helper_puts_the_answer_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model=CHAT, messages=ASK) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == TEXT == final.choices[0].message.content


def test_a_tool_is_called_and_its_answer_goes_back(client: OpenAI, stage: Stage) -> None:
    first = client.chat.completions.create(model=CHAT, messages=ASK, tools=[tool("weather")], tool_choice="auto")
    calls = first.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert Weather.model_validate_json(calls[0].function.arguments) == Weather(city="Paris", days=3)
    result: Any = {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"}
    asked: Any = first.choices[0].message.model_dump(exclude_none=True)
    second = client.chat.completions.create(model=CHAT, messages=[*ASK, asked, result], tools=[tool("weather")])
    assert second.choices[0].message.content == TEXT
    assert stage.asked["messages"][1:] == [asked, result]


def test_parallel_calls_keep_their_places_in_a_stream(client: OpenAI, stage: Stage) -> None:
    with client.chat.completions.stream(
        model=PARALLEL, messages=ASK, tools=[tool("a"), tool("b"), tool("c")], parallel_tool_calls=True
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [(event.index, event.name) for event in done] == [(0, "a"), (1, "b"), (2, "c")]
    assert [call.id for call in final.choices[0].message.tool_calls or []] == ["call_0", "call_1", "call_2"]
    assert stage.asked["parallel_tool_calls"] is True


def test_parse_gives_back_an_object(client: OpenAI, stage: Stage) -> None:
    parsed = client.chat.completions.parse(model=CHAT, messages=ASK, response_format=Answer)
    assert parsed.choices[0].message.parsed == Answer(city="Paris", population=3, capital=True)
    assert stage.asked["response_format"]["json_schema"]["strict"] is True


def test_parse_gives_back_the_arguments_of_a_strict_tool(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=CHAT, messages=ASK, tools=[openai.pydantic_function_tool(Weather)], response_format=Answer
    )
    calls = parsed.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == Weather(city="Paris", days=3)


def test_a_streamed_object_is_parsed(client: OpenAI) -> None:
    with client.chat.completions.stream(model=CHAT, messages=ASK, response_format=Answer) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Answer(city="Paris", population=3, capital=True)


def test_a_refusal_is_a_refusal_whole_and_streamed(client: OpenAI) -> None:
    whole = client.chat.completions.parse(model=REFUSING, messages=ASK, response_format=Answer)
    with client.chat.completions.stream(model=REFUSING, messages=ASK, response_format=Answer) as stream:
        streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        assert answer.choices[0].message.refusal == "I cannot help with that."
        assert answer.choices[0].message.parsed is None


def test_parts_reach_the_upstream_as_they_were(client: OpenAI, stage: Stage) -> None:
    content: Any = [
        {"type": "text", "text": "What is {this}?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
    ]
    client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": content}])
    assert stage.asked["messages"] == [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, openai.BadRequestError, "context_length_exceeded"),
        (401, openai.AuthenticationError, "invalid_api_key"),
        (403, openai.PermissionDeniedError, "not_allowed"),
        (404, openai.NotFoundError, "model_not_found"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (503, openai.InternalServerError, "overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_upstream_error_is_the_clients_own_exception(
    client: OpenAI, status: int, kind: type[openai.APIStatusError], code: str, *, stream: bool
) -> None:
    with pytest.raises(kind) as raised:
        client.chat.completions.create(model=f"status-{status}", messages=ASK, stream=stream)
    assert raised.value.status_code == status
    assert raised.value.request_id
    assert raised.value.type
    assert raised.value.code == code
    if status in (429, 503):
        assert raised.value.response.headers["retry-after"] == "7"


def test_a_server_error_is_a_server_error(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="status-500", messages=ASK)
    assert raised.value.status_code == 502


def test_a_model_that_is_not_there_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nobody", messages=ASK)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_clients_own_retry_succeeds(client: OpenAI, stage: Stage, status: int) -> None:
    before = len(stage.upstream.requests)
    answer = client.with_options(max_retries=1).chat.completions.create(model=f"flaky-{status}", messages=ASK)
    assert answer.choices[0].message.content == TEXT
    assert len(stage.upstream.requests) == before + 2


def test_a_stream_that_is_cut_is_an_error_for_the_client(client: OpenAI) -> None:
    stream = client.chat.completions.create(model=CUT, messages=ASK, stream=True)
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)


def test_leaving_a_stream_cancels_the_upstream_call(client: OpenAI, stage: Stage) -> None:
    before = stage.upstream.hang_ups
    with client.chat.completions.create(model=SLOW, messages=ASK, stream=True) as stream:
        next(iter(stream))
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)


def test_giving_up_on_a_whole_answer_cancels_the_upstream_call(client: OpenAI, stage: Stage) -> None:
    before = stage.upstream.hang_ups
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1).chat.completions.create(model=SILENT, messages=ASK)
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)


def test_models_can_be_listed_and_looked_up(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"support", "gpt-4", CHAT} <= set(names)
    assert client.models.retrieve("support").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_template_is_asked_for_with_its_variables(client: OpenAI, stage: Stage) -> None:
    answer = client.chat.completions.create(
        model="support", messages=ASK, extra_body={"variables": {"customer_name": "Jordan"}}
    )
    assert answer.choices[0].message.content == TEXT
    assert stage.asked["messages"][0] == {"role": "system", "content": "You help Jordan."}


def test_the_asynchronous_client_streams_and_parses(stage: Stage) -> None:
    import asyncio

    async def both() -> tuple[str, Answer | None]:
        async with AsyncOpenAI(base_url=stage.base_url, api_key="any", max_retries=0) as client:
            stream = await client.chat.completions.create(model=CHAT, messages=ASK, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in stream])
            parsed = await client.chat.completions.parse(model=CHAT, messages=ASK, response_format=Answer)
            return text, parsed.choices[0].message.parsed

    assert asyncio.run(both()) == (TEXT, Answer(city="Paris", population=3, capital=True))

"""Pydantic AI: agents, tools, structured output."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from openai import APIError, AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelHTTPError, NativeOutput, Tool
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import CHAT, CUT, PARALLEL, SLOW, TEXT
from tests.running import eventually


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


@asynccontextmanager
async def spoken_to(stage: Stage, model: str = CHAT, *, max_retries: int = 0) -> AsyncGenerator[OpenAIChatModel]:
    async with AsyncOpenAI(base_url=stage.base_url, api_key="any", max_retries=max_retries) as client:
        yield OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))


def on(stage: Stage, work: Callable[[OpenAIChatModel], Awaitable[None]], model: str = CHAT, **options: int) -> None:
    async def run() -> None:
        async with spoken_to(stage, model, **options) as spoken:
            await work(spoken)

    asyncio.run(run())


def test_a_chat_answer_arrives_with_its_usage(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        result = await Agent(model, instructions="Be brief.").run("Where?")
        assert result.output == TEXT
        assert (result.usage.input_tokens, result.usage.output_tokens) == (21, 9)

    on(stage, work)


def test_text_is_streamed(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        async with Agent(model).run_stream("Where?") as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        assert "".join(pieces) == TEXT
        assert len(pieces) > 2
        assert result.usage.output_tokens == 9

    on(stage, work)


def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"sunny in {city} for {days} days"


def clock(city: str) -> str:
    """Tell the time."""
    return f"noon in {city}"


def test_a_tool_is_called_and_its_answer_goes_back(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        result = await Agent(model, tools=[Tool(weather)]).run("Where?")
        assert result.output == TEXT

    on(stage, work)
    assert stage.asked["messages"][-1]["content"] == "sunny in Paris for 3 days"


def test_parallel_calls_in_a_stream_are_all_answered(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        async with Agent(model, tools=[Tool(weather), Tool(clock)]).run_stream("Where?") as result:
            assert await result.get_output() == TEXT

    on(stage, work, PARALLEL)
    answers = [m["content"] for m in stage.asked["messages"] if m["role"] == "tool"]
    assert sorted(answers) == ["noon in Paris", "sunny in Paris for 3 days"]


def test_structured_output_by_tool_and_by_schema(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        by_tool = await Agent(model, output_type=Weather).run("Where?")
        by_schema = await Agent(model, output_type=NativeOutput(Weather)).run("Where?")
        assert by_tool.output == by_schema.output == Weather(city="Paris", days=3)

    on(stage, work)
    assert stage.asked["response_format"]["type"] == "json_schema"


def test_an_image_reaches_the_upstream_as_it_was(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        await Agent(model).run(["What?", BinaryContent(b"\x89PNG", media_type="image/png")])

    on(stage, work)
    parts = stage.asked["messages"][-1]["content"]
    assert parts[1]["image_url"]["url"] == "data:image/png;base64,iVBORw=="


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("status-400", 400),
        ("status-401", 401),
        ("nobody", 404),
        ("status-429", 429),
        ("status-500", 502),
        ("status-503", 503),
    ],
)
def test_an_upstream_error_keeps_its_status(stage: Stage, model: str, status: int) -> None:
    async def work(spoken: OpenAIChatModel) -> None:
        with pytest.raises(ModelHTTPError) as raised:
            await Agent(spoken).run("Where?")
        assert raised.value.status_code == status

    on(stage, work, model)


def test_the_clients_own_retry_succeeds(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        assert (await Agent(model).run("Where?")).output == TEXT

    on(stage, work, "flaky-503", max_retries=1)


def test_a_stream_that_is_cut_is_an_error_for_the_client(stage: Stage) -> None:
    async def work(model: OpenAIChatModel) -> None:
        with pytest.raises(APIError, match="broke off"):
            async with Agent(model).run_stream("Where?") as result:
                await result.get_output()

    on(stage, work, CUT)


def test_leaving_a_stream_cancels_the_upstream_call(stage: Stage) -> None:
    before = stage.upstream.hang_ups

    async def work(model: OpenAIChatModel) -> None:
        async def read() -> None:
            async with Agent(model).run_stream("Where?") as result:
                async for _ in result.stream_text(delta=True, debounce_by=None):
                    reading.set()

        reading = asyncio.Event()
        task = asyncio.ensure_future(read())
        await asyncio.wait_for(reading.wait(), 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    on(stage, work, SLOW)
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)

"""LlamaIndex with `OpenAILike`: any server that speaks OpenAI's protocol."""

import asyncio
from typing import Any

import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import CHAT, CUT, PARALLEL, SLOW, TEXT
from tests.running import eventually

# The client leaves sockets to the garbage collector, and its own code is deprecated here and there.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ASK = [ChatMessage(role="user", content="Where?")]


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


def made(stage: Stage, model: str = CHAT, *, max_retries: int = 0, **options: Any) -> OpenAILike:
    return OpenAILike(
        model=model,
        api_base=stage.base_url,
        api_key="any",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=max_retries,
        **options,
    )


def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"sunny in {city} for {days} days"


def clock(city: str) -> str:
    """Tell the time."""
    return f"noon in {city}"


TOOLS = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(clock)]


def test_a_chat_answer_arrives(stage: Stage) -> None:
    assert made(stage).chat(ASK).message.content == TEXT


def test_text_is_streamed(stage: Stage) -> None:
    pieces = [piece.delta or "" for piece in made(stage).stream_chat(ASK)]
    assert "".join(pieces) == TEXT
    assert len(pieces) > 2


def test_a_tool_is_called(stage: Stage) -> None:
    llm = made(stage)
    calls = llm.get_tool_calls_from_response(llm.chat_with_tools(TOOLS[:1], user_msg="Where?"))
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("weather", {"city": "Paris", "days": 3})]


def test_parallel_calls_keep_their_places_in_a_stream(stage: Stage) -> None:
    llm = made(stage, PARALLEL)
    last = list(llm.stream_chat_with_tools(TOOLS, user_msg="Where?", allow_parallel_tool_calls=True))[-1]
    calls = llm.get_tool_calls_from_response(last)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [
        ("weather", {"city": "Paris", "days": 3}),
        ("clock", {"city": "Paris"}),
    ]


def test_structured_output_is_an_object(stage: Stage) -> None:
    answer = made(stage).as_structured_llm(Weather).chat(ASK)
    assert answer.raw == Weather(city="Paris", days=3)


def test_a_schema_asked_for_by_hand_reaches_the_upstream(stage: Stage) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "schema": Weather.model_json_schema()}}
    answer = made(stage).chat(ASK, response_format=wanted)
    assert Weather.model_validate_json(answer.message.content or "") == Weather(city="Paris", days=3)
    assert stage.asked["response_format"] == wanted


def test_an_image_reaches_the_upstream_as_it_was(stage: Stage) -> None:
    image = ImageBlock(image=b"\x89PNG\r\n\x1a\n", image_mimetype="image/png")
    made(stage).chat([ChatMessage(role="user", blocks=[TextBlock(text="What?"), image])])
    parts = stage.asked["messages"][-1]["content"]
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("status-400", openai.BadRequestError),
        ("status-401", openai.AuthenticationError),
        ("nobody", openai.NotFoundError),
        ("status-429", openai.RateLimitError),
        ("status-500", openai.InternalServerError),
        ("status-503", openai.InternalServerError),
    ],
)
def test_an_upstream_error_is_the_clients_own_exception(stage: Stage, model: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        made(stage, model).chat(ASK)


def test_the_clients_own_retry_succeeds(stage: Stage) -> None:
    assert made(stage, "flaky-500", max_retries=1).chat(ASK).message.content == TEXT


def test_a_stream_that_is_cut_is_an_error_for_the_client(stage: Stage) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        list(made(stage, CUT).stream_chat(ASK))


def test_leaving_a_stream_cancels_the_upstream_call(stage: Stage) -> None:
    before = stage.upstream.hang_ups

    async def leave() -> None:
        stream: Any = await made(stage, SLOW).astream_chat(ASK)
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)

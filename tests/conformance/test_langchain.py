"""LangChain: its own standard tests for chat models, pointed at the gateway, and what they leave out."""

import asyncio
from typing import Any

import httpx
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from pydantic import BaseModel

from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import CHAT, CUT, PARALLEL, SLOW, TEXT
from tests.running import eventually

# The client leaves sockets to the garbage collector, and its own code is deprecated here and there.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydantic"),
    pytest.mark.filterwarnings("ignore::UserWarning:langchain_openai"),
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning"),
]


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


class Time(BaseModel):
    """The time in a city."""

    city: str


def chat(stage: Stage, model: str = CHAT, **options: Any) -> ChatOpenAI:
    own: Any = {"http_async_client": httpx.AsyncClient(), **options}
    return ChatOpenAI(model=model, base_url=stage.base_url, api_key="any", max_retries=0, **own)  # pyright: ignore[reportArgumentType]


@pytest.mark.anyio
class TestStandard(ChatModelIntegrationTests):
    """LangChain's own suite; what it asks of a model's intelligence is left out by name."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture(autouse=True)
    def _on(self, stage: Stage) -> None:
        self._base_url = stage.base_url

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # LangChain shares one asynchronous client between all event loops; every test has a loop of its own.
        own: Any = {"http_async_client": httpx.AsyncClient()}
        return {
            "base_url": self._base_url,
            "model": CHAT,
            "api_key": "any",
            "max_retries": 0,
            "stream_usage": True,
            **own,
        }

    @property
    def model_override_value(self) -> str:
        return PARALLEL

    @property
    def supports_json_mode(self) -> bool:
        return True

    @pytest.mark.xfail(reason="measures the time of a recorded call; nothing is recorded here")
    def test_stream_time(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pytest.xfail("nothing is recorded here")

    @pytest.mark.xfail(reason="asks for a name in Chinese out of the question, which takes a real model")
    def test_unicode_tool_call_integration(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pytest.xfail("takes a real model")


def test_parallel_calls_keep_their_places_in_a_stream(stage: Stage) -> None:
    whole: Any = None
    for chunk in chat(stage, PARALLEL).bind_tools([Weather, Time], parallel_tool_calls=True).stream("Where?"):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("Weather", {"city": "Paris", "days": 3}),
        ("Time", {"city": "Paris"}),
    ]
    assert stage.asked["parallel_tool_calls"] is True


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_an_object(stage: Stage, method: Any) -> None:
    answer = chat(stage).with_structured_output(Weather, method=method).invoke("Where?")
    assert answer == Weather(city="Paris", days=3)


def test_an_image_reaches_the_upstream_as_it_was(stage: Stage) -> None:
    part: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    chat(stage).invoke([HumanMessage([{"type": "text", "text": "What?"}, part])])
    assert stage.asked["messages"][0]["content"][1] == part


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
        chat(stage, model).invoke("Where?")


def test_the_clients_own_retry_succeeds(stage: Stage) -> None:
    patient = ChatOpenAI(model="flaky-500", base_url=stage.base_url, api_key="any", max_retries=1)  # pyright: ignore[reportArgumentType]
    assert patient.invoke("Where?").content == TEXT


def test_a_stream_that_is_cut_is_an_error_for_the_client(stage: Stage) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        list(chat(stage, CUT).stream("Where?"))


def test_leaving_a_stream_cancels_the_upstream_call(stage: Stage) -> None:
    before = stage.upstream.hang_ups

    async def leave() -> None:
        client = httpx.AsyncClient()
        stream = chat(stage, SLOW, http_async_client=client).astream("Where?")
        await anext(stream)
        await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
        await client.aclose()

    asyncio.run(leave())
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)

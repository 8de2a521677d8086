"""instructor: objects out of chats, by tools, by JSON schema, in streams and in parallel."""

from collections.abc import Iterable, Iterator
from typing import Any

import instructor
import openai
import pytest
from instructor.core.exceptions import InstructorRetryException
from openai import OpenAI
from pydantic import BaseModel

from tests.conformance.conftest import Stage
from tests.conformance.scripted_model import CHAT, CUT, PARALLEL, SLOW
from tests.running import eventually

ASK: Any = [{"role": "user", "content": "Where?"}]


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


class Clock(BaseModel):
    """The time in a city."""

    city: str


@pytest.fixture
def plain(stage: Stage) -> Iterator[OpenAI]:
    with OpenAI(base_url=stage.base_url, api_key="any", max_retries=0, timeout=60) as made:
        yield made


@pytest.mark.parametrize(
    "mode",
    [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA],
    ids=["tools", "json-schema"],
)
def test_an_object_comes_out(plain: OpenAI, mode: instructor.Mode) -> None:
    client = instructor.from_openai(plain, mode=mode)
    answer = client.chat.completions.create(model=CHAT, messages=ASK, response_model=Weather)
    # The answer's class is one that instructor made out of ours.
    assert answer.model_dump() == {"city": "Paris", "days": 3}


def test_an_object_grows_in_a_stream(plain: OpenAI) -> None:
    client = instructor.from_openai(plain)
    partial = list(client.chat.completions.create_partial(model=CHAT, messages=ASK, response_model=Weather))
    assert (partial[-1].city, partial[-1].days) == ("Paris", 3)
    assert len(partial) > 1


def test_the_raw_answer_comes_with_the_object(plain: OpenAI) -> None:
    client = instructor.from_openai(plain)
    _, raw = client.chat.completions.create_with_completion(model=CHAT, messages=ASK, response_model=Weather)
    assert raw.usage.total_tokens == 30


def test_a_list_of_objects_is_streamed_one_by_one(plain: OpenAI) -> None:
    client = instructor.from_openai(plain)
    found = list(client.chat.completions.create_iterable(model=CHAT, messages=ASK, response_model=Weather))
    assert [item.model_dump() for item in found] == [{"city": "Paris", "days": 3}]


def test_parallel_calls_of_tools_are_an_object_each(plain: OpenAI, stage: Stage) -> None:
    client = instructor.from_openai(plain, mode=instructor.Mode.PARALLEL_TOOLS)
    found = client.chat.completions.create(model=PARALLEL, messages=ASK, response_model=Iterable[Weather | Clock])
    assert [(type(item), item.model_dump()) for item in found] == [
        (Weather, {"city": "Paris", "days": 3}),
        (Clock, {"city": "Paris"}),
    ]
    assert [tool["function"]["name"] for tool in stage.asked["tools"]] == ["Weather", "Clock"]


def test_an_image_reaches_the_upstream_as_it_was(plain: OpenAI, stage: Stage) -> None:
    url = "data:image/png;base64,iVBORw0KGgo="
    content: Any = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    client = instructor.from_openai(plain)
    client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": content}], response_model=Weather)
    assert stage.asked["messages"][-1]["content"][1]["image_url"]["url"] == url


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("status-400", openai.BadRequestError),
        ("status-401", openai.AuthenticationError),
        ("nobody", openai.NotFoundError),
        ("status-429", openai.RateLimitError),
        ("status-503", openai.InternalServerError),
    ],
)
def test_an_upstream_error_is_the_cause_of_the_clients(plain: OpenAI, model: str, kind: type[Exception]) -> None:
    client = instructor.from_openai(plain)
    with pytest.raises(InstructorRetryException) as raised:
        client.chat.completions.create(model=model, messages=ASK, response_model=Weather, max_retries=1)
    assert isinstance(raised.value.__cause__, kind)


def test_its_own_retry_succeeds(plain: OpenAI) -> None:
    client = instructor.from_openai(plain.with_options(max_retries=1))
    answer = client.chat.completions.create(model="flaky-500", messages=ASK, response_model=Weather)
    assert answer.city == "Paris"


def test_a_stream_that_is_cut_gives_no_object(plain: OpenAI) -> None:
    client = instructor.from_openai(plain)
    with pytest.raises(Exception, match="broke off"):
        list(client.chat.completions.create_partial(model=CUT, messages=ASK, response_model=Weather))


def test_leaving_a_stream_cancels_the_upstream_call(plain: OpenAI, stage: Stage) -> None:
    before = stage.upstream.hang_ups
    client = instructor.from_openai(plain)
    stream = client.chat.completions.create(model=SLOW, messages=ASK, response_model=None, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)

"""The vendors' own clients on these endpoints: what they accept, and what they raise."""

from typing import Any

import anthropic
import openai
import pytest

from tests.fakes import eventually
from tests.gateway.endpoint_stage import Stage, on_stage, translated
from tests.gateway.test_endpoints import VECTOR, events_of, speaks
from tests.gateway.test_endpoints_translated import CALL, TOOL_CHUNKS
from tests.upstream import Upstream, answers, fails, sends

pytestmark = pytest.mark.filterwarnings("ignore")
SAID: Any = [{"role": "user", "content": "hello"}]


def openai_client(stage: Stage) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stage.url}/v1", api_key="sk-client", max_retries=0)


def anthropic_client(stage: Stage) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=stage.url, api_key="sk-client", max_retries=0)


def test_openais_client_reads_embeddings_in_base64() -> None:
    with Upstream([speaks("embeddings")]).running() as up, on_stage(up) as stage, openai_client(stage) as client:
        answer = client.embeddings.create(model="embedder", input=["hello"])
        raw = client.embeddings.create(model="embedder", input=["hello"], encoding_format="base64")
    assert answer.data[0].embedding == [0.5, -1.25, 3.0]
    assert raw.data[0].embedding == VECTOR
    assert [asked["encoding_format"] for asked in up.requests] == ["base64", "base64"]


def test_openais_client_reads_a_response_and_a_stream_of_one() -> None:
    with Upstream([speaks("responses")]).running() as up, on_stage(up) as stage, openai_client(stage) as client:
        assert client.responses.create(model="gpt", input="hello").output_text == "Paris is lovely"
        with client.responses.stream(model="gpt", input="hello") as stream:
            texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
    assert texts == ["Paris ", "is lovely"]
    assert final.usage is not None
    assert (final.output_text, final.usage.output_tokens) == ("Paris is lovely", 9)


def test_openais_client_raises_when_a_stream_of_a_response_breaks_off() -> None:
    script = [sends(events_of("responses")[:4], then="cut")]
    with Upstream(script).running() as up, on_stage(up) as stage, openai_client(stage) as client:
        with pytest.raises(openai.APIError, match="broke off"):
            list(client.responses.create(model="gpt", input="hello", stream=True))
        with pytest.raises(openai.NotFoundError, match="embedder"):
            client.responses.create(model="nothing", input="hello")


def test_anthropics_client_reads_a_message_and_a_stream_of_one() -> None:
    with Upstream([speaks("messages")]).running() as up, on_stage(up) as stage, anthropic_client(stage) as client:
        message = client.messages.create(model="claude", max_tokens=50, messages=SAID)
        with client.messages.stream(model="claude", max_tokens=50, messages=SAID) as stream:
            texts = list(stream.text_stream)
            final = stream.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == ["Paris is lovely"]
    assert (texts, final.stop_reason, final.usage.output_tokens) == (["Paris ", "is lovely"], "end_turn", 4)
    assert message._request_id == stage.traces(2)[0].trace_id  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
    ],
)
def test_anthropics_client_raises_the_right_kind(status: int, raised: type[anthropic.APIStatusError]) -> None:
    body = {"type": "error", "error": {"type": "its_own", "message": "no luck"}}
    with (
        Upstream([fails(status, body)]).running() as up,
        on_stage(up, max_retries=0) as stage,
        anthropic_client(stage) as client,
        pytest.raises(raised, match="no luck") as caught,
    ):
        client.messages.create(model="claude", max_tokens=50, messages=SAID)
    assert caught.value.request_id == stage.trace().trace_id


def test_anthropics_client_raises_when_a_stream_breaks_off() -> None:
    script = [sends(events_of("messages")[:5], then="cut")]
    with Upstream(script).running() as up, on_stage(up) as stage, anthropic_client(stage) as client:
        texts: list[str] = []
        with (
            pytest.raises(anthropic.APIStatusError, match="broke off"),
            client.messages.stream(model="claude", max_tokens=50, messages=SAID) as stream,
        ):
            texts.extend(stream.text_stream)
    assert texts == ["Paris ", "is lovely"]


def test_anthropics_client_reads_what_a_chat_model_says_and_calls() -> None:
    tool: Any = {"name": "weather", "input_schema": {"type": "object"}}
    script = [answers("Paris is lovely"), sends(TOOL_CHUNKS)]
    with (
        Upstream(script).running() as up,
        on_stage(up, providers=translated) as stage,
        anthropic_client(stage) as client,
    ):
        message = client.messages.create(model="claude", max_tokens=50, messages=SAID)
        with client.messages.stream(model="claude", max_tokens=50, messages=SAID, tools=[tool]) as stream:
            called = stream.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == ["Paris is lovely"]
    calls = [block for block in called.content if block.type == "tool_use"]
    assert (called.stop_reason, calls[0].name, calls[0].input) == ("tool_use", "weather", {"city": "Paris"})


def test_openais_client_reads_what_a_chat_model_says_and_calls() -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
    script = [answers("Paris is lovely"), sends(TOOL_CHUNKS)]
    with (
        Upstream(script).running() as up,
        on_stage(up, providers=translated) as stage,
        openai_client(stage) as client,
    ):
        assert client.responses.create(model="gpt", input="hello").output_text == "Paris is lovely"
        with client.responses.stream(model="gpt", input="hello", tools=[tool]) as stream:
            final = stream.get_final_response()
    calls = [item for item in final.output if item.type == "function_call"]
    assert (calls[0].name, calls[0].call_id, calls[0].arguments) == ("weather", "c1", CALL["function"]["arguments"])


def test_a_client_that_closes_its_stream_ends_the_upstream_call() -> None:
    script = [sends(events_of("messages")[:5], then="stall")]
    with (
        Upstream(script).running() as up,
        on_stage(up, timeout_s=30) as stage,
        anthropic_client(stage) as client,
    ):
        with client.messages.stream(model="claude", max_tokens=50, messages=SAID) as stream:
            next(iter(stream.text_stream))
        eventually(lambda: up.hang_ups == 1)

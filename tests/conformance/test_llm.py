"""Simon Willison's `llm`, with a model of ours in its `extra-openai-models.yaml`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm
import openai
import pytest
from llm.default_plugins.openai_models import Chat
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


class Weather(BaseModel):
    city: str
    days: int


@pytest.fixture
def model(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A model by name, as a user of the command line configures it."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))

    def get(name: str = CHAT) -> Any:
        entry = {
            "model_id": f"ours-{name}",
            "model_name": name,
            "api_base": stage.base_url,
            "api_key_name": "ours",
            "supports_tools": True,
            "supports_schema": True,
            "vision": True,
        }
        (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([entry]))
        (tmp_path / "keys.json").write_text('{"ours": "any"}')
        return llm.get_model(f"ours-{name}")

    return get


def at_once(*_: object) -> float:
    return 0.0


def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"sunny in {city} for {days} days"


def clock(city: str) -> str:
    """Tell the time."""
    return f"noon in {city}"


def test_a_model_of_ours_is_found_by_its_name(model: Callable[..., Any]) -> None:
    assert isinstance(model(), Chat)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_chat_answer_arrives_with_its_usage(model: Callable[..., Any], *, stream: bool) -> None:
    answer = model().prompt("Where?", stream=stream)
    assert "".join(answer) == TEXT
    assert (answer.usage().input, answer.usage().output) == (21, 9)


def test_tools_are_called_in_parallel_and_their_answers_go_back(model: Callable[..., Any], stage: Stage) -> None:
    chain = model(PARALLEL).conversation().chain("Where?", tools=[weather, clock])
    assert chain.text() == TEXT
    answers = [m["content"] for m in stage.asked["messages"] if m["role"] == "tool"]
    assert answers == ["sunny in Paris for 3 days", "noon in Paris"]


def test_structured_output_is_an_object(model: Callable[..., Any]) -> None:
    answer = model().prompt("Where?", schema=Weather).text()
    assert Weather.model_validate_json(answer) == Weather(city="Paris", days=3)


def test_an_image_reaches_the_upstream_as_it_was(model: Callable[..., Any], stage: Stage) -> None:
    image = llm.Attachment(content=b"\x89PNG\r\n\x1a\n", type="image/png")
    model().prompt("What?", attachments=[image]).text()
    assert stage.asked["messages"][-1]["content"][1]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("status-400", openai.BadRequestError),
        ("status-401", openai.AuthenticationError),
        ("nobody", openai.NotFoundError),
    ],
)
def test_an_upstream_error_is_the_clients_own_exception(
    model: Callable[..., Any], name: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        model(name).prompt("Where?").text()


@pytest.mark.parametrize(
    ("name", "kind", "status", "retry_after"),
    [
        ("status-429", openai.RateLimitError, 429, "7"),
        ("status-500", openai.InternalServerError, 502, None),
        ("status-503", openai.InternalServerError, 503, "7"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_overloaded_upstream_is_asked_again_and_then_the_clients_own_exception(
    model: Callable[..., Any],
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: type[openai.APIStatusError],
    status: int,
    retry_after: str | None,
    *,
    stream: bool,
) -> None:
    # The client would wait as long as the upstream asks for.
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", at_once)
    before = len(stage.upstream.requests)
    with pytest.raises(kind) as raised:
        model(name).prompt("Where?", stream=stream).text()
    assert raised.value.status_code == status
    assert raised.value.response.headers.get("retry-after") == retry_after
    assert len(stage.upstream.requests) == before + 1 + openai.DEFAULT_MAX_RETRIES


def test_the_clients_own_retry_succeeds(model: Callable[..., Any]) -> None:
    assert model("flaky-500").prompt("Where?").text() == TEXT


def test_a_stream_that_is_cut_is_an_error_for_the_client(model: Callable[..., Any]) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        model(CUT).prompt("Where?", stream=True).text()


def test_killing_the_command_cancels_the_upstream_call(model: Callable[..., Any], stage: Stage) -> None:
    before = stage.upstream.hang_ups
    model(SLOW)
    command = [sys.executable, "-m", "llm", "prompt", "-m", f"ours-{SLOW}", "--no-log", "Where?"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == TEXT[:1].encode()
        process.kill()
    eventually(lambda: stage.upstream.hang_ups == before + 1, timeout_s=10)

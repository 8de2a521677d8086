"""Vendors with their own wire formats, through the running gateway: what the client sees, what the trace says."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rs_gateway.adapters.price_table import shipped_prices
from tests.gateway.providers import anthropic_wire
from tests.gateway.providers.asking import WEATHER
from tests.gateway.providers.vendor import Reply, Vendor, says, streams
from tests.gateway.providers.vendors import ANTHROPIC, COHERE, GEMINI, MISTRAL, OLLAMA, SECRET, Wire
from tests.running import RunningGateway, eventually, register, running_gateway

# litellm is a large library with warnings of its own; they are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")
KEYS = ("ANTHROPIC_API_KEY", "GEMINI_API_KEY", "COHERE_API_KEY", "MISTRAL_API_KEY", "OLLAMA_API_KEY")


@pytest.fixture(params=[ANTHROPIC, GEMINI, COHERE, MISTRAL, OLLAMA], ids=lambda wire: wire.provider)
def wire(request: pytest.FixtureRequest) -> Wire:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in KEYS:
        monkeypatch.setenv(variable, SECRET)
    register(tmp_path)
    return tmp_path


def ask(wire: Wire, **more: Any) -> dict[str, Any]:
    return {
        "model": wire.model,
        "messages": [{"role": "user", "content": "Help me"}],
        "variables": {"customer_name": "Jordan"},
        "max_tokens": 50,
        **more,
    }


@contextmanager
def gateway_over(wire: Wire, folder: Path, *script: Reply) -> Generator[tuple[RunningGateway, Vendor]]:
    with Vendor(list(script)).running() as vendor:
        combination = {"id": "one", "template_id": "support", "model": wire.model, "provider": wire.provider}
        kind = "openai_compatible" if wire.direct else "litellm"
        configuration = {
            "model_providers": {wire.provider: {"kind": kind, "base_url": vendor.url + wire.root}},
            "gateway": {"combinations": [combination]},
            "api": {"timeout_seconds": 60, "max_retries": 0},
        }
        with running_gateway(folder, configuration) as gateway:
            yield gateway, vendor


def whole(wire: Wire) -> Reply:
    return says(wire.whole) if wire.whole is not None else streams(wire.stream)


def test_a_plain_call_comes_back_in_openais_shape(wire: Wire, folder: Path) -> None:
    with gateway_over(wire, folder, whole(wire)) as (gateway, vendor):
        with gateway.client() as client:
            response = client.post("/v1/chat/completions", json=ask(wire), timeout=400)
        assert response.status_code == 200, response.text
        assert "Paris is lovely" in json.dumps(response.json()["choices"][0]["message"])
        assert "You help Jordan." in json.dumps(vendor.asked[0].body)
        trace = gateway.traces()[0]
    assert (trace["outcome"], trace["usage_source"]) == ("complete", "provider")
    assert (trace["input_tokens"], trace["output_tokens"]) == (12, 4)


def test_a_stream_is_translated(wire: Wire, folder: Path) -> None:
    with gateway_over(wire, folder, streams(wire.stream)) as (gateway, _):
        status, text = gateway.stream(ask(wire))
        trace = gateway.traces()[0]
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert json.loads(trace["response"])["content"] == "Paris is lovely"
    assert (trace["outcome"], trace["input_tokens"]) == ("complete", 12)


def test_a_usage_chunk_comes_only_to_who_asked(folder: Path) -> None:
    wire = ANTHROPIC
    with gateway_over(wire, folder, streams(wire.stream)) as (gateway, _):
        _, without = gateway.stream(ask(wire))
        _, with_it = gateway.stream(ask(wire, stream_options={"include_usage": True}))
    assert "usage" not in without
    chunks = [json.loads(line[6:]) for line in with_it.split("\n\n") if line.startswith("data: {")]
    assert [c["choices"] for c in chunks if c.get("usage")] == [[]]


def test_tool_calls_reach_the_client(wire: Wire, folder: Path) -> None:
    with gateway_over(wire, folder, streams(wire.streamed_calls)) as (gateway, _):
        _, text = gateway.stream(ask(wire, tools=[WEATHER]))
        trace = gateway.traces()[0]
    assert text.endswith("data: [DONE]\n\n")
    calls = json.loads(trace["response"])["tool_calls"]
    assert [json.loads(c["function"]["arguments"])["city"] for c in calls] == ["Paris", "Rome"]
    assert trace["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("then", ["end", "cut"])
def test_a_stream_that_breaks_off_is_not_passed_off_as_whole(wire: Wire, folder: Path, then: Any) -> None:
    with gateway_over(wire, folder, streams(wire.opening, then=then)) as (gateway, _):
        _, text = gateway.stream(ask(wire))
        trace = gateway.traces()[0]
    assert "[DONE]" not in text
    assert trace["outcome"] == "provider_cut"


@pytest.mark.parametrize(
    ("status", "seen"), [(400, 400), (401, 401), (404, 404), (429, 429), (500, 502), (503, 503), (529, 503)]
)
def test_an_error_keeps_its_meaning(wire: Wire, folder: Path, status: int, seen: int) -> None:
    reply = says(wire.error(status, f"not with {SECRET}"), status=status, headers={"retry-after": "7"})
    with gateway_over(wire, folder, reply) as (gateway, vendor), gateway.client() as client:
        response = client.post("/v1/chat/completions", json=ask(wire), timeout=400)
    assert response.status_code == seen
    assert response.headers.get("retry-after") == ("7" if status >= 429 else None)
    assert SECRET not in response.text
    assert "127.0.0.1" not in response.text
    assert len(vendor.asked) == 1


def test_a_parameter_that_the_vendor_does_not_know_is_refused_by_name(folder: Path) -> None:
    with gateway_over(ANTHROPIC, folder, whole(ANTHROPIC)) as (gateway, vendor), gateway.client() as client:
        response = client.post("/v1/chat/completions", json=ask(ANTHROPIC, logit_bias={"1": 2}), timeout=400)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("logit_bias", "unsupported_parameter")
    assert vendor.asked == []


def test_a_tool_of_a_kind_that_the_vendor_does_not_have_is_the_clients_mistake(folder: Path) -> None:
    wire = ANTHROPIC
    with gateway_over(wire, folder, streams(wire.stream)) as (gateway, _):
        answer = gateway.ask(ask(wire, tools=[{"type": "fortune_telling", "fortune_telling": {}}]))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"
    assert "fortune_telling" in answer.json()["error"]["message"]


def test_a_client_cannot_choose_the_vendors_address(folder: Path) -> None:
    with Vendor([whole(ANTHROPIC)]).running() as elsewhere:
        with gateway_over(ANTHROPIC, folder, whole(ANTHROPIC)) as (gateway, _), gateway.client() as client:
            response = client.post("/v1/chat/completions", json=ask(ANTHROPIC, api_base=elsewhere.url), timeout=400)
        assert response.status_code == 400
        assert elsewhere.asked == []


def test_a_client_that_leaves_ends_the_vendors_call(wire: Wire, folder: Path) -> None:
    with gateway_over(wire, folder, streams(wire.opening, then="stall")) as (gateway, vendor):
        with (
            gateway.client() as client,
            client.stream("POST", "/v1/chat/completions", json=ask(wire, stream=True), timeout=400) as response,
        ):
            next(response.iter_bytes())
        eventually(lambda: vendor.hang_ups == 1, timeout_s=20)
        trace = gateway.traces()[0]
    assert trace["outcome"] == "client_cancelled"


def test_the_trace_says_what_an_answer_cost(folder: Path) -> None:
    cached = {"input_tokens": 12, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 100}
    reply = says(anthropic_wire.message(anthropic_wire.text("Yes"), usage=cached))
    with gateway_over(ANTHROPIC, folder, reply) as (gateway, _), gateway.client() as client:
        client.post("/v1/chat/completions", json=ask(ANTHROPIC), timeout=400)
        trace = gateway.traces()[0]
    assert (trace["cached_input_tokens"], trace["cache_write_tokens"]) == (1000, 100)
    price = shipped_prices().price("anthropic", ANTHROPIC.model)
    assert price is not None
    assert price.cached_input_usd_per_million_tokens is not None
    assert price.cache_write_usd_per_million_tokens is not None
    assert trace["cost_usd"] * 1e6 == pytest.approx(
        12 * price.input_usd_per_million_tokens
        + 1000 * price.cached_input_usd_per_million_tokens
        + 100 * price.cache_write_usd_per_million_tokens
        + 4 * price.output_usd_per_million_tokens
    )


def test_threads_that_need_litellm_at_once_get_it_set_up_once() -> None:
    program = (
        "import threading\n"
        "from rs_gateway.adapters import litellm_chat\n"
        "taught, teach = [], litellm_chat._teach_timeouts\n"
        "litellm_chat._teach_timeouts = lambda calls: (taught.append(calls), teach(calls))\n"
        "threads = [threading.Thread(target=litellm_chat.load_litellm) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert len(taught) == 1, taught\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr

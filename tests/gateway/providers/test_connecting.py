"""How long behind litellm a connection may take: as long as is configured, not as long as the answer may."""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from rs_gateway.adapters.litellm_chat import LiteLLMChat, load_litellm
from rs_gateway.adapters.litellm_embeddings import LiteLLMEmbeddings
from rs_gateway.domain.endpoints import EndpointCall, EndpointRequest
from rs_gateway.domain.errors import ProviderTimeoutError
from tests.gateway.fault_wall.faults import nobody_picks_up
from tests.gateway.providers.asking import call, completed, run, streamed
from tests.gateway.providers.vendors import ANTHROPIC, COHERE, GEMINI, SECRET

pytestmark = pytest.mark.filterwarnings("ignore")
MODELS = [(wire.provider, wire.model) for wire in (ANTHROPIC, GEMINI, COHERE)]


def embedding_waits_s(vendor: str, *, connect_timeout_s: float, timeout_s: float) -> float:
    """How long an embedding waits for a host that does not pick up."""

    async def act(_: Any) -> float:
        request = EndpointRequest("embeddings", "m", {"input": "hello"}, stream=False, headers={})
        began = time.monotonic()
        with pytest.raises(ProviderTimeoutError):
            await provider.ask(EndpointCall(request, "m", {}, timeout_s))
        return time.monotonic() - began

    load_litellm()
    with nobody_picks_up() as deaf:
        provider = LiteLLMEmbeddings(
            "v", vendor=vendor, base_url=deaf, api_key=SECRET, connect_timeout_s=connect_timeout_s
        )
        return run(provider, act)  # pyright: ignore[reportArgumentType]  # all it needs is to be closed


@pytest.mark.parametrize("ask", [completed, streamed], ids=["plain", "stream"])
@pytest.mark.parametrize(("name", "model"), [*MODELS, ("my-bridge", "openai/m")])
def test_a_host_that_does_not_pick_up_costs_the_connect_timeout_and_no_more(
    name: str, model: str, ask: Callable[..., Any]
) -> None:
    load_litellm()
    with nobody_picks_up() as deaf:
        adapter = LiteLLMChat(name, base_url=deaf, api_key=SECRET, connect_timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(ProviderTimeoutError):
            ask(adapter, call(model, timeout_s=30.0))
    assert 0.3 <= time.monotonic() - began < 25


def test_embeddings_do_not_wait_longer_either() -> None:
    assert embedding_waits_s("cohere", connect_timeout_s=0.3, timeout_s=30.0) < 25
    assert embedding_waits_s("openai", connect_timeout_s=0.3, timeout_s=30.0) < 25


def test_no_embedding_outlives_its_deadline() -> None:
    """litellm takes neither a timeout nor a client for Google's."""
    assert embedding_waits_s("gemini", connect_timeout_s=0.3, timeout_s=0.6) < 25


def test_closing_one_provider_leaves_the_others_their_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    litellm, closed = load_litellm(), list[int]()

    async def close_all() -> None:
        closed.append(1)

    monkeypatch.setattr(litellm, "close_litellm_async_clients", close_all)
    first, second = (LiteLLMChat(name, base_url=None, api_key=SECRET) for name in ("anthropic", "cohere"))

    async def close(provider: LiteLLMChat) -> int:
        await provider.aclose()
        return len(closed)

    gc.collect()  # those of earlier tests that nobody closed
    assert asyncio.run(close(first)) == 0
    assert asyncio.run(close(second)) == 1

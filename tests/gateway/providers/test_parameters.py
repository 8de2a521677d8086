"""Whatever a client sends, on the way through litellm it reaches the vendor or is refused; nothing is lost."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.litellm_parameters import forwardable, forwarded
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ProviderRefusedError
from tests.gateway.providers.asking import call, completed, streamed
from tests.gateway.providers.vendor import Vendor, says, streams
from tests.gateway.providers.vendors import ANTHROPIC, COHERE, GEMINI, Wire

pytestmark = pytest.mark.filterwarnings("ignore")
THROUGH_LITELLM = pytest.mark.parametrize("wire", [ANTHROPIC, GEMINI, COHERE], ids=lambda wire: wire.provider)


def asking_for(wire: Wire, parameter: str, value: Any) -> ProviderCall:
    return replace(call(wire.model), parameters={parameter: value})


@THROUGH_LITELLM
@pytest.mark.parametrize(
    "parameter", ["a_future_parameter", "logit_bias", "metadata", "store", "prediction", "safety_identifier"]
)
def test_a_parameter_that_would_be_lost_is_refused_by_name(wire: Wire, parameter: str) -> None:
    for ask in (completed, streamed):
        with Vendor([streams(wire.stream)]).running() as vendor, pytest.raises(ProviderRefusedError) as raised:
            ask(wire.adapter(vendor), asking_for(wire, parameter, {"a": True}))
        assert (raised.value.status, raised.value.param) == (400, parameter)
        assert parameter in str(raised.value)
        assert raised.value.upstream_code == "unsupported_parameter"
        assert vendor.asked == []


@THROUGH_LITELLM
@pytest.mark.parametrize(
    "parameter", ["api_base", "base_url", "api_key", "extra_headers", "headers", "custom_llm_provider", "mock_response"]
)
def test_a_client_can_choose_no_address_no_key_and_no_header(wire: Wire, parameter: str) -> None:
    with Vendor([streams(wire.stream)]).running() as elsewhere, Vendor([streams(wire.stream)]).running() as vendor:
        with pytest.raises(ProviderRefusedError) as raised:
            completed(wire.adapter(vendor), asking_for(wire, parameter, elsewhere.url))
        assert raised.value.param == parameter
        assert elsewhere.asked == []


@THROUGH_LITELLM
def test_values_that_ask_for_nothing_are_no_reason_to_refuse(wire: Wire) -> None:
    asked = call(
        wire.model, n=1, logprobs=False, store=False, presence_penalty=0, frequency_penalty=0.0, metadata={}, seed=None
    )
    reply = says(wire.whole) if wire.whole is not None else streams(wire.stream)
    with Vendor([reply]).running() as vendor:
        assert completed(wire.adapter(vendor), asked).finish_reason == "stop"


@given(
    st.dictionaries(
        st.sampled_from(["temperature", "seed", "n", "user", "api_base", "x_new", "stop", "stream"]),
        st.sampled_from([None, True, False, 0, 1, 2, "", "x", ["x"], {}]),
    )
)
def test_every_parameter_is_forwarded_refused_or_asks_for_nothing(parameters: dict[str, Any]) -> None:
    known = forwardable("cohere_chat", ["temperature", "seed", "stop", "extra_headers"])
    try:
        kept = forwarded(parameters, known=known, name="cohere")
    except ProviderRefusedError as error:
        assert error.param in parameters
        assert error.param not in known
    else:
        lost = set(parameters) - set(kept)
        assert all(parameters[p] is None or (p, parameters[p]) == ("n", 1) or p == "stream" for p in lost)
        assert set(kept) <= known


def test_litellm_waits_for_the_first_call_that_needs_it() -> None:
    code = (
        "import sys; from rs_gateway.adapters.litellm_chat import LiteLLMChat; "
        "LiteLLMChat('anthropic', base_url=None, api_key='k'); assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ}, timeout=400)

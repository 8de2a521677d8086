"""A process that calls a vendor through litellm talks to that vendor and to nobody else."""

import json
import os
import subprocess
import sys

import pytest

from rs_gateway.domain.chat import JsonObject
from tests.gateway.providers.vendor import Vendor, says, streams
from tests.gateway.providers.vendors import ANTHROPIC, COHERE, GEMINI, Wire

ASK_TWICE = """
import asyncio, json, sys
tried = []
def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        tried.append(str(arguments[0]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        tried.append(str(arguments[1][0]))
sys.addaudithook(hook)
from rs_gateway.adapters.litellm_chat import LiteLLMChat
from rs_gateway.domain.chat import ProviderCall
async def main(name, base_url, model, parameters):
    adapter = LiteLLMChat(name, base_url=base_url, api_key="k")
    call = ProviderCall(model, ({"role": "user", "content": "Where?"},), json.loads(parameters), 300.0)
    if name != "cohere":
        await adapter.complete(call)
    async with adapter.stream(call) as batches:
        async for batch in batches:
            pass
    await adapter.aclose()
asyncio.run(main(*sys.argv[1:]))
print(json.dumps(tried))
"""


SCHEMA: JsonObject = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STRUCTURED: JsonObject = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


@pytest.mark.parametrize("wire", [ANTHROPIC, GEMINI, COHERE], ids=lambda wire: wire.provider)
def test_a_first_call_contacts_the_vendor_alone(wire: Wire) -> None:
    # Where Anthropic is asked for something that one of its beta headers turns on, litellm looks up which there are.
    parameters = {} if wire is COHERE else {"response_format": STRUCTURED}
    # Without what `tests/conftest.py` sets, as an operator's process is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM_")}
    replies = [says(wire.whole)] if wire.whole is not None else []
    with Vendor([*replies, streams(wire.stream)]).running() as vendor:
        done = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-c", ASK_TWICE, wire.provider, vendor.url + wire.root, wire.model),
                json.dumps(parameters),
            ],
            capture_output=True, text=True, check=False, env=environment, timeout=400,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tried = json.loads(done.stdout.splitlines()[-1])
    assert set(tried) == {"127.0.0.1"}

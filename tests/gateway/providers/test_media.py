"""Images and files behind litellm: the gateway contacts nobody that a client names."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from rs_gateway.adapters.litellm_chat import LiteLLMChat, load_litellm
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.errors import ProviderRefusedError
from tests.gateway.providers import anthropic_wire, openai_wire
from tests.gateway.providers.asking import call, completed, streamed
from tests.gateway.providers.vendor import Vendor, says, streams
from tests.gateway.providers.vendors import ANTHROPIC, COHERE, GEMINI, SECRET, Wire

pytestmark = pytest.mark.filterwarnings("ignore")
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


@dataclass
class Listener:
    """A host that nobody must talk to."""

    port: int
    contacts: int = 0
    closing: bool = False

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/secret.png"


@contextlib.contextmanager
def listening() -> Generator[Listener]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        listener = Listener(server.getsockname()[1])

        def count() -> None:
            while True:
                connection, _ = server.accept()
                if listener.closing:
                    return
                listener.contacts += 1
                connection.close()

        thread = threading.Thread(target=count)
        thread.start()
        try:
            yield listener
        finally:
            listener.closing = True
            socket.create_connection(server.getsockname()).close()
            thread.join(60)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Somebody whom litellm, left to itself, would ask: no list of its own keeps it from doing so."""
    litellm = load_litellm()
    from litellm.litellm_core_utils.prompt_templates import image_handling

    monkeypatch.setattr(litellm, "user_url_allowed_hosts", ["127.0.0.1"])
    monkeypatch.setattr(image_handling, "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB", 50.0)
    with listening() as listener:
        yield listener


def showing(model: str, *parts: JsonObject, **message: Any) -> ProviderCall:
    content: list[JsonObject] = [{"type": "text", "text": "What is on http://127.0.0.1/this?"}, *parts]
    return replace(call(model), messages=({"role": "user", "content": content, **message},))


PARTS: dict[str, JsonObject] = {
    "image_url.url": {"type": "image_url", "image_url": {"url": "URL"}},
    "image_url": {"type": "image_url", "image_url": "URL"},
    "file.file_id": {"type": "file", "file": {"file_id": "URL"}},
    "file.file_data": {"type": "file", "file": {"file_data": "URL", "format": "image/png"}},
    "source.url": {"type": "document", "source": {"type": "url", "url": "URL"}},
    "some_future.uri": {"type": "some_future", "some_future": {"uri": "URL"}},
}


def part(field: str, url: str) -> JsonObject:
    """A part of a content that holds the address in this field."""
    return json.loads(json.dumps(PARTS[field]).replace("URL", url))


CASES = [
    pytest.param(wire, field, scheme, id=f"{wire.provider}-{field}-{scheme}")
    for wire in (ANTHROPIC, GEMINI, COHERE)
    for field in PARTS
    for scheme in ("http", "https", "HTTP", "gs")
    if (wire, scheme) != (ANTHROPIC, "https") or field not in ("image_url.url", "image_url", "file.file_id")
]


@pytest.mark.parametrize(("wire", "field", "scheme"), CASES)
def test_an_address_in_a_message_is_refused_and_nobody_is_asked(
    wire: Wire, field: str, scheme: str, listener: Listener
) -> None:
    asked = showing(wire.model, part(field, listener.url(scheme)))
    for ask in (completed, streamed):
        with Vendor([streams(wire.stream)]).running() as vendor, pytest.raises(ProviderRefusedError) as raised:
            ask(wire.adapter(vendor), asked)
        assert (raised.value.status, raised.value.upstream_code) == (400, "unsupported_parameter")
        assert raised.value.param == f"messages[].content[1].{field}"
        assert f"`{raised.value.param}`" in str(raised.value)
        assert "127.0.0.1" not in str(raised.value)
        assert vendor.asked == []
    assert listener.contacts == 0


def test_an_address_beside_the_content_is_refused_too(listener: Listener) -> None:
    images = [{"type": "image_url", "image_url": {"url": listener.url()}}]
    asked = showing(GEMINI.model, role="assistant", images=images)
    with Vendor([streams(GEMINI.stream)]).running() as vendor, pytest.raises(ProviderRefusedError) as raised:
        completed(GEMINI.adapter(vendor), asked)
    assert raised.value.param == "messages[].images[0].image_url.url"
    assert listener.contacts == 0


@pytest.mark.parametrize("wire", [ANTHROPIC, GEMINI], ids=lambda wire: wire.provider)
def test_a_data_url_goes_on(wire: Wire, listener: Listener) -> None:
    asked = showing(
        wire.model,
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}},
        {"type": "file", "file": {"file_data": PIXEL.replace("image/png", "application/pdf")}},
    )
    with Vendor([says(wire.whole)]).running() as vendor:
        completed(wire.adapter(vendor), asked)
    assert str(vendor.asked[0].body).count(PIXEL.partition(",")[2]) == 2
    assert listener.contacts == 0


def test_anthropic_is_told_an_https_address_and_fetches_it_itself(listener: Listener) -> None:
    url = listener.url("https")
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "high"}}, part("file.file_id", url)]
    asked = showing(ANTHROPIC.model, *parts)
    # Where the vendor counts nothing litellm counts the prompt, and would look at the image for it.
    stop = anthropic_wire.named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    uncounted = [*anthropic_wire.text_block(0, "Paris"), stop, anthropic_wire.ended()[1]]
    for reply, ask in ((says(ANTHROPIC.whole), completed), (streams(uncounted), streamed)):
        with Vendor([reply]).running() as vendor:
            ask(ANTHROPIC.adapter(vendor), asked)
        image, document = vendor.asked[0].body["messages"][0]["content"][1:]
        assert image == {"type": "image", "source": {"type": "url", "url": url}}
        assert document == {"type": "document", "source": {"type": "url", "url": url}}
    assert listener.contacts == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_openais_own_api_is_told_an_address_and_fetches_it_itself(scheme: str, listener: Listener) -> None:
    image = {"type": "image_url", "image_url": {"url": listener.url(scheme), "detail": "high"}}
    reply = says(openai_wire.answer("m", "Paris is lovely", openai_wire.OLLAMA))
    uncounted = [e for e in openai_wire.stream("m", ["Paris"], openai_wire.OLLAMA) if b'"usage"' not in e]
    with Vendor([reply, streams(uncounted)]).running() as vendor:
        for ask in (completed, streamed):
            adapter = LiteLLMChat("my-bridge", base_url=vendor.url + "/v1", api_key=SECRET)
            ask(adapter, showing("openai/m", image))
    assert [a.body["messages"][0]["content"][1] for a in vendor.asked] == [image, image]
    assert listener.contacts == 0


def test_what_a_model_once_said_about_its_sources_may_come_back() -> None:
    citation = {"type": "url_citation", "url_citation": {"url": "https://example.com", "title": "A page"}}
    asked = showing(ANTHROPIC.model, role="assistant", annotations=[citation], tool_calls=[])
    with Vendor([says(ANTHROPIC.whole)]).running() as vendor:
        assert completed(ANTHROPIC.adapter(vendor), asked).finish_reason == "stop"


def test_litellm_is_set_up_to_download_nothing() -> None:
    code = (
        "from rs_gateway.adapters.litellm_chat import load_litellm\n"
        "load_litellm().user_url_allowed_hosts = ['127.0.0.1']\n"
        "from litellm.litellm_core_utils.prompt_templates.image_handling import convert_url_to_base64\n"
        "try:\n    convert_url_to_base64({!r})\nexcept Exception as error:\n    print(error)\n"
    )
    environment = {**os.environ, "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "50"}
    with listening() as listener:
        done = subprocess.run(
            [sys.executable, "-c", code.format(listener.url())],
            capture_output=True, text=True, check=True, env=environment, timeout=400,
        )  # fmt: skip
    assert "download is disabled" in done.stdout
    assert listener.contacts == 0

"""`route-switch init` and `check --live`: a first configuration that works, and whether those in it answer."""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rs_gateway.domain.traces import Usage, UsageSource
from rs_gateway.first_configuration import FIRST_MODELS, first_configuration
from rs_gateway.settings import DIRECT_BASE_URLS, KEYED_PROVIDERS, load_settings
from rs_gateway.surroundings import LOCAL_MODEL_URL, Surroundings, look_around
from rs_gateway.wiring import combinations_of, open_prices, passthrough_of
from tests import upstream as wire
from tests.commands import COMMANDS, failure, from_json, invoke, ok
from tests.gateway.test_chat import configuration
from tests.running import register, write_configuration
from tests.upstream import Upstream

KEY = "sk-very-secret"
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in KEYED_PROVIDERS:
        for variable in (f"{name.upper()}_API_KEY", f"ROUTE_SWITCH_{name.upper()}_API_KEY"):
            monkeypatch.delenv(variable, raising=False)
    for variable in ("GEMINI_API_KEY", "RS_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    monkeypatch.setattr("rs_gateway.surroundings.LOCAL_MODEL_URL", nobody)
    monkeypatch.setattr("rs_gateway.surroundings.DIRECT_BASE_URLS", {**DIRECT_BASE_URLS, "ollama": nobody})
    return tmp_path


@contextlib.contextmanager
def local_server(body: bytes) -> Generator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_keys_are_found_named_and_never_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    found = from_json("init")
    assert found.pop("addr").startswith("127.0.0.1:80")
    assert found == {
        "file": "route-switch.yaml",
        "providers": [
            {"name": "google", "key_variable": "GEMINI_API_KEY", "models": ["gemini-2.5-flash"]},
            {"name": "openai", "key_variable": "OPENAI_API_KEY", "models": ["gpt-4o-mini"]},
        ],
    }
    text = (folder / "route-switch.yaml").read_text()
    assert KEY not in text
    assert "OPENAI_API_KEY" in text
    assert set(passthrough_of(load_settings())) == {"gpt-4o-mini", "gemini-2.5-flash"}
    assert from_json("check") == {"ok": True, "templates": [], "problems": []}


def test_without_anybody_to_answer_it_says_what_to_do(folder: Path) -> None:
    result = ok("init", "--config", "sub.yaml")
    assert "found nobody to answer: set OPENAI_API_KEY" in result.stderr
    assert result.stdout == ""
    assert load_settings(folder / "sub.yaml").model_providers == {}


def test_a_file_that_is_there_is_replaced_only_on_purpose(folder: Path) -> None:
    (folder / "route-switch.yaml").write_text("mine")
    assert "route-switch.yaml is there already" in failure("init")
    assert (folder / "route-switch.yaml").read_text() == "mine"
    ok("init", "--overwrite")
    assert load_settings().model_providers == {}


def test_what_is_no_regular_file_is_never_replaced(folder: Path) -> None:
    pipe = folder / "pipe.yaml"
    os.mkfifo(pipe)

    assert "no file that could be replaced" in failure("init", "--overwrite", "--config", str(pipe))
    assert pipe.is_fifo()


def test_a_local_ollama_is_found_with_its_models() -> None:
    body = json.dumps({"models": [{"name": "qwen3:0.6b"}, {"name": "llama3.2:latest"}]}).encode()
    with local_server(body) as url:
        assert look_around({}, ollama_url=url, local_url=NOWHERE).ollama_models == ("qwen3:0.6b", "llama3.2:latest")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"models": 5}', b'{"models": [{}]}', b"\xff"])
def test_whatever_else_answers_there_is_no_ollama(body: bytes) -> None:
    with local_server(body) as url:
        assert look_around({}, ollama_url=url, local_url=NOWHERE).ollama_models is None


def llama_cpp(*models: str, owner: str = "llamacpp") -> bytes:
    return json.dumps({"object": "list", "data": [{"id": name, "owned_by": owner} for name in models]}).encode()


def test_a_running_model_serve_is_found_and_written_so_that_it_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_server(llama_cpp("smollm2-135m-instruct")) as url:
        monkeypatch.setattr("rs_gateway.surroundings.LOCAL_MODEL_URL", f"{url}/v1")
        said = ok("init").stderr
        found = from_json("init", "--overwrite")
    assert "Found local (on this machine): smollm2-135m-instruct" in said
    assert found["providers"] == [{"name": "local", "key_variable": None, "models": ["smollm2-135m-instruct"]}]
    provider = load_settings().model_providers["local"]
    assert (provider.base_url, provider.models) == (LOCAL_MODEL_URL, ("smollm2-135m-instruct",))
    assert provider.options == {"max_tokens": 256}
    assert set(passthrough_of(load_settings())) == {"smollm2-135m-instruct"}


def test_it_is_looked_for_where_model_serve_answers_by_default() -> None:
    defaults = {parameter.name: parameter.default for parameter in COMMANDS["model serve"].params}
    assert f"http://{defaults['host']}:{defaults['port']}/v1" == LOCAL_MODEL_URL


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"data": 5}', b'{"data": [{}]}', b"[" * 200_000, llama_cpp(), llama_cpp("gpt", owner="x")]
)
def test_whatever_else_answers_there_is_no_model_of_ours(body: bytes) -> None:
    with local_server(body) as url:
        assert look_around({}, ollama_url=NOWHERE, local_url=url).local_models is None


def test_a_server_that_speaks_no_http_is_no_model_of_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(2):
                client, _ = listener.accept()
                with client:
                    client.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
                    client.recv(1_000)

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        found = look_around({}, ollama_url=url, local_url=url)
        thread.join()
    assert (found.ollama_models, found.local_models) == (None, None)


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Generator[str]:
    """Answers each connection in a thread, until the block ends; what nobody reads any more is no error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, contextlib.suppress(OSError):
                        answer(client)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def drip(client: socket.socket, head: bytes) -> None:
    client.sendall(head)
    client.settimeout(0.05)
    while True:
        with contextlib.suppress(TimeoutError):
            if not client.recv(1_000):
                return
        client.sendall(b" ")


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nx: "], ids=["body", "head"])
def test_a_server_that_sends_a_byte_now_and_then_is_left(head: bytes) -> None:
    with raw_server(lambda client: drip(client, head)) as url:
        began = time.monotonic()
        found = look_around({}, ollama_url=url, local_url=url)
        assert time.monotonic() - began < 20, "two looks, each of half a second"
    assert (found.ollama_models, found.local_models) == (None, None)


def test_of_an_answer_without_end_only_the_beginning_is_read() -> None:
    sent = 0

    def pour(client: socket.socket) -> None:
        nonlocal sent
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while sent < 100_000_000:
            sent += client.send(b" " * 1_000_000)

    with raw_server(pour) as url:
        assert look_around({}, ollama_url=NOWHERE, local_url=url).local_models is None
    assert sent < 50_000_000


def test_a_server_that_sends_elsewhere_is_not_followed() -> None:
    with local_server(llama_cpp("elsewhere")) as elsewhere:
        moved = f"HTTP/1.0 302 Found\r\nLocation: {elsewhere}/models\r\n\r\n".encode()
        with raw_server(lambda client: (client.recv(1_000), client.sendall(moved))[1]) as url:
            assert look_around({}, ollama_url=NOWHERE, local_url=url).local_models is None


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger there
        port = look_around({}, ollama_url=NOWHERE, local_url=NOWHERE).port
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert look_around({}, ollama_url=NOWHERE, local_url=NOWHERE).port > port


@pytest.mark.parametrize(
    "found",
    [
        Surroundings({}, None, None, 8080),
        Surroundings({}, (), None, 8081),
        Surroundings({}, None, ("smollm2-135m-instruct",), 8080),
        Surroundings({}, ("qwen3:0.6b", "on: [x]", "7b", "true", "~"), None, 8080),
        Surroundings({name: f"{name}_KEY" for name in FIRST_MODELS}, ("llama3.2",), ("7b",), 8080),
    ],
)
def test_what_is_commented_out_is_valid_where_the_comment_is_taken_away(found: Surroundings, tmp_path: Path) -> None:
    text = first_configuration(found)
    (tmp_path / "route-switch.yaml").write_text(text)
    settings = load_settings(tmp_path / "route-switch.yaml")
    assert settings.gateway.addr == f"127.0.0.1:{found.port}"
    uncommented = re.sub(r"(?m)^( *)# ( *(?:- \{|[a-z_0-9]+:(?: |$)))", r"\1\2", text)
    assert len(uncommented) <= len(text) - 20
    if not yaml.safe_load(text)["model_providers"]:
        uncommented = uncommented.replace("model_providers: {}", "model_providers: {openai: {}}")
    (tmp_path / "route-switch.yaml").write_text(uncommented)
    settings = load_settings(tmp_path / "route-switch.yaml")
    (combination,) = combinations_of(settings)
    assert combination.template_id == "support"
    assert settings.mipro_v2.max_calls == 2_000


def test_every_provider_that_needs_a_key_has_a_first_model_and_most_have_a_price(tmp_path: Path) -> None:
    assert set(FIRST_MODELS) == KEYED_PROVIDERS
    (tmp_path / "route-switch.yaml").write_text("")
    prices = open_prices(load_settings(tmp_path / "route-switch.yaml"))
    usage = Usage(1, 1, UsageSource.PROVIDER)
    unpriced = {name for name, model in FIRST_MODELS.items() if prices.cost_usd(name, model, usage) is None}
    assert unpriced <= {"groq", "openrouter"}


def test_check_live_asks_every_model_once_and_names_who_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = Upstream([wire.answers("OK")]), Upstream([wire.fails(401)])
    register(tmp_path)
    monkeypatch.chdir(tmp_path)
    with good.running(), bad.running():
        write_configuration(tmp_path, configuration(good, bad))
        result = invoke("check", "--live", "--json")
        found = json.loads(result.stdout)
        words = invoke("check", "--live").stderr
    assert result.exit_code == 1
    assert found["ok"] is False
    answered, refused = found["live"]
    assert answered["error"] is None
    assert answered["latency_s"] > 0
    assert refused["provider"] in found["problems"][0]
    assert f"{answered['provider']}, model {answered['model']!r}: answered after" in words


def test_check_live_keeps_to_the_limits_that_the_configuration_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Upstream([wire.answers("OK")]).running() as upstream:
        vendor = {"base_url": upstream.base_url, "models": ["tiny"], "options": {"temperature": 0, "max_tokens": 48}}
        write_configuration(tmp_path, {"model_providers": {"vendor": vendor}})
        assert invoke("check", "--live").exit_code == 0
    (asked,) = upstream.requests
    assert asked["max_tokens"] == 48

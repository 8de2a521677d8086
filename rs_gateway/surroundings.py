"""What a first configuration can find out by itself: provider keys, local models, a free port."""

import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from rs_gateway.settings import DIRECT_BASE_URLS, KEYED_PROVIDERS, key_variables

LOCAL_MODEL_URL = "http://127.0.0.1:8081/v1"
"""Where `route-switch model serve` answers unless it is told otherwise."""
_TIMEOUT_S = 0.5
_MAX_BYTES = 1_000_000
_NOT_THERE = (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError)
"""Nobody answers, or somebody else does: over another protocol, or with another document."""
_FIRST_PORT, _PORTS_TRIED = 8080, 20


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is there.

    Attributes:
        keys: provider -> the environment variable that holds its key.
        ollama_models: models of a local Ollama; None when none answers.
        local_models: what `route-switch model serve` serves at its usual address; None when it does not answer there.
        port: a port of the loopback interface that is free now.
    """

    keys: Mapping[str, str]
    ollama_models: tuple[str, ...] | None
    local_models: tuple[str, ...] | None
    port: int


def look_around(
    environment: Mapping[str, str] = os.environ, *, ollama_url: str | None = None, local_url: str | None = None
) -> Surroundings:
    """Look at the environment, at the usual addresses of two local servers, and for a free port. A second at most."""
    ollama = ollama_url or DIRECT_BASE_URLS["ollama"].removesuffix("/v1")
    return Surroundings(
        _keys(environment), _ollama_models(ollama), _local_models(local_url or LOCAL_MODEL_URL), _free_port()
    )


def _keys(environment: Mapping[str, str]) -> dict[str, str]:
    held = ((name, next((v for v in key_variables(name) if environment.get(v)), None)) for name in KEYED_PROVIDERS)
    return {name: variable for name, variable in sorted(held) if variable is not None}


def _ollama_models(url: str) -> tuple[str, ...] | None:
    try:
        return tuple(str(model["name"]) for model in _json_at(f"{url}/api/tags")["models"])
    except _NOT_THERE:
        return None


def _local_models(url: str) -> tuple[str, ...] | None:
    """Only of llama.cpp, which is what `model serve` runs: anything else at that port is not meant."""
    try:
        served = _json_at(f"{url}/models")["data"]
        return tuple(str(model["id"]) for model in served if model["owned_by"] == "llamacpp") or None
    except _NOT_THERE:
        return None


def _json_at(url: str) -> Any:
    """Of this machine, so through no proxy and to no other address; what is not there by then is none of ours."""
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_S)
    connection.connect()
    # The timeout is one of silence: a server that sends a byte now and then would hold us for ever.
    late = threading.Timer(_TIMEOUT_S, _end, [connection.sock])
    late.start()
    try:
        connection.request("GET", address.path)
        with connection.getresponse() as answer:
            content = answer.read(_MAX_BYTES) if answer.status == 200 else b""
        return json.loads(content)
    finally:
        late.cancel()
        late.join()
        connection.close()


def _end(connected: socket.socket) -> None:
    with suppress(OSError):  # it has ended
        connected.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    for port in range(_FIRST_PORT, _FIRST_PORT + _PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return _FIRST_PORT

"""What a first configuration can find out by itself: provider keys, a local Ollama, a free port."""

import json
import os
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from rs_gateway.settings import DIRECT_BASE_URLS, KEYED_PROVIDERS, key_variables

_OLLAMA_TIMEOUT_S = 1.0
_FIRST_PORT, _PORTS_TRIED = 8080, 20


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is there.

    Attributes:
        keys: provider -> the environment variable that holds its key.
        ollama_models: models of a local Ollama; None when none answers.
        port: a port of the loopback interface that is free now.
    """

    keys: Mapping[str, str]
    ollama_models: tuple[str, ...] | None
    port: int


def look_around(environment: Mapping[str, str] = os.environ, *, ollama_url: str | None = None) -> Surroundings:
    """Look at the environment, at Ollama's usual address, and for a free port. Takes a second at most."""
    url = ollama_url or DIRECT_BASE_URLS["ollama"].removesuffix("/v1")
    return Surroundings(_keys(environment), _ollama_models(url), _free_port())


def _keys(environment: Mapping[str, str]) -> dict[str, str]:
    held = ((name, next((v for v in key_variables(name) if environment.get(v)), None)) for name in KEYED_PROVIDERS)
    return {name: variable for name, variable in sorted(held) if variable is not None}


def _ollama_models(url: str) -> tuple[str, ...] | None:
    try:
        # Not through a proxy: it is this machine that is meant.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/api/tags", timeout=_OLLAMA_TIMEOUT_S) as answer:
            return tuple(str(model["name"]) for model in json.load(answer)["models"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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

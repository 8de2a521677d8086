"""A gateway in front of scripted upstreams, asked by one client key; what is left over afterwards is counted."""

import asyncio
import contextlib
import gc
import http.client
import json
import socket
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.domain.access import KeyLimits
from rs_gateway.domain.circuit import CircuitState
from rs_gateway.journey import Journey
from rs_gateway.keys import Grant, issue_key
from tests import upstream as wire
from tests.running import Inside, RunningGateway, eventually, register, running_gateway
from tests.upstream import Behaviour, JsonDict, Upstream

HELP: JsonDict = {
    "model": "gpt-4",
    "messages": [{"role": "user", "content": "Help me"}],
    "variables": {"customer_name": "Jordan"},
}
ALONE = "alone"
CHAT = "/v1/chat/completions"
GREETING = "Hello from afar"
BEGUN = (
    wire.chunk({"role": "assistant", "content": ""}),
    wire.chunk({"content": "Par"}),
    wire.chunk({"content": "is"}),
)
"""The first chunks of a stream; together they say Paris."""
FINISH = wire.chunk({}, finish_reason="stop")


@dataclass
class Seen:
    """What the client saw of one answer.

    Attributes:
        whole: the answer came to its HTTP end; False when the connection broke before.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool
    took_s: float
    connection: socket.socket | None = field(repr=False)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def error(self) -> JsonDict:
        """The error of an ordinary answer, in OpenAI's shape."""
        return error_in(json.loads(self.body))

    @property
    def events(self) -> list[Any]:
        """The JSON of every event of a stream; `[DONE]` as itself."""
        assert self.text.endswith("\n\n"), f"half an event: {self.text[-100:]!r}"
        payloads = [block.removeprefix("data: ") for block in self.text.split("\n\n") if block]
        return ["[DONE]" if payload == "[DONE]" else json.loads(payload) for payload in payloads]

    @property
    def content(self) -> str:
        """The answer's text, plain or streamed."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            return json.loads(self.body)["choices"][0]["message"]["content"]
        chunks = [e for e in self.events if e != "[DONE]" and "choices" in e]
        return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])

    @property
    def is_closed(self) -> bool:
        """Whether the gateway closed the connection after the answer."""
        if self.connection is None or self.connection.fileno() < 0:
            return True
        self.connection.settimeout(5.0)
        try:
            return self.connection.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


def error_in(value: Any) -> JsonDict:
    """OpenAI's error object, after a check of its shape."""
    assert set(value) == {"error"}
    assert set(value["error"]) == {"message", "type", "param", "code"}
    assert isinstance(value["error"]["message"], str)
    return value["error"]


@dataclass
class Stage:
    """A running gateway, the upstreams behind it in the order in which they are asked, and a client with one key.

    Attributes:
        n_tasks: that its event loop holds when it has nothing to do.
        n_traces: stored before the first request that counts.
    """

    gateway: RunningGateway
    upstreams: tuple[Upstream, ...]
    secret: str
    connections: contextlib.ExitStack
    n_tasks: int = 0
    n_traces: int = 0

    @property
    def inside(self) -> Inside:
        assert self.gateway.inside is not None
        return self.gateway.inside

    @property
    def first(self) -> Upstream:
        return self.upstreams[0]

    def play(self, *scripts: Behaviour) -> None:
        """Begin anew: what the upstreams do from now on, as if nothing had been asked before."""
        gc.freeze()
        self.inside.call(lambda: self.inside.app.app.state.router.keep_only(()))
        eventually(lambda: self.inside.app.app.state.traces.health().queued == 0)
        self.n_traces = len(self.gateway.traces(at_least=0))
        for upstream, script in zip(self.upstreams, scripts, strict=False):
            upstream.script = [script]
        for upstream in self.upstreams:
            upstream.requests.clear()
            upstream.hang_ups, upstream.told = 0, asyncio.Event()

    def connect(self, *, receive_buffer: int | None = None, timeout_s: float = 60.0) -> socket.socket:
        """A bare connection of a client; closed with the stage."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(timeout_s)
        address = urlsplit(self.gateway.url)
        connection.connect((str(address.hostname), int(address.port or 0)))
        return self.connections.enter_context(contextlib.closing(connection))

    def post(self, connection: socket.socket, *, stream: bool, **fields: Any) -> None:
        """Send a request, and read nothing."""
        connection.sendall(request_bytes(self.secret, {**HELP, "stream": stream, **fields}))

    def ask(self, *, stream: bool = False, **fields: Any) -> Seen:
        """One request on a connection of its own, answered to the end."""
        connection = self.connect()
        began = time.monotonic()
        self.post(connection, stream=stream, **fields)
        return read_answer(connection, began)

    def trace(self, *, at: int = 0) -> JsonDict:
        """A stored trace, with its JSON columns read."""
        trace = self.gateway.traces(at_least=self.n_traces + at + 1)[self.n_traces + at]
        return {**trace, **{k: json.loads(trace[k]) for k in ("attempts", "response") if trace[k] is not None}}

    def attempts(self, *, at: int = 0) -> list[tuple[str, str | None]]:
        """Which combinations were asked for a request, and how that went."""
        return [(a["combination_id"], a["error_code"]) for a in self.trace(at=at)["attempts"]]

    def health(self, combination_id: str = "on-p1") -> JsonDict:
        """What /status tells of a combination."""
        with self.gateway.client(headers={"authorization": f"Bearer {self.secret}"}) as client:
            (pool,) = client.get("/status").json()["templates"].values()
        return next(c["health"] for c in pool["combinations"] if c["combination_id"] == combination_id)

    def circuit(self, combination_id: str = "on-p1") -> CircuitState:
        return self.health(combination_id)["circuit"]

    def check_nothing_is_left(self) -> None:
        """Tasks, connections to both sides, attempts under way, the key's place and the journeys are all given back."""
        eventually(lambda: self.inside.n_connections == 0)
        eventually(lambda: self.inside.n_tasks <= self.n_tasks)
        for upstream in self.upstreams:
            eventually(lambda upstream=upstream: upstream.n_busy == 0)
        states = self.inside.call(lambda: self.inside.app.app.state.router.states(time.monotonic()))
        assert {name: state.in_flight for name, state in states.items()} == dict.fromkeys(states, 0)
        # The key has one place. Somebody who still sat on it would make this a 429.
        with contextlib.closing(self.connect()) as connection:
            connection.sendall(request_bytes(self.secret, None))
            assert read_answer(connection, time.monotonic()).status == 400
        eventually(lambda: self.inside.n_connections == 0)
        eventually(lambda: self.inside.call(_journeys) == 0)


def _journeys() -> int:
    gc.collect()
    return sum(isinstance(thing, Journey) for thing in gc.get_objects())


def request_bytes(secret: str, body: JsonDict | None) -> bytes:
    """A request as it goes over the wire; without a body, one that is let in and then refused."""
    data = b"{" if body is None else json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {secret}\r\ncontent-length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


def read_answer(connection: socket.socket, began: float) -> Seen:
    """The answer that comes next on a connection."""
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    try:
        body, whole = response.read(), True
    except http.client.IncompleteRead as cut:
        body, whole = cut.partial, False
    except ConnectionError:
        body, whole = b"", False
    headers = {name.lower(): value for name, value in response.getheaders()}
    took_s = time.monotonic() - began
    return Seen(response.status, headers, body, whole, took_s, None if response.will_close else connection)


def configuration(
    urls: list[str],
    *,
    provider: JsonDict | None = None,
    gateway: JsonDict | None = None,
    stores: JsonDict | None = None,
    equal_weights: bool = False,
    **api: Any,
) -> JsonDict:
    """One combination an upstream, asked in order: the first one has all the weight, the others are its fallbacks.

    Model ALONE is the first upstream without fallbacks.
    """
    names = [f"p{i}" for i in range(1, len(urls) + 1)]
    return {
        "model_providers": {
            name: {
                "base_url": url,
                "kind": "openai_compatible",
                **({"models": [ALONE], **(provider or {})} if name == "p1" else {}),
            }
            for name, url in zip(names, urls, strict=True)
        },
        "gateway": {
            "refresh_seconds": 60,
            "combinations": [
                {
                    "id": f"on-{name}",
                    "template_id": "support",
                    "model": "gpt-4",
                    "provider": name,
                    "weight": float(name == "p1" or equal_weights),
                    "fallbacks": [f"on-{other}" for other in names if other != name] if name == "p1" else [],
                }
                for name in names
            ],
            **(gateway or {}),
        },
        "api": {"timeout_seconds": 5, "max_retries": 0, **api},
        "stores": {"flush_interval_seconds": 0.01, **(stores or {})},
        "telemetry": {"request_log": False},
    }


Script = Behaviour | list[Behaviour]


@contextlib.contextmanager
def staged(
    folder: Path,
    *scripts: Script,
    concurrency: int = 1,
    without: Callable[[list[str]], list[str]] = lambda urls: urls,
    **options: Any,
) -> Generator[Stage]:
    """A stage with one upstream for each script. Leaving it checks that nothing leaked.

    Args:
        without: upstream URLs -> those that the gateway is told; for upstreams that are not there.
        options: see `configuration`.
    """
    if not (folder / "data/prompts").exists():
        register(folder)
    with contextlib.closing(SqliteAccessStore(folder / "data/access.db")) as store:
        grant = Grant("wall", admin=True, limits=KeyLimits(concurrency=concurrency))
        secret = issue_key(store, grant, by="tester", now_s=time.time()).secret
    with contextlib.ExitStack() as stack:
        ups = tuple(stack.enter_context(Upstream(s if isinstance(s, list) else [s]).running()) for s in scripts)
        urls = without([u.base_url for u in ups])
        gateway = stack.enter_context(running_gateway(folder, configuration(urls, **options)))
        gc.freeze()  # what was there before is not looked through afterwards; see `thawed_in_the_end`
        connections = stack.enter_context(contextlib.ExitStack())
        stage = Stage(gateway, ups, secret, connections)
        stage.n_tasks = stage.inside.n_tasks
        yield stage
        connections.close()
        stage.check_nothing_is_left()

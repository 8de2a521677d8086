"""A gateway with client keys, on a real socket."""

import contextlib
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.domain.access import KeyLimits
from rs_gateway.keys import Grant, IssuedKey, issue_key, revoke_key
from tests.gateway.test_chat import HELP, configuration
from tests.running import RunningGateway, register, running_gateway
from tests.upstream import Upstream

PRICE = {"input_usd_per_million_tokens": 1_000_000, "output_usd_per_million_tokens": 1_000_000}
"""A dollar a token: the scripted answer takes 11 and 3, so it costs 14 dollars."""


@dataclass
class Keyed:
    """A running gateway, its upstream, and whoever asks it."""

    gateway: RunningGateway
    upstream: Upstream
    secrets: dict[str, str] = field(default_factory=dict[str, str])

    def request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """`key` is the name of an issued key, or a secret."""
        headers = {**auth(self.secrets.get(key, key)), **options.pop("headers", {})} if key is not None else {}
        with self.gateway.client() as client:
            return client.request(method, path, headers=headers or options.pop("headers", None), **options)

    def ask(self, key: str | None, body: dict[str, Any] = HELP, **options: Any) -> httpx.Response:
        return self.request("POST", "/v1/chat/completions", key=key, json=body, **options)

    def admin(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """A request to the admin API with the key `boss`."""
        return self.request(method, f"/admin{path}", key="boss", json=body, **options)


def auth(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def issue(folder: Path, name: str, *, limits: KeyLimits | None = None, **grant: Any) -> IssuedKey:
    """A new key in the store of `folder`, as the command line makes it."""
    with closing(SqliteAccessStore(folder / "data/access.db")) as store:
        wanted = replace(Grant(name, limits=limits or KeyLimits()), **grant)
        return issue_key(store, wanted, by="ann", now_s=time.time())


def revoke(folder: Path, key_id: str) -> None:
    with closing(SqliteAccessStore(folder / "data/access.db")) as store:
        revoke_key(store, key_id, now_s=time.time())


def priced(*upstreams: Upstream, **sections: Any) -> dict[str, Any]:
    """One template on gpt-4 of provider p1 (priced), and its bare model raw-p1."""
    settings = configuration(*upstreams)
    for name, provider in settings["model_providers"].items():
        provider["prices"] = {"gpt-4": PRICE, f"raw-{name}": PRICE}
    quiet = {"access": {"sync_interval_seconds": 0.05}, "telemetry": {"request_log": False}}
    return {**settings, **quiet, **sections}


@contextlib.contextmanager
def keyed_gateway(folder: Path, upstream: Upstream, **sections: Any) -> Generator[Keyed]:
    """Template `support` and an admin key `boss`."""
    register(folder)
    boss = issue(folder, "boss", admin=True)
    with upstream.running(), running_gateway(folder, priced(upstream, **sections)) as gateway:
        yield Keyed(gateway, upstream, {"boss": boss.secret})


def check_one_account_of_60(ask: Callable[[int], int], *, filling_per_s: float) -> None:
    """Ask 150 times of a key that has 60 for all its gateways together: what is let in is what one account allows.

    Args:
        ask: number of the request -> its status.
        filling_per_s: what comes back every second, which a slow machine has the more of.
    """
    began = time.monotonic()
    statuses = [ask(number) for number in range(130)]
    late = time.monotonic()
    last = [ask(number) for number in range(20)]
    ended = time.monotonic()
    assert set(statuses + last) == {200, 429}
    # Two separate accounts would let 120 in, and fill twice as fast. One interval may be overrun.
    assert 60 <= (statuses + last).count(200) <= 95 + filling_per_s * (ended - began)
    assert last.count(200) <= 3 + filling_per_s * (ended - late)

"""A proxy that counts: one path prefix an account, in front of an OpenAI-compatible server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
from aiohttp import web


@dataclass(slots=True)
class Account:
    """What went through under one name; failed calls count as well."""

    upstream: str
    calls: int = 0
    tokens: int = 0


@dataclass(slots=True)
class CallProxy:
    """Accounts by name, and where they are reached."""

    url: str = ""
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])

    def open(self, name: str, upstream: str) -> str:
        """A fresh account; returns the base URL of its calls."""
        self.accounts[name] = Account(upstream.rstrip("/"))
        return f"{self.url}/{name}/v1"


@asynccontextmanager
async def call_proxy() -> AsyncGenerator[CallProxy]:
    """A proxy on a free port of this machine, until the context is left."""
    proxy = CallProxy()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=900)) as session:

        async def forward(request: web.Request) -> web.Response:
            account = proxy.accounts[request.match_info["account"]]
            account.calls += 1
            url = f"{account.upstream}/chat/completions"
            headers = {"content-type": "application/json"}
            async with session.post(url, data=await request.read(), headers=headers) as answer:
                body = await answer.read()
            if answer.status == 200:
                account.tokens += _tokens(body)
            return web.Response(body=body, status=answer.status, content_type="application/json")

        app = web.Application()
        app.router.add_post("/{account}/v1/chat/completions", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            proxy.url = f"http://{host}:{port}"
            yield proxy
        finally:
            await runner.cleanup()


@dataclass(frozen=True, slots=True)
class _Usage:
    total_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Completion:
    usage: _Usage = _Usage()


def _tokens(body: bytes) -> int:
    try:
        return msgspec.json.decode(body, type=_Completion).usage.total_tokens
    except msgspec.DecodeError:
        return 0

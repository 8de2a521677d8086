"""One provider's HTTP connections: a pool, what its failures mean, and how long it may be silent."""

import asyncio
import io
from collections.abc import Mapping

import aiohttp
import yarl

from rs_gateway.adapters.http_refusals import refusal_of
from rs_gateway.domain.errors import (
    ProviderCutError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)

FAILURES = (aiohttp.ClientError, TimeoutError, OSError)
"""What the client raises; `UpstreamHttp.translate` says what it means."""

_MAX_ERROR_BYTES = 64 * 1024
_WHOLE_BODY_BYTES = 2**20
_DRAIN_S = 0.25
_DISTRUST_S = 1.0


class UpstreamHttp:
    """Must be used inside a running event loop.

    Args:
        name: the provider's, for messages.
        secret: its key, which must not show in any of them.
        silence_s: between two pieces of an answer.
    """

    def __init__(self, name: str, *, secret: str | None, connect_timeout_s: float, silence_s: float) -> None:
        self._name, self._secret, self._silence_s = name, secret, silence_s
        # Deadlines are the caller's; a timer a call is enough.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._unpooled: aiohttp.ClientSession | None = None
        self._distrusts_pool_until_s = 0.0

    async def post(self, url: yarl.URL, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The answer, as soon as its headers are there. Raises FAILURES."""
        session = self._session
        if session is None:
            session = self._session = self._new_session(aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
        if self._distrusts_pool_until_s and asyncio.get_running_loop().time() < self._distrusts_pool_until_s:
            if self._unpooled is None:
                self._unpooled = self._new_session(aiohttp.TCPConnector(limit=0, force_close=True))
            session = self._unpooled
        # Written in pieces, a large body does not hold up the loop.
        data = body if len(body) <= _WHOLE_BODY_BYTES else io.BytesIO(body)
        try:
            return await session.post(url, data=data, headers=headers, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not isinstance(error, aiohttp.ClientConnectorError):
                # A kept connection had gone stale. The others may have gone with it: the retries take fresh ones.
                self._distrusts_pool_until_s = asyncio.get_running_loop().time() + _DISTRUST_S
            raise

    async def refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        """What a status other than 200 means."""
        try:
            async with asyncio.timeout(self._silence_s):
                body = await response.content.read(_MAX_ERROR_BYTES)
        except FAILURES as error:
            return self.translate(error)
        return refusal_of(response.status, body, response.headers, provider=self._name, secret=self._secret)

    def translate(self, error: Exception) -> ProviderError:
        """What a failure before the answer means."""
        if isinstance(error, TimeoutError):
            return ProviderTimeoutError(f"{self._name} did not answer in time.", provider=self._name)
        # The vendor's message may hold the URL; the type says enough.
        return ProviderUnreachableError(
            f"{self._name} cannot be reached ({type(error).__name__}).", provider=self._name
        )

    def translate_break(self, error: Exception) -> ProviderError:
        """What a failure in the middle of an answer means."""
        if isinstance(error, TimeoutError):
            return ProviderTimeoutError(f"{self._name} fell silent in its answer.", provider=self._name)
        return ProviderCutError(f"{self._name} broke off in the middle of an answer.", provider=self._name)

    async def aclose(self) -> None:
        """Close the connections."""
        for session in (self._session, self._unpooled):
            if session is not None:
                await session.close()

    def _new_session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            read_bufsize=256 * 1024,
        )


class CloseWatch:
    """Wakes whoever reads a response when its connection closes. aiohttp does not, where the framing broke.

    Stop it when done with the response: the connection lives on.
    """

    __slots__ = ("_closed", "_response")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        protocol = response.connection.protocol if response.connection is not None else None
        self._response = response
        self._closed = protocol.closed if protocol is not None else None
        if self._closed is not None:
            self._closed.add_done_callback(self._wake)

    def stop(self) -> None:
        """Let go."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection closed in the middle of the body"))


def allow_silence(response: aiohttp.ClientResponse, silence_s: float) -> None:
    """From now on, the provider may be silent for so long; nothing to do once its answer is here to the end."""
    protocol = response.connection.protocol if response.connection is not None else None
    if protocol is not None and protocol.read_timeout != silence_s:
        protocol.read_timeout = silence_s
        protocol.start_timeout()


async def drain(response: aiohttp.ClientResponse) -> None:
    """Wait a moment for the end that follows the last event, so that the connection can be used again."""
    if response.content.is_eof():
        return
    try:
        async with asyncio.timeout(_DRAIN_S):
            await response.content.read()
    except FAILURES:
        pass

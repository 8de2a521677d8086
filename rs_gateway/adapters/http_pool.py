"""Connections to one provider, kept and used again."""

import asyncio
import functools
import socket
import ssl
from collections import deque

import aiohappyeyeballs

from rs_gateway.adapters.http_address import HttpAddress
from rs_gateway.adapters.http_connection import HttpConnection

_KEEP_S = 30.0
_LAST_BYTES_S = 0.25
_HEAD_START_S = 0.25
"""RFC 8305, section 8: how long the better address family has for itself."""


@functools.cache
def tls_context() -> ssl.SSLContext:
    """One for all pools: reading the system's certificates takes a while."""
    return ssl.create_default_context()


class HttpPool:
    """Kept connections to one address. Must be used inside a running event loop.

    Follows no redirect, uses no proxy, keeps no cookie.

    Args:
        connect_timeout_s: for name resolution, TCP and TLS together.
    """

    def __init__(self, address: HttpAddress, *, connect_timeout_s: float) -> None:
        self._host, self._port = address.host, address.port
        self._tls = tls_context() if address.is_tls else None
        self._connect_timeout_s = connect_timeout_s
        self._idle: deque[HttpConnection] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def connection(self) -> HttpConnection:
        """A connection that nobody else uses: the one used last, or a new one. Raises OSError."""
        loop = asyncio.get_running_loop()
        oldest_s = loop.time() - _KEEP_S
        while self._idle:
            kept = self._idle.pop()
            if kept.reusable and kept.idle_since_s > oldest_s:
                return kept
            kept.abort()
        async with asyncio.timeout(self._connect_timeout_s):
            return await self._connect(loop)

    def release(self, connection: HttpConnection) -> None:
        """Take a connection back: to keep it when its answer was read to the end, to drop it otherwise."""
        if self._closed or not connection.reusable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(_KEEP_S, self._drop_old)

    def release_soon(self, connection: HttpConnection) -> None:
        """Take a connection back whose answer is over but for its last bytes: they are given a moment to come."""
        if connection.complete:
            self.release(connection)
            return
        timer = asyncio.get_running_loop().call_later(_LAST_BYTES_S, connection.abort)

        def over() -> None:
            timer.cancel()
            self.release(connection)

        connection.when_over(over)

    def drop_idle(self) -> None:
        """Trust no kept connection any more."""
        while self._idle:
            self._idle.pop().abort()

    def close(self) -> None:
        """Drop what is kept, and from now on whatever comes back."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        self.drop_idle()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> HttpConnection:
        try:
            addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a name that no resolver takes
            raise OSError(str(error)) from error
        connected = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_HEAD_START_S, interleave=1, loop=loop
        )
        try:
            _, connection = await loop.create_connection(
                lambda: HttpConnection(loop),
                sock=connected,
                ssl=self._tls,
                server_hostname=self._host if self._tls is not None else None,
            )
        except BaseException:
            connected.close()
            raise
        return connection

    def _drop_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        oldest_s = loop.time() - _KEEP_S
        while self._idle and (self._idle[0].idle_since_s <= oldest_s or not self._idle[0].reusable):
            self._idle.popleft().abort()
        if self._idle:
            self._sweep = loop.call_later(_KEEP_S, self._drop_old)

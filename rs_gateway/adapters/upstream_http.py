"""One provider's HTTP interface: what is sent, what its failures mean, and how long it may be silent."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from rs_gateway.adapters.http_address import parse_address
from rs_gateway.adapters.http_connection import HttpConnection, lines_of
from rs_gateway.adapters.http_pool import HttpPool
from rs_gateway.adapters.http_refusals import refusal_of
from rs_gateway.adapters.unreachable import unreachable
from rs_gateway.domain.errors import (
    ConfigurationError,
    ProviderCutError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)

_T = TypeVar("_T")
FAILURES = (OSError,)
"""What goes wrong on the way, TimeoutError included; `UpstreamHttp.translate` says what it means."""

_MAX_ERROR_BYTES = 64 * 1024
_WHOLE_BODY_BYTES = 2**18


class _NotConnectedError(OSError):
    """No connection could be made, so nothing was sent; its cause says why."""


class UpstreamHttp:
    """Must be used inside a running event loop.

    Args:
        name: the provider's, for messages.
        base_url: what all paths begin with.
        secret: its key, which must not show in any message.
        silence_s: between two pieces of an answer.
    Raises:
        ConfigurationError: `base_url` is no address, or `secret` cannot stand in a header.
    """

    def __init__(
        self, name: str, *, base_url: str, secret: str | None, connect_timeout_s: float, silence_s: float
    ) -> None:
        self._name, self._secret, self._silence_s = name, secret, silence_s
        if secret is not None and not (secret.isascii() and secret.isprintable()):
            raise ConfigurationError(f"The API key of {name} holds a character that no key has, such as a line break.")
        try:
            address = parse_address(base_url)
        except ValueError as error:
            raise ConfigurationError(f"model_providers.{name}.base_url: {error}") from None
        self._pool = HttpPool(address, connect_timeout_s=connect_timeout_s)
        self._prefix, self._host = address.path, address.authority

    def head_of(self, path: str, headers: Mapping[str, str]) -> bytes:
        """The unchanging part of the head of a POST, for `ask`. Raises ValueError: something no header can hold."""
        fixed = {"host": self._host, "accept": "*/*", "user-agent": "route-switch", **headers}
        return f"POST {self._prefix}{path} HTTP/1.1\r\n".encode("ascii") + lines_of(iter(fixed.items()))

    async def ask(
        self, head: bytes, body: bytes, read: Callable[[HttpConnection], Awaitable[_T]]
    ) -> tuple[HttpConnection, _T]:
        """Send a request and `read` the begin of its answer, or all. `release` the connection when done with it.

        A kept connection that turns out to have been closed is replaced by a new one, once: whoever closes an idle
        connection cannot know that a request is on its way (RFC 9112, section 9.3.1).

        Args:
            head: from `head_of`.
        Raises:
            FAILURES
        """
        connection = await self._send(head, body)
        try:
            return connection, await read(connection)
        except BaseException as error:
            self.release(connection)
            if not isinstance(error, OSError) or not connection.went_stale:
                raise
        self._pool.drop_idle()  # the others are as old
        connection = await self._send(head, body)
        try:
            return connection, await read(connection)
        except BaseException:
            self.release(connection)
            raise

    async def _send(self, head: bytes, body: bytes) -> HttpConnection:
        try:
            connection = await self._pool.connection()
        except OSError as error:
            raise _NotConnectedError from error
        try:
            whole_head = b"%bcontent-length: %d\r\n\r\n" % (head, len(body))
            if len(body) <= _WHOLE_BODY_BYTES:
                connection.send(whole_head, body)
            else:
                await connection.send_large(whole_head, body)
        except BaseException:
            connection.abort()
            raise
        return connection

    def release(self, connection: HttpConnection) -> None:
        """Done with an answer. A connection whose answer was not read to its end is cut off."""
        self._pool.release(connection)

    def release_soon(self, connection: HttpConnection) -> None:
        """Done with a stream whose last event has come, though the end of its body may not have."""
        self._pool.release_soon(connection)

    async def refusal(self, connection: HttpConnection) -> ProviderError:
        """What a status other than 200 means; reads the answer, for a while and up to a limit."""
        body = b""
        with contextlib.suppress(*FAILURES):  # the status counts, whatever becomes of the words
            async with asyncio.timeout(self._silence_s):
                while len(body) < _MAX_ERROR_BYTES and (piece := await connection.piece()):
                    body += piece
        header = connection.header(b"retry-after")
        headers = {} if header is None else {"retry-after": header}
        return refusal_of(
            connection.status,
            body[:_MAX_ERROR_BYTES],
            headers,
            provider=self._name,
            secret=self._secret,
            host=self._host,
        )

    def translate(self, error: Exception) -> ProviderError:
        """What a failure before the answer means."""
        sent = not isinstance(error, _NotConnectedError)
        cause = error if sent else error.__cause__
        if isinstance(cause, TimeoutError):
            return ProviderTimeoutError(f"{self._name} did not answer in time.", provider=self._name, sent=sent)
        if isinstance(cause, ConnectionResetError | BrokenPipeError):
            # A kept connection may have gone stale, and the others with it: the retries take fresh ones.
            self._pool.drop_idle()
        return ProviderUnreachableError(unreachable(self._name, cause), provider=self._name, sent=sent)

    def translate_break(self, error: Exception) -> ProviderError:
        """What a failure in the middle of an answer means."""
        if isinstance(error, TimeoutError):
            return ProviderTimeoutError(f"{self._name} fell silent in its answer.", provider=self._name)
        return ProviderCutError(f"{self._name} broke off in the middle of an answer.", provider=self._name)

    async def aclose(self) -> None:
        """Close the connections."""
        self._pool.close()


def content_type_of(connection: HttpConnection) -> str:
    """The media type of an answer, without its parameters; `application/octet-stream` when it has none (RFC 9110)."""
    stated = connection.header(b"content-type") or ""
    return stated.partition(";")[0].strip().lower() or "application/octet-stream"


async def whole_answer(connection: HttpConnection) -> bytes:
    """For `UpstreamHttp.ask`: the whole body of an answer with status 200; nothing of any other."""
    return await connection.whole(unless_refused=True)

"""What becomes of a request that the end of the gateway overtakes."""

import asyncio

from rs_gateway.domain.errors import ShuttingDownError

GRACE_S = 20
"""How long requests under way may go on after SIGTERM."""

_BY_THE_SERVER = "graceful shutdown exceeded"
"""What uvicorn says when it cancels what is left after the grace time."""


def overtaken(error: BaseException) -> ShuttingDownError | None:
    """The error that the client should get when `error` is the server's cancellation of this task; else None.

    The task may go on afterwards, for as long as it takes to say so.
    """
    if not isinstance(error, asyncio.CancelledError) or cancellation_code(error) != ShuttingDownError.code:
        return None
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return ShuttingDownError()


def cancellation_code(error: asyncio.CancelledError) -> str:
    """Who cancelled: the server that ends, or else the client that left."""
    return ShuttingDownError.code if _BY_THE_SERVER in str(error) else "client_cancelled"

"""Ctrl-C and SIGTERM while an event loop runs: what runs is cancelled first, then the signal takes its usual course."""

import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import anyio

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_interrupts() -> Generator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, where nothing else has a say about it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_interruptible(main: Callable[[], Awaitable[_T]]) -> _T:
    """`anyio.run`, ended in good order by a signal.

    Dagster's handlers raise where they are called. Inside a running event loop that is in whichever task has its turn:
    the exception then ends in an exception group, as the failure of one call, or in the loop's log. Here the handlers
    wait until everything was cancelled and cleaned up, and raise in the caller.
    """
    if threading.current_thread() is not threading.main_thread():
        return anyio.run(main)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    received: list[int] = []
    results: list[_T] = []
    failures: list[Exception] = []

    async def watched() -> None:
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(*_SIGNALS) as signals:

                async def cancel_on_signal() -> None:
                    async for number in signals:
                        received.append(number)
                        tasks.cancel_scope.cancel()

                tasks.start_soon(cancel_on_signal)
                try:
                    results.append(await main())
                except Exception as error:  # noqa: BLE001  # raised below, without the task group around it
                    failures.append(error)
                tasks.cancel_scope.cancel()

    try:
        anyio.run(watched)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
    if failures:
        raise failures[0]
    return results[0]

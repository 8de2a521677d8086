import signal
from collections.abc import Generator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rs_pipelines.interrupts import run_interruptible, sigterm_interrupts


class TakenError(BaseException):
    """What Dagster's handlers raise is no Exception either."""


@pytest.fixture(autouse=True)
def raising_handlers() -> Generator[None]:
    def handler(number: int, frame: object) -> None:
        raise TakenError(number)

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_everything_and_is_then_raised_in_the_caller(number: signal.Signals) -> None:
    ended: list[str] = []

    async def worker(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for name in ("a", "b"):
                tasks.start_soon(worker, name)
            await anyio.lowlevel.checkpoint()
            signal.raise_signal(number)

    with pytest.raises(TakenError) as raised:
        run_interruptible(main)
    assert raised.value.args == (number,)
    assert sorted(ended) == ["a", "b"]
    with pytest.raises(TakenError):  # the handlers are back
        signal.raise_signal(number)


def test_without_a_signal_it_gives_the_result_or_raises_the_error_itself() -> None:
    async def seven() -> int:
        return 7

    async def fails() -> int:
        raise ValueError("no")

    assert run_interruptible(seven) == 7
    with pytest.raises(ValueError, match="no"):
        run_interruptible(fails)


def test_in_another_thread_signals_are_left_alone() -> None:
    async def seven() -> int:
        return 7

    async def main() -> int:
        return await anyio.to_thread.run_sync(run_interruptible, seven)

    assert anyio.run(main) == 7


def test_a_command_may_take_sigterm_for_ctrl_c_in_and_out_of_an_event_loop() -> None:
    async def terminated() -> None:
        signal.raise_signal(signal.SIGTERM)
        await anyio.sleep_forever()

    for act in (lambda: signal.raise_signal(signal.SIGTERM), lambda: run_interruptible(terminated)):
        with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
            act()
    with pytest.raises(TakenError):  # the handlers are back
        signal.raise_signal(signal.SIGTERM)

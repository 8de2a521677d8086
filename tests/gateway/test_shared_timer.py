import asyncio

import pytest

from rs_gateway.adapters.shared_timer import Limit, SharedTimer


def test_waits_end_in_the_order_in_which_they_began_and_those_that_were_stopped_never() -> None:
    async def main() -> list[str]:
        timer, ended, last = SharedTimer(0.01), list[str](), asyncio.Event()
        timer.start(lambda: ended.append("a"))
        stopped = timer.start(lambda: ended.append("stopped"))
        timer.start(lambda: ended.append("b"))
        timer.start(last.set)
        timer.stop(stopped)
        timer.stop(stopped)
        await last.wait()
        again = asyncio.Event()
        timer.start(again.set)
        await again.wait()
        return ended

    assert asyncio.run(main()) == ["a", "b"]


def test_a_wait_is_as_long_as_the_timer_says_though_the_timer_was_armed_for_an_earlier_one() -> None:
    async def main() -> float:
        loop, timer, earlier, over = asyncio.get_running_loop(), SharedTimer(0.05), asyncio.Event(), asyncio.Event()
        timer.stop(timer.start(lambda: None))
        loop.call_later(0.03, earlier.set)
        await earlier.wait()
        began = loop.time()
        timer.start(over.set)
        await over.wait()
        return loop.time() - began

    assert asyncio.run(main()) >= 0.05


def test_a_block_that_takes_too_long_raises_timeout_error_and_the_task_goes_on() -> None:
    async def main() -> str:
        with pytest.raises(TimeoutError), Limit(SharedTimer(0.01)):
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return "went on"

    assert asyncio.run(main()) == "went on"


def test_somebody_elses_cancellation_passes_through() -> None:
    async def main() -> None:
        async def waits() -> None:
            with Limit(SharedTimer(10)):
                await asyncio.Event().wait()

        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_an_error_inside_the_block_passes_through() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="own"), Limit(SharedTimer(10)):
            raise ValueError("own")

    asyncio.run(main())

"""Production goes first: the optimiser takes its share of a rate limit, and waits while production is in trouble."""

from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.stats import MINUTE_S, Figures, StatsKey, StatsRow
from rs_pipelines.pacing import Load, Pace, is_in_trouble, load_of
from rs_pipelines.workbench import Workbench
from tests.running import write_configuration

NOON_S = 1_800_000_000 // MINUTE_S * MINUTE_S


def minute(start_s: int, requests: int, *, errors: int = 0, retries: int = 0, provider: str = "p") -> StatsRow:
    key = StatsKey(None, None, None, provider, "m", "chat")
    figures = Figures(requests=requests, errors={"provider_overloaded": errors}, retries=retries)
    return StatsRow(MINUTE_S, start_s, key, figures)


@dataclass
class World:
    """A clock that goes on when somebody sleeps, and what production does."""

    rows: list[StatsRow] = field(default_factory=list[StatsRow])
    elapsed_s: float = 0.0
    told: list[str | None] = field(default_factory=list[str | None])
    recovers_after_s: float = 1e9
    unreadable: bool = False
    blind_after_s: float = 1e9
    leaves: tuple[anyio.CancelScope, float] | None = None
    naps: list[anyio.Event] = field(default_factory=list[anyio.Event])

    def pace(self, rate_per_s: float | None = None) -> Pace:
        return Pace(
            "p",
            rate_per_s=rate_per_s,
            stats=self.stats,
            on_pause=self.told.append,
            now=lambda: NOON_S + self.elapsed_s,
            clock=lambda: self.elapsed_s,
            sleep=self.sleep,
        )

    def stats(self, since_s: int) -> list[StatsRow]:
        if self.unreadable or self.elapsed_s >= self.blind_after_s:
            raise StoreError("The trace store is gone.")
        recovered = self.elapsed_s >= self.recovers_after_s
        return [] if recovered else [row for row in self.rows if row.start_s >= since_s]

    async def sleep(self, seconds: float) -> None:
        if self.naps:
            self.naps.pop().set()
            await anyio.sleep_forever()
        if self.leaves is not None and self.elapsed_s + seconds > self.leaves[1]:
            scope, self.elapsed_s = self.leaves
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        self.elapsed_s += seconds


async def turns(pace: Pace, n: int) -> None:
    for _ in range(n):
        await pace.turn()


def test_calls_keep_to_the_rate_after_a_short_burst() -> None:
    world = World()
    anyio.run(turns, world.pace(2.0), 60)
    # Six seconds' worth may come at once.
    assert world.elapsed_s == pytest.approx((60 - 12) / 2.0, abs=1.0)


async def _patience(pace: Pace, world: World, patience_s: list[float | None]) -> list[float]:
    """When those had their turns who came one after the other, each leaving once it had slept so long in vain."""
    turns_s: list[float] = []
    for most_s in patience_s:
        with anyio.CancelScope() as scope:
            world.leaves = None if most_s is None else (scope, world.elapsed_s + most_s)
            await pace.turn()
            turns_s.append(world.elapsed_s)
    return turns_s


@given(st.floats(0.2, 20), st.lists(st.none() | st.floats(0, 2), max_size=60))
def test_who_leaves_before_its_turn_has_used_up_nothing(rate_per_s: float, patience_s: list[float | None]) -> None:
    world = World()
    turns_s = anyio.run(_patience, world.pace(rate_per_s), world, patience_s)
    burst = max(1.0, 6 * rate_per_s)
    for n, turn_s in enumerate(turns_s):
        assert turn_s >= (n + 1 - burst) / rate_per_s - 1e-3
    # Nobody waits longer than if those who left had never come.
    waited_s = max(0.0, (len(turns_s) - burst) / rate_per_s)
    left_s = sum(most_s for most_s in patience_s if most_s is not None)
    assert world.elapsed_s <= waited_s + left_s + 1e-3


def test_who_leaves_at_the_head_of_the_queue_gives_its_turn_to_the_next() -> None:
    world = World()
    pace = world.pace(1.0)

    async def crowd() -> None:
        await turns(pace, 6)  # the burst
        asleep = anyio.Event()
        world.naps = [asleep]
        async with anyio.create_task_group() as second, anyio.create_task_group() as first:
            first.start_soon(pace.turn)
            await asleep.wait()
            second.start_soon(pace.turn)
            first.cancel_scope.cancel()

    anyio.run(crowd)
    assert world.elapsed_s == pytest.approx(1.0)


def test_figures_that_cannot_be_read_end_no_call_and_are_told_once_each_time() -> None:
    rows = [minute(NOON_S - 60, 100, errors=50)]
    world = World(rows=rows, unreadable=True)
    pace = world.pace()

    async def poll() -> None:
        for unreadable in (True, True, False, False, True, True):
            world.unreadable, world.rows = unreadable, []
            await pace.turn()
            world.elapsed_s += 10

    with structlog.testing.capture_logs() as logged:
        anyio.run(poll)
    told = {"event": "production_not_seen", "log_level": "warning", "provider": "p"}
    assert logged == [{**told, "error": "The trace store is gone."}] * 2


def test_who_waits_for_production_goes_on_when_it_cannot_be_seen_any_more() -> None:
    world = World(rows=[minute(NOON_S - 60, 100, errors=50)])
    world.blind_after_s = 20.0
    anyio.run(turns, world.pace(), 2)
    assert world.elapsed_s == 20.0
    assert [why is None for why in world.told] == [False, True]


def test_a_damaged_trace_store_lets_calls_pass(tmp_path: Path) -> None:
    combination = {"id": "c", "template_id": "t", "model": "m", "provider": "p"}
    configuration = {
        "model_providers": {"p": {"base_url": "http://127.0.0.1:1/v1"}},
        "gateway": {"combinations": [combination]},
    }
    bench = Workbench.at(write_configuration(tmp_path, configuration))
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/traces.db").write_bytes(b"no database" * 1_000)

    async def open_and_ask() -> None:
        async with bench.models(bench.target("t")) as models:
            assert models.task.pace is not None
            await models.task.pace.turn()

    with structlog.testing.capture_logs() as logged:
        anyio.run(open_and_ask)
    assert [entry["event"] for entry in logged] == ["production_not_seen"]


def test_without_a_rate_limit_and_without_trouble_nobody_waits() -> None:
    world = World(rows=[minute(NOON_S - 60, 1_000, errors=10)])
    anyio.run(turns, world.pace(), 100)
    assert (world.elapsed_s, world.told) == (0.0, [])


@pytest.mark.parametrize(("errors", "retries"), [(20, 0), (0, 20)], ids=["errors", "retries"])
def test_calls_wait_while_production_meets_more_trouble_than_before_and_go_on_after_it(
    errors: int, retries: int
) -> None:
    calm = [minute(NOON_S - 60 * n, 100) for n in range(4, 10)]
    world = World(rows=[*calm, minute(NOON_S - 60, 100, errors=errors, retries=retries)], recovers_after_s=30.0)
    anyio.run(turns, world.pace(), 3)
    assert 30.0 <= world.elapsed_s <= 35.0
    assert len(world.told) == 2
    assert "20 of production's last 100 requests to p" in (world.told[0] or "")
    assert world.told[1] is None


@pytest.mark.parametrize(
    ("recent", "before", "paused", "waits"),
    [
        (Load(100, 20), Load(500, 5), False, True),
        (Load(100, 4), Load(500, 0), False, False),
        (Load(1_000, 20), Load(500, 0), False, False),
        (Load(100, 20), Load(500, 200), False, False),
        (Load(100, 20), Load(500, 200), True, True),
        (Load(0, 0), Load(0, 0), True, False),
    ],
    ids=["rising", "few", "a small share", "no worse than before", "not yet over", "nobody asks"],
)
def test_trouble_is_many_and_rising(recent: Load, before: Load, *, paused: bool, waits: bool) -> None:
    assert is_in_trouble(recent, before, paused=paused) is waits


def test_a_load_is_of_one_provider_and_of_whole_minutes() -> None:
    hour = StatsRow(3_600, NOON_S, minute(NOON_S, 1).key, Figures(requests=500))
    rows = [minute(NOON_S, 10, errors=1), minute(NOON_S - 60, 10), minute(NOON_S, 10, provider="q"), hour]
    assert load_of(rows, provider="p", since_s=NOON_S) == Load(10, 1)


def test_a_workbench_without_traffic_or_a_trace_store_lets_calls_pass(tmp_path: Path) -> None:
    combination = {"id": "c", "template_id": "t", "model": "m", "provider": "p"}
    provider = {"base_url": "http://127.0.0.1:1/v1", "rate_limit": 60}
    configuration = {"model_providers": {"p": provider}, "gateway": {"combinations": [combination]}}
    bench = Workbench.at(write_configuration(tmp_path, configuration))

    async def open_and_ask() -> None:
        async with bench.models(bench.target("t")) as models:
            assert models.task.pace is not None
            await models.task.pace.turn()

    anyio.run(open_and_ask)

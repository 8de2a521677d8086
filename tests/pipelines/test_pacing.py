"""Production goes first: the optimiser takes its share of a rate limit, and waits while production is in trouble."""

from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

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
        recovered = self.elapsed_s >= self.recovers_after_s
        return [] if recovered else [row for row in self.rows if row.start_s >= since_s]

    async def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds


async def turns(pace: Pace, n: int) -> None:
    for _ in range(n):
        await pace.turn()


def test_calls_keep_to_the_rate_after_a_short_burst() -> None:
    world = World()
    anyio.run(turns, world.pace(2.0), 60)
    # Six seconds' worth may come at once.
    assert world.elapsed_s == pytest.approx((60 - 12) / 2.0, abs=1.0)


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

"""A disk that is full or fails: answers go on, and the traces are there when it works again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.ports import TraceStore
from rs_gateway.settings import Settings
from tests import upstream as wire
from tests.gateway.fault_wall.stage import GREETING, Stage, staged
from tests.running import eventually
from tests.trace_files import FaultyDisk


@pytest.fixture(params=["batched", "sync"])
def durability(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    """A disk that can fail, under every trace store that a gateway opens."""
    disk = FaultyDisk()

    def open_on_it(settings: Settings) -> TraceStore:
        return SqliteTraceStore(
            settings.path("data/traces.db"), limits=WriterLimits(flush_interval_s=0.01), connect=disk.connect
        )

    monkeypatch.setattr("rs_gateway.app.open_trace_store", open_on_it)
    return disk


@pytest.fixture
def stage(tmp_path: Path, disk: FaultyDisk, durability: str) -> Iterator[Stage]:
    with staged(tmp_path, wire.answers(GREETING), stores={"durability": durability}) as stage:
        yield stage
        disk.broken.clear()


def storage_status(stage: Stage) -> int:
    with stage.gateway.client() as client:
        return client.get("/health/storage").status_code


def test_answers_go_on_while_the_disk_fails_and_no_trace_is_lost(stage: Stage, disk: FaultyDisk) -> None:
    assert stage.ask().content == GREETING
    assert storage_status(stage) == 200
    disk.broken.set()
    for n in range(6):
        seen = stage.ask(stream=bool(n % 2))
        assert (seen.status, seen.content, seen.whole) == (200, GREETING, True)
    eventually(lambda: storage_status(stage) == 503)
    with stage.gateway.client() as client:
        assert client.get("/health").status_code == 200
        body = client.get("/health/storage").json()
        assert body["error"] == "disk I/O error"
        assert body["dropped"] == 0
    assert len(stage.gateway.traces()) == 1

    disk.broken.clear()
    traces = stage.gateway.traces(at_least=7)
    assert [t["outcome"] for t in traces] == ["complete"] * 7
    eventually(lambda: storage_status(stage) == 200)


def test_a_disk_without_room_costs_no_answer(stage: Stage, disk: FaultyDisk) -> None:
    disk.full.set()
    assert stage.ask().content == GREETING
    assert stage.ask(stream=True).content == GREETING
    assert len(stage.gateway.traces(at_least=2)) == 2
    assert not disk.full.is_set()

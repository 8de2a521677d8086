"""One stage for the many faults that take a request or two; every test leaves it as it found it."""

import gc
import os
from collections.abc import Iterator

import pytest

from tests import upstream as wire
from tests.gateway.fault_wall.stage import GREETING, Stage, staged


@pytest.fixture(scope="package", autouse=True)
def thawed_in_the_end() -> Iterator[None]:
    """Stages freeze what is there before them, so that looking for what they leave is quick."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="package")
def lasting_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Impatient: 0.5 s for a first event or between two, 2 s for everything."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith(("RS_", "ROUTE_SWITCH_")) or name.endswith("_API_KEY"):
                environment.delenv(name)
        with staged(
            tmp_path_factory.mktemp("stage"),
            wire.answers("not set"),
            wire.answers(GREETING),
            timeout_seconds=2,
            first_byte_timeout_seconds=0.5,
            idle_timeout_seconds=0.5,
        ) as stage:
            yield stage


@pytest.fixture
def stage(lasting_stage: Stage) -> Iterator[Stage]:
    """Two upstreams, told with `play` what to do; the second one answers GREETING if it is told nothing else."""
    yield lasting_stage
    lasting_stage.connections.close()
    lasting_stage.check_nothing_is_left()

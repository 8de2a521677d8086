"""What the steps of the loop tell whoever watches them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rs_pipelines.ingest import IngestReport
from rs_pipelines.mipro.events import StudyEvent
from rs_pipelines.preflight import Preflight
from rs_pipelines.sample import CalibrationSample


@dataclass(frozen=True, slots=True)
class RowsCompared:
    """How far a comparison is."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ingesting:
    """How far an ingest is: `done` rows of about `total`."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Probing:
    """The live prompt is asked before the search; of `calls` answers those in the cache cost nothing."""

    calls: int


@dataclass(frozen=True, slots=True)
class Paused:
    """Calls wait, because production needs the provider; `why` None: they go on."""

    why: str | None


Event: TypeAlias = (
    StudyEvent | Paused | RowsCompared | Ingesting | IngestReport | CalibrationSample | Probing | Preflight
)
Watcher: TypeAlias = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Watch nothing."""

"""What a running study tells whoever watches."""

from dataclasses import dataclass
from typing import TypeAlias

from rs_gateway.domain.output_formats import OutputFormat
from rs_pipelines.mipro.records import StudyRecord, TrialKind, TrialRecord


@dataclass(frozen=True, slots=True)
class StudyOpened:
    """The search over `output_formats` starts, or goes on after a crash when `trials_done` is above 0."""

    study_id: str
    trials_done: int
    estimated_calls: int
    output_formats: tuple[OutputFormat, ...]


@dataclass(frozen=True, slots=True)
class DemoSetsBuilt:
    """The demo sets are ready."""

    n_demo_sets: int


@dataclass(frozen=True, slots=True)
class Proposing:
    """The prompt model is asked for instructions."""

    n_proposals: int


@dataclass(frozen=True, slots=True)
class InstructionsReady:
    """The instructions are ready; `n_proposed` of them come from the prompt model, the others are always there."""

    n_instructions: int
    n_proposed: int


@dataclass(frozen=True, slots=True)
class Revising:
    """The prompt model is shown so many failures of the leader, and asked for new instructions."""

    n_failures: int


@dataclass(frozen=True, slots=True)
class SecondRoundReady:
    """The search goes on, with `n_revised` more instructions."""

    n_revised: int


@dataclass(frozen=True, slots=True)
class RowsScored:
    """How far the evaluation that is under way has come; rows that were seen before do not count."""

    kind: TrialKind
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TrialFinished:
    """A candidate was evaluated on a minibatch.

    Attributes:
        number: trials so far; total: trials planned.
        best: highest mean of a full evaluation so far; None before the first.
    """

    number: int
    total: int
    trial: TrialRecord
    best: float | None


@dataclass(frozen=True, slots=True)
class LookTaken:
    """A race has shown a candidate its next rows.

    Attributes:
        trial: the candidate's state now, over all rows that it has seen.
        done: rows evaluated so far, the live version's aside; total: those that the race may evaluate.
    """

    trial: TrialRecord
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class FullEvaluation:
    """A candidate was evaluated on all validation rows."""

    trial: TrialRecord
    best: float | None


@dataclass(frozen=True, slots=True)
class StudyFinished:
    """The choice is made."""

    record: StudyRecord


StudyEvent: TypeAlias = (
    StudyOpened
    | DemoSetsBuilt
    | Proposing
    | InstructionsReady
    | Revising
    | SecondRoundReady
    | RowsScored
    | TrialFinished
    | LookTaken
    | FullEvaluation
    | StudyFinished
)

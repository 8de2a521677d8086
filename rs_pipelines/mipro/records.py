"""What a study leaves behind: everything that it tried, and what it chose. JSON on disk, frozen dataclasses here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal, TypeAlias

import msgspec

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import Demo, PromptText
from rs_pipelines.call_sizes import MeasuredCalls
from rs_pipelines.mipro.budget import StudyPlan
from rs_pipelines.mipro.formats import in_format
from rs_pipelines.sample import Target

InstructionSource: TypeAlias = Literal["live", "earlier", "rewrite", "proposed", "revised"]
DemoSetKind: TypeAlias = Literal["live", "earlier", "empty", "labeled", "bootstrapped", "hard", "nearest", "reordered"]
TrialKind: TypeAlias = Literal["minibatch", "full"]
Ending: TypeAlias = Literal["trials", "budget", "space", "settled"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction that the search may choose.

    Attributes:
        text: as a version has it, with placeholders and doubled braces, but without an output format's sentence.
        parent: index of the instruction that it was made from; None for the live one.
    """

    text: str
    source: InstructionSource
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class DemoSet:
    """A sequence of demos, with bare answers, that the search may choose; `demo_set_id` says how it was made.

    Attributes:
        nearest: how many of them a request is shown, those most like it; 0: all.
    """

    demo_set_id: str
    kind: DemoSetKind
    demos: tuple[Demo, ...]
    nearest: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """What the search combines: indices into the study's instructions, demo sets and output formats."""

    instruction: int
    demo_set: int
    output_format: int = 0


LIVE = Candidate(0, 0, 0)
"""The live version: its instruction, its own demos and its own format always come first."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One evaluation of one candidate.

    Attributes:
        number: counts from 0, the full evaluation of the live version.
        n_rows: rows that the value stands on: the prefix of the study's row order that this candidate has seen.
        value: mean over the rows present; None when the trial is void, because too many rows are missing.
        missing: rows that the model could not be asked.
        seconds, calls: what this trial took and paid in the process that ended it.
    """

    number: int
    candidate: Candidate
    kind: TrialKind
    n_rows: int
    value: float | None
    missing: int
    seconds: float
    calls: int


@dataclass(frozen=True, slots=True)
class CandidateRows:
    """The row-level results of one candidate, in the study's row order; None is missing."""

    candidate: Candidate
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the final choice knew of one candidate that was looked at.

    Attributes:
        believed: the score that it probably has, from its own rows and from what it shares with other candidates.
        probability: that it is better than the live version or, under the objective `cost`, loses at most `max_loss` to
            it; None where the choice does not ask.
        length: characters of its prompt, apart from the user text that all have.
    """

    candidate: Candidate
    believed: float
    probability: float | None
    length: int


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """One search, from its inputs to its choice.

    Attributes:
        study_id: hash of all inputs: target, sample, live text, plan with seed, models, evaluator.
        live_hash, live_text: what was live; candidates keep its user text.
        output_formats: those that are tried, the live version's own first.
        row_order: example ids of the validation rows, in the order in which every candidate sees them.
        rows: row-level results, one entry a candidate that was evaluated.
        live_value, best_value: means over the validation rows that each has seen, all of them by the live version;
            best_value is optimistic, only the comparison proves.
        calls, input_tokens, output_tokens, usd: paid for by this study, crashed runs included, until it was last saved.
        booked_tokens: those, and the bookings of calls that were not counted; measured: what calls took, by model.
        seconds: working time, crashed runs included as far as they were saved.
        objective, max_loss: what the choice went by; see StudyRequest.
        weighed: what it knew, one entry for each of `rows`; empty in an unfinished study.
        evaluator_spec: how it scores, for the comparison to score alike; None in records from before it was kept.
        second_round: whether the second round is over: made, or passed over.
        ending: why the search stopped: all that was planned is done, budget spent, nothing left to be seen, or no other
            candidate likely to be better by a point.
    """

    study_id: str
    target: Target
    sample_id: str
    live_version: int
    live_hash: str
    live_text: PromptText
    evaluator: str
    plan: StudyPlan
    started_at: str
    row_order: tuple[str, ...]
    instructions: tuple[Instruction, ...] = ()
    demo_sets: tuple[DemoSet, ...] = ()
    output_formats: tuple[OutputFormat, ...] = (OutputFormat.BARE,)
    trials: tuple[TrialRecord, ...] = ()
    rows: tuple[CandidateRows, ...] = ()
    best: Candidate = LIVE
    best_text: PromptText | None = None
    best_hash: str | None = None
    live_value: float | None = None
    best_value: float | None = None
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    booked_tokens: int = 0
    measured: Mapping[str, MeasuredCalls] = field(default_factory=dict[str, MeasuredCalls])
    seconds: float = 0.0
    ending: Ending | None = None
    second_round: bool = False
    finished: bool = False
    objective: Literal["quality", "cost"] = "quality"
    max_loss: float = 0.0
    weighed: tuple[Weighed, ...] = ()
    evaluator_spec: JsonObject | None = None

    @property
    def results(self) -> dict[Candidate, dict[int, float | None]]:
        """Of each candidate that was looked at, position in the row order -> score; None is missing."""
        return {entry.candidate: dict(enumerate(entry.values)) for entry in self.rows}

    @property
    def seed(self) -> int:
        """The plan's seed."""
        return self.plan.seed

    @property
    def candidates(self) -> list[Candidate]:
        """All that there are, the live version first."""
        factors = (self.instructions, self.demo_sets, self.output_formats)
        return [Candidate(*levels) for levels in product(*(range(len(factor)) for factor in factors))]

    def text_of(self, candidate: Candidate) -> PromptText:
        """The prompt that a candidate stands for."""
        instruction, demo_set = self.instructions[candidate.instruction].text, self.demo_sets[candidate.demo_set]
        output = self.output_formats[candidate.output_format]
        bare = PromptText(instruction, self.live_text.user, demo_set.demos, nearest=demo_set.nearest)
        text = in_format(bare, output)
        # What is live stands as it is: a person may have put the same format differently.
        if output is self.live_text.output and candidate.instruction == LIVE.instruction:
            text = replace(text, instruction=self.live_text.instruction)
        if output is self.live_text.output and candidate.demo_set == LIVE.demo_set:
            text = replace(text, demos=self.live_text.demos)
        return text


def encode_study(record: StudyRecord) -> bytes:
    """JSON, indented for people."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1)


def decode_study(content: bytes) -> StudyRecord:
    """The inverse of encode_study. Raises msgspec.DecodeError."""
    return msgspec.json.decode(content, type=StudyRecord)

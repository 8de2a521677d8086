"""Candidate against the live version on the test rows that no search has seen, stored as the proof of a gain."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import msgspec

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import PromptText, PromptVersion
from rs_pipelines.cached_model import CachedModel, CallCost, unknown_cost
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.gate import ComparedRow, GatePolicy, RowOutcome, Verdict, judge
from rs_pipelines.mipro.labels import label_shape
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.mipro.request import title_of
from rs_pipelines.sample import CalibrationSample, Example, Split, Target
from rs_pipelines.scoring import RowScore, score_rows


class NotComparableError(RouteSwitchError):
    """The study, the sample and the live version do not belong together."""

    code = "not_comparable"


@dataclass(frozen=True, slots=True)
class LabelChange:
    """Mean scores over the rows of one expected answer."""

    label: str
    n: int
    mean_live: float
    mean_candidate: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The stored proof. `comparison_id` is a hash of everything else in its file, so a change by hand shows.

    Attributes:
        by_label: breakdown, when the expected answers are a closed list.
        rows: all test rows, in the sample's order; the verdict can be computed again from them.
        seed: of the bootstrap.
        by_provenance: who vouches for the test rows' right answers -> number of rows.
        content_digest: what `comparison_id` must be, or this is no proof. Not stored: `sealed` and `decode_comparison`
            compute it from what is stored, so a field that a later program adds changes no older comparison's.
    """

    comparison_id: str
    target: Target
    study_id: str
    sample_id: str
    live_version: int
    live_hash: str
    candidate_hash: str
    policy: GatePolicy
    seed: int
    verdict: Verdict
    by_label: tuple[LabelChange, ...]
    rows: tuple[ComparedRow, ...]
    by_provenance: Mapping[str, int] = field(default_factory=dict[str, int])
    content_digest: str = ""

    def rows_with(self, outcome: RowOutcome) -> list[ComparedRow]:
        """The rows that ended so for the candidate, with both outputs."""
        return [row for row in self.rows if row.outcome == outcome]


def sealed(comparison: Comparison) -> Comparison:
    """A new comparison with the id of its content."""
    digest = _digest(_stored(comparison))
    return replace(comparison, comparison_id=digest, content_digest=digest)


def encode_comparison(comparison: Comparison) -> bytes:
    """JSON, indented for people."""
    return msgspec.json.format(msgspec.json.encode(_stored(comparison)), indent=1)


def decode_comparison(content: bytes) -> Comparison:
    """The inverse of encode_comparison, for files of earlier programs too. Raises msgspec.DecodeError."""
    stored = msgspec.json.decode(content)
    return replace(msgspec.convert(stored, Comparison), content_digest=_digest(stored))


def _stored(comparison: Comparison) -> dict[str, Any]:
    stored: dict[str, Any] = msgspec.to_builtins(comparison)
    del stored["content_digest"]
    return stored


def _digest(stored: Mapping[str, Any]) -> str:
    content = msgspec.json.encode({**stored, "comparison_id": ""}, order="sorted")
    return hashlib.sha256(content).hexdigest()[:32]


async def run_comparison(
    study: StudyRecord,
    sample: CalibrationSample,
    live: PromptVersion,
    *,
    model: CachedModel,
    evaluator: Evaluator,
    policy: GatePolicy,
    cost_of_call: CallCost = unknown_cost,
    on_row: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Score the study's choice and the live version on every test row, and judge. Publishes nothing.

    Rows that the study's budget does not cover are missing, as those are that the model cannot be asked about.

    Args:
        model: the one that the study was made for; spends the rest of the study's budget.
        cost_of_call: what one call of that model costs.
        on_row: called with (answers so far, answers needed).

    Raises:
        NotComparableError: the study is not finished, or was made from another sample or live version.
    """
    candidate = _candidate_of(study, sample, live)
    title = f"Comparison of {title_of(study.target, study.study_id)}"
    model = model.on(CallBudget(model.cache, study.study_id, study.plan.allowance, title=title))
    examples = sample.rows(Split.TEST)

    def progress(offset: int) -> Callable[[int, int], None]:
        return lambda done, total: on_row(offset + done, 2 * total) if on_row is not None else None

    scores = [
        await score_rows(
            text,
            examples,
            template_id=sample.template_id,
            model=model,
            evaluator=evaluator,
            on_row=progress(offset),
            when_spent="leave out",
        )
        for text, offset in ((live.text, 0), (candidate, len(examples)))
    ]
    rows = [_compared(*row, cost_of_call=cost_of_call) for row in zip(examples, *scores, strict=True)]
    verdict = judge(rows, live=live.text, candidate=candidate, policy=policy, seed=study.seed)
    return sealed(
        Comparison(
            comparison_id="",
            target=study.target,
            study_id=study.study_id,
            sample_id=sample.sample_id,
            live_version=live.number,
            live_hash=study.live_hash,
            candidate_hash=candidate.content_hash,
            policy=policy,
            seed=study.seed,
            verdict=verdict,
            by_label=_by_label(rows),
            rows=tuple(rows),
            by_provenance=dict(sorted(Counter(example.provenance for example in examples).items())),
        )
    )


def _candidate_of(study: StudyRecord, sample: CalibrationSample, live: PromptVersion) -> PromptText:
    """The study's choice. Raises NotComparableError: it may not be compared with this version on this sample."""
    if study.best_text is None or not study.finished:
        raise NotComparableError(f"Study {study.study_id} has not finished: run it again, it goes on where it was.")
    if study.sample_id != sample.sample_id or study.live_hash != live.text.content_hash:
        raise NotComparableError(
            f"Study {study.study_id} was made from another sample or another live version: optimise again."
        )
    return study.best_text


def _compared(example: Example, live: RowScore, candidate: RowScore, *, cost_of_call: CallCost) -> ComparedRow:
    return ComparedRow(
        example_id=example.example_id,
        expected=example.expected,
        live_value=live.value,
        candidate_value=candidate.value,
        live_output=live.output,
        candidate_output=candidate.output,
        live_tokens=live.input_tokens,
        candidate_tokens=candidate.input_tokens,
        live_output_tokens=live.output_tokens,
        candidate_output_tokens=candidate.output_tokens,
        live_cost_usd=None if live.value is None else cost_of_call(live.input_tokens, live.output_tokens),
        candidate_cost_usd=(
            None if candidate.value is None else cost_of_call(candidate.input_tokens, candidate.output_tokens)
        ),
    )


def _by_label(rows: Sequence[ComparedRow]) -> tuple[LabelChange, ...]:
    changes: list[LabelChange] = []
    for label in label_shape([row.expected for row in rows]).closed:
        both = [(r.live_value, r.candidate_value) for r in rows if r.expected == label]
        paired = [(a, b) for a, b in both if a is not None and b is not None]
        if paired:
            live, candidate = fmean(a for a, _ in paired), fmean(b for _, b in paired)
            changes.append(LabelChange(label, len(paired), live, candidate))
    return tuple(changes)

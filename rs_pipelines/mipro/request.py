"""What a study is asked for, and what follows from that alone: its id and the order of its rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import PromptText, PromptVersion
from rs_gateway.domain.redaction import Redactor
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.mipro.budget import LIVE_AND_WINNER, ComparisonSize, StudyPlan
from rs_pipelines.sample import CalibrationSample, Example, Target
from rs_pipelines.spending import Allowance


class NoLabelsError(RouteSwitchError):
    """The sample has no rows to learn from or to judge on."""

    code = "no_labels"


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What is to be optimised, from which version, on which rows, with which effort.

    Attributes:
        evaluator_spec: the template's `evaluator` section; its options belong to the study's id.
        output_formats: those to try beside the live version's own.
        objective: `quality` chooses what is believed to be best; `cost` the shortest prompt that is believed to lose no
            more than `max_loss`.
        looks_at_once: candidates that a race looks at at the same time, so that several processes have something to do.
        earlier: drafts that were never live, and winners of searches before this one, each the newest first; their
            instructions and demos are tried.
        comparison: what of the budget is kept back for after the search.
        redactor: what demos and the prompt model may not see of a train row; None takes nothing out.
    """

    target: Target
    sample: CalibrationSample
    live: PromptVersion
    plan: StudyPlan
    evaluator_spec: JsonObject = field(default_factory=JsonObject)
    output_formats: frozenset[OutputFormat] = frozenset({OutputFormat.BARE})
    objective: Literal["quality", "cost"] = "quality"
    max_loss: float = 0.02
    earlier: tuple[PromptText, ...] = ()
    redactor: Redactor | None = None
    looks_at_once: int = 1
    comparison: ComparisonSize = LIVE_AND_WINNER


@dataclass(frozen=True, slots=True)
class StudyModels:
    """The model that the prompt is for, and the one that proposes instructions (it may be the same)."""

    task: CachedModel
    prompt: CachedModel


def study_id_of(request: StudyRequest, models: StudyModels, evaluator: Evaluator) -> str:
    """Hash of everything that decides a study's course."""
    content: list[Any] = [
        request.target.key,
        request.sample.sample_id,
        request.live.text.content_hash,
        request.plan,
        models.task.identity.fingerprint,
        models.prompt.identity.fingerprint,
        evaluator.name,
        request.evaluator_spec,
    ]
    if request.output_formats != frozenset({OutputFormat.BARE}):  # studies from before there were formats keep their id
        content.append(sorted(request.output_formats))
    if request.objective != "quality":
        content.append([request.objective, request.max_loss])
    if request.earlier:
        content.append([text.content_hash for text in request.earlier])
    if request.looks_at_once != 1:
        content.append(["looks at once", request.looks_at_once])
    if request.redactor is not None:
        content.append(["redacted", *request.redactor.names])
    if request.plan.allowance != Allowance() and request.comparison != LIVE_AND_WINNER:
        content.append(["compared", request.comparison])
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


def title_of(target: Target, study_id: str) -> str:
    """A study's name for people."""
    return f"Study {study_id} of {target.template_id!r} on {target.model}"


def row_order(examples: Sequence[Example], plan: StudyPlan) -> tuple[Example, ...]:
    """The validation rows that are used, in the order in which every candidate sees them."""
    keyed = {hashlib.sha256(f"{plan.seed}:{e.example_id}".encode()).digest(): e for e in examples}
    return tuple(keyed[key] for key in sorted(keyed))[: plan.val_rows]

"""Asset `study`: MIPROv2 on Optuna. A run that was killed goes on where it was when it is launched again."""

from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from rs_gateway.domain.wording import counted
from rs_gateway.pipeline_sections import MiproSettings
from rs_pipelines import steps
from rs_pipelines.defs.calibration import calibration_sample
from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.groups import OPTIMIZATION, PROMPT_OWNERS
from rs_pipelines.defs.metadata import TRIAL_COLUMNS, of_new_best, of_preflight, of_study
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.effort import Effort
from rs_pipelines.mipro.events import (
    FullEvaluation,
    InstructionsReady,
    LookTaken,
    SecondRoundReady,
    StudyOpened,
    TrialFinished,
)
from rs_pipelines.preflight import Preflight
from rs_pipelines.report import look_words
from rs_pipelines.step_events import Event, Paused


class SearchMode(Enum):
    """How large a search is."""

    light = "light"
    medium = "medium"
    heavy = "heavy"


class StudyConfig(dg.Config):
    """What one run may override of `mipro_v2` in the configuration; empty leaves it as it stands there."""

    mode: SearchMode | None = Field(default=None, description="Size of the search.")
    num_trials: int | None = Field(
        default=None,
        description="Minibatches, with their full evaluations, whose rows a race may evaluate; under `tpe`, candidates "
        "that are tried on a minibatch. null: by mode.",
    )
    max_calls: int | None = Field(default=None, description="Hard limit on model calls, the comparison included.")
    max_tokens: int | None = Field(default=None, description="Limit on tokens of requests and answers together.")
    max_cost_usd: float | None = Field(default=None, description="Limit in US dollars; needs known prices.")
    prompt_model: str | None = Field(
        default=None, description="`provider/model` that proposes instructions; null: the target's own model."
    )
    evaluator: dict[str, Any] | None = Field(
        default=None, description="Such as {name: KeywordMatch}, for this run alone; null: the template's own."
    )
    seed: int | None = Field(default=None, description="Decides every random choice of the search.")

    def effort(self) -> Effort:
        """The same for the steps. Raises ConfigurationError: a number is out of its range."""
        return Effort(
            mode=self.mode.value if self.mode else None,
            num_trials=self.num_trials,
            max_calls=self.max_calls,
            seed=self.seed,
            max_tokens=self.max_tokens,
            max_cost_usd=self.max_cost_usd,
            prompt_model=self.prompt_model,
            evaluator=self.evaluator,
        )


def study_config(mipro: MiproSettings) -> dict[str, Any]:
    """What the launchpad shows: all that may be overridden, with what is configured now."""
    return {name: getattr(mipro, name, None) for name in StudyConfig.model_fields}


@dg.asset(
    deps=[calibration_sample],
    partitions_def=targets,
    group_name=OPTIMIZATION,
    kinds={"optuna", "json"},
    owners=PROMPT_OWNERS,
    pool="lm",
    metadata={"dagster/column_schema": TRIAL_COLUMNS},
    description="The search for a better prompt: instructions x demo sets on train and validation rows.",
)
def study(context: dg.AssetExecutionContext, config: StudyConfig, stores: StoresResource) -> dg.MaterializeResult[Any]:
    preflight: dict[str, dg.MetadataValue[Any]] = {}
    best: float | None = None

    def watch(event: Event) -> None:
        if isinstance(event, Preflight):
            preflight.update(of_preflight(event))
        nonlocal best
        if isinstance(event, FullEvaluation) and event.best is not None and (best is None or event.best > best):
            best = event.best
            context.log_event(
                dg.AssetObservation("study", partition=context.partition_key, metadata=of_new_best(event.trial, best))
            )
        words = _words(event)
        if words:
            context.log.info(words)
        stores.watch(event)

    with explained():
        bench = stores.open()
        record = steps.search(bench, bench.target_of_key(context.partition_key), config.effort(), watch=watch)
    return dg.MaterializeResult(metadata={**of_study(record), **preflight})


def _words(event: Event) -> str | None:
    match event:
        case StudyOpened():
            resumed = f", going on after {counted(event.trials_done, 'trial')}" if event.trials_done else ""
            return f"study {event.study_id}: search of at most about {event.estimated_calls} calls{resumed}"
        case InstructionsReady():
            return f"{event.n_instructions} instructions, {event.n_proposed} of them proposed by the prompt model"
        case SecondRoundReady():
            return f"second round: {event.n_revised} more instructions, written from failures of the leader"
        case TrialFinished():
            value = "void" if event.trial.value is None else f"{event.trial.value:.3f} on {event.trial.n_rows} rows"
            return f"trial {event.number}/{event.total}: {value}"
        case Paused():
            return "going on" if event.why is None else f"waiting for production: {event.why}"
        case LookTaken():
            return f"{event.done} of at most {event.total} rows: {look_words(event.trial)}"
        case FullEvaluation():
            value = "void" if event.trial.value is None else f"{event.trial.value:.3f}"
            return f"full evaluation of trial {event.trial.number}: {value}"
        case _:
            return None

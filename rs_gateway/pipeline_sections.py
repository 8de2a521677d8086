"""The sections of route-switch.yaml that the pipelines read: when, where and how prompts are searched and proven.

`make docs` makes a reference of them: what stands beneath a key is its meaning, and `examples` are shown as they are.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.section import Section

MOST_SEED = 2**32 - 1
"""The largest seed that every generator of random numbers takes."""


class TemplateOptimization(Section):
    """One entry of `gateway.optimization.templates`: what goes differently for that template. None is as above it."""

    enabled: Literal[False] | None = Field(default=None, examples=[False])
    """`false` leaves the template alone, whatever sensors and schedules are on."""
    interval_seconds: PositiveFloat | None = Field(default=None, examples=[604_800])
    """How long its targets wait for their next run by schedule."""
    min_new_examples: PositiveInt | None = Field(default=None, examples=[200])
    """New or corrected examples of it that are worth another study."""
    drift_window: int | None = Field(default=None, ge=20, examples=[200])
    """Its live scores that are compared with those before them."""
    drift_min_drop: float | None = Field(default=None, gt=0, lt=1, examples=[0.1])
    """The fall of its mean score that is worth a study."""


class OptimizationSettings(Section):
    """Section `gateway.optimization`: when the pipelines start by themselves. The gateway itself reads none of it."""

    enabled: bool = False
    """Whether Dagster's sensors and schedules are on until somebody switches them in its UI."""
    interval_seconds: PositiveFloat = 86_400.0
    """The schedule: how long a target (template x model) waits for its next run, if there is anything new by then."""
    min_new_examples: PositiveInt = 50
    """New or corrected labelled examples since the last study that are worth another one."""
    drift_window: int = Field(default=100, ge=20)
    """Live scores that are compared with those before them."""
    drift_min_drop: float = Field(default=0.05, gt=0, lt=1)
    """A fall of the mean score that is worth a study, where it is more than chance."""
    templates: dict[str, TemplateOptimization] = Field(default_factory=dict)
    """Template -> the keys that differ for it."""

    def leaves_alone(self, template_id: str) -> bool:
        """Whether nothing may start an optimisation of the template by itself."""
        return template_id in self.templates and self.templates[template_id].enabled is False

    def of(self, template_id: str) -> "OptimizationSettings":
        """What holds for one template."""
        own = self.templates.get(template_id)
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True, exclude={"enabled"}))


class MiproSettings(Section):
    """Section `mipro_v2`: how prompts are searched. Numbers that are left out come from `mode`."""

    mode: Literal["light", "medium", "heavy"] = "light"
    """How much is tried, and so how much it costs."""
    search: Literal["racing", "tpe"] = "racing"
    """`racing` looks at whoever may beat the leader, a few rows at a time; `tpe` is MIPROv2's own way."""
    look_rows: PositiveInt | None = Field(default=None, examples=[12])
    """Rows of one look of a race; by default 12."""
    looks_at_once: PositiveInt = 1
    """Candidates that a race looks at at the same time; more than one for workers that join (`optimize --join`)."""
    num_candidates: PositiveInt | None = Field(default=None, examples=[6])
    """Demo sets, the live one included; by mode 6, 12 or 18."""
    num_instruction_candidates: PositiveInt | None = Field(default=None, examples=[4])
    """Instructions that the search starts with, the live one included; by mode 4, 7 or 10."""
    num_revisions: int | None = Field(default=None, ge=0, examples=[1])
    """Instructions that are written in the middle of the search, from the leader's failures; 0 for none. By mode 1, 2
    or 3."""
    max_bootstrapped_demos: int | None = Field(default=None, ge=0, examples=[4])
    """Demos of a set that the model got right by itself; by default 4."""
    max_labeled_demos: int | None = Field(default=None, ge=0, examples=[4])
    """Demos in a set; by default 4."""
    wide_demos: int | None = Field(default=None, ge=0, examples=[8])
    """Demos of one larger set, or one for each of up to 12 labels; by default twice `max_labeled_demos`, 0 for none."""
    nearest_demos: bool = False
    """Whether a pool of demos is tried too, of which each request is shown those most like it."""
    num_trials: PositiveInt | None = Field(default=None, examples=[10])
    """Size of the search: for `tpe` the candidates tried on a minibatch; a race looks at no more rows than so many
    minibatches and their full evaluations have. By mode 10, 18 or 27."""
    minibatch_size: PositiveInt | None = Field(default=None, examples=[35])
    """Rows of a trial of `tpe`, and what a race reckons with; by default all validation rows up to 50, otherwise 35."""
    minibatch_full_eval_steps: PositiveInt | None = Field(default=None, examples=[5])
    """Trials of `tpe` between two full evaluations, and what a race reckons with; by default 5."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    """Decides every random choice of the search, the sample's too."""
    max_calls: PositiveInt | None = Field(default=None, examples=[2_000])
    """Hard limit on model calls of one optimisation, the comparison included; by default there is none."""
    max_tokens: PositiveInt | None = Field(default=None, examples=[2_000_000])
    """The same in tokens of requests and answers together; needs a `max_tokens` wherever a model is asked."""
    max_cost_usd: PositiveFloat | None = Field(default=None, examples=[5.0])
    """The same in US dollars; needs that too, and the prices of all models that are asked."""
    concurrency: PositiveInt = 8
    """Calls in flight at once."""
    rate_share: float = Field(default=0.5, gt=0, le=1)
    """How much of a provider's `rate_limit` an optimisation may take."""
    evaluation_strategy: str | None = Field(default=None, examples=["KeywordMatch"])
    """Evaluator of templates that name none; over `evaluation.default_strategy`."""
    output_formats: tuple[OutputFormat, ...] = Field(default=(OutputFormat.BARE,), min_length=1)
    """Ways to have the answer written that are tried; the live version's own is always among them. Only `bare` where
    the combination's parameters have `response_format` or `tools`."""
    prompt_model: str | None = Field(default=None, examples=["openai/gpt-4o"])
    """`provider/model` that proposes instructions; by default the model that is being optimised for."""

    @model_validator(mode="after")
    def _check(self) -> "MiproSettings":
        if self.looks_at_once > 1 and self.search != "racing":
            raise ValueError("looks_at_once over 1 needs `search: racing`")
        return self


class PipelineSettings(Section):
    """Section `pipelines`: where the steps of a run are carried out."""

    executor: Literal["in_process", "multiprocess", "celery"] = "in_process"
    """In the run's own process, in a process for each step, or by Celery's workers on any machine."""
    broker: SecretStr | None = Field(default=None, examples=["redis://127.0.0.1:6379/0"])
    """Where Celery's workers are handed steps, and hand back results; `celery` needs one."""
    lost_after_seconds: PositiveFloat = 30.0
    """How long a worker may not know of a step that it began before another one is given it."""

    @model_validator(mode="after")
    def _check(self) -> "PipelineSettings":
        if self.executor == "celery" and self.broker is None:
            raise ValueError("executor celery needs a broker, such as redis://127.0.0.1:6379/0")
        return self


class EvaluationSettings(Section):
    """Section `evaluation`: how answers are scored and when a candidate may go live."""

    default_strategy: str = "ExactMatch"
    """Evaluator of templates that name none."""
    min_gain: float = Field(default=0.0, ge=0, lt=1)
    """The lower end of the gain's 95 % interval must be above it."""
    min_test_rows: PositiveInt = 30
    """With fewer held-out rows nothing counts as proven."""
    max_prompt_tokens: PositiveInt | None = Field(default=None, examples=[1_500])
    """Mean input tokens of a request with the new prompt, at most; by default there is none."""
    python_modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = Field(
        default=(), examples=[["my_scores"]]
    )
    """Modules whose functions a template may name as its evaluator; by default none."""
    objective: Literal["quality", "cost"] = "quality"
    """`quality` wants a proven gain; `cost` a cheaper prompt that is not worse by more than `max_loss`."""
    max_loss: float = Field(default=0.02, gt=0, lt=1)
    """How much worse a cheaper prompt may be; only for `objective: cost`."""


class DatasetSettings(Section):
    """Section `dataset`: imported examples."""

    base_path: Path | None = Field(default=None, examples=["data/datasets"])
    """Where they lie; by default `DATA_DIR/datasets`."""
    max_records: PositiveInt = 2_000
    """Examples drawn for one optimisation, at most."""

"""One template on several models: tune a prompt for each, run every prompt on every model, on the same test rows."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rs_gateway.domain.errors import ConfigurationError, ProviderError, RouteSwitchError
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.rendering import render_messages
from rs_gateway.domain.wording import counted
from rs_pipelines import planning, steps
from rs_pipelines.best_model import BestModel, Tried, rank
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.effort import Effort
from rs_pipelines.mipro.budget import ComparisonSize, estimate_calls, least_calls
from rs_pipelines.mipro.evaluations import StudyFailedError
from rs_pipelines.mipro.records import LIVE
from rs_pipelines.mipro.request import StudyModels
from rs_pipelines.preflight import SilentModelError
from rs_pipelines.sample import CalibrationSample, Example, Split, Target
from rs_pipelines.scoring import RowScore, score_rows
from rs_pipelines.spending import Allowance
from rs_pipelines.step_events import RowsCompared, Watcher, ignore
from rs_pipelines.workbench import Workbench

_TIMED_CALLS = 20
_SALTS = 1_000_000_000
"""Seeds have 31 bits at most providers."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A target with the prompt that is best for it as far as is known.

    Attributes:
        account: what its search was booked on, and its model's part of the comparison will be.
    """

    target: Target
    text: PromptText
    is_live: bool
    account: str


@dataclass(frozen=True, slots=True)
class _Crossing:
    """Every prompt on one model, as far as its budget went.

    Attributes:
        scores: model that a prompt was tuned for -> its scores; without the prompts that the budget did not cover.
        latencies_s: of calls with the model's own prompt. calls: all on its account.
        stopped: why prompts are missing. failed: why the model has no score at all; then nothing else was asked of it.
    """

    scores: Mapping[str, list[RowScore]]
    latencies_s: tuple[float, ...]
    calls: int
    stopped: BudgetExhaustedError | None = None
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """A prompt is about to be tuned for this model: number `position` of `total`."""

    model: str
    position: int
    total: int


@dataclass(frozen=True, slots=True)
class Crossed:
    """Every prompt has run on this model."""

    model: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This model answers too little to be compared; the others go on without it."""

    model: str
    why: str


class NoModelAnsweredError(RouteSwitchError):
    """Nothing can be compared: every model failed, or ran out of its budget."""

    code = "no_model_answered"

    def __init__(self, template_id: str, reasons: Mapping[str, str]) -> None:
        self.reasons = dict(reasons)
        lines = "".join(f"\n  - {model}: {why}" for model, why in reasons.items())
        super().__init__(f"No model of {template_id!r} could be compared:{lines}")


def find_best_model(
    bench: Workbench,
    template_id: str,
    *,
    models: Sequence[str] = (),
    quality_bound: float = 0.02,
    effort: Effort | None = None,
    optimize: bool = True,
    watch: Watcher = ignore,
    on_step: Callable[[Tuning | Crossed | Failed], None] = lambda step: None,
) -> BestModel:
    """Tune a prompt for each model and compare them. Publishes nothing. Run again, it goes on where it was.

    A model whose budget ends before its own prompt has run on all rows is not ranked, nor is one that does not answer;
    the others are.

    Args:
        models: those of the template's combinations to compare; none means all.
        effort: of each model's search; its `max_calls` is what everything together may cost, shared out among the
            models. Budgets of the configuration are each model's, its part of the comparison included.
        optimize: False compares the live versions as they are.

    Raises:
        ConfigurationError: the template runs on no such model, or they have no test row in common, or the budget is
            too small.
        BudgetExhaustedError: of every model; retries take calls, too.
        NoModelAnsweredError: every model failed, or some did and the others' budgets ended.
        PreflightError, LabelShortageError: there is nothing to learn from or to prove with.
    """
    targets = _targets(bench, template_id, models)
    steps.ingest(bench, watch=watch)
    samples = {target: steps.draw(bench, target) for target in targets}
    # Most often they are the same rows for all models: then one line says it.
    for sample in {tuple(len(s.rows(split)) for split in Split): s for s in samples.values()}.values():
        watch(sample)
    rows = _shared_test_rows(list(samples.values()))
    if not rows:
        raise ConfigurationError(
            f"There is no test row of {template_id!r} that {', '.join(t.model for t in targets)} may all be judged by: "
            "label some by hand, or name other --models. A teacher's labels are not used for its own model."
        )
    size = ComparisonSize(prompts=len(targets), timed_calls=min(_TIMED_CALLS, len(rows)))
    effort = _each(bench, effort or Effort(), samples, size, optimize=optimize)
    tuned: list[Tuned] = []
    failed: dict[str, str] = {}

    def fail(model: str, why: str) -> None:
        failed[model] = why
        on_step(Failed(model, why))

    for position, target in enumerate(targets, start=1):
        on_step(Tuning(target.model, position, len(targets)))
        try:
            tuned.append(_tuned(bench, target, effort, size, optimize=optimize, watch=watch))
        except SilentModelError as error:
            fail(target.model, " ".join(error.objections))
        except StudyFailedError as error:
            fail(target.model, str(error))
    evaluator = bench.evaluator(bench.registry.get(template_id).template)
    tried: list[Tried] = []
    transfer: dict[str, dict[str, float | None]] = {one.target.model: {} for one in tuned}
    stopped: dict[str, BudgetExhaustedError] = {}
    calls = 0
    for one in tuned:
        model = one.target.model
        allowance = planning.plan(bench, samples[one.target], effort).allowance
        crossing = _crossed(bench, one, tuned, rows, evaluator, allowance, watch=watch)
        calls += crossing.calls
        for source, means in transfer.items():
            means[model] = _mean(crossing.scores.get(source, ()))
        if crossing.failed is not None:
            fail(model, crossing.failed)
            continue
        if model in crossing.scores:
            tried.append(_tried(bench, one, crossing.scores[model], crossing.latencies_s))
        if crossing.stopped is None:
            on_step(Crossed(model))
        else:
            stopped[model] = crossing.stopped
    unfinished = {model: str(why) for model, why in stopped.items()}
    if not tried and failed:
        raise NoModelAnsweredError(template_id, {**failed, **unfinished})
    if not tried:
        raise next(iter(stopped.values()))
    found = rank(
        tried,
        template_id=template_id,
        quality_bound=quality_bound,
        transfer=transfer,
        model_calls=calls,
        seed=bench.settings.mipro_v2.seed,
    )
    return replace(
        found,
        unfinished=unfinished,
        failed=failed,
        test_by_provenance=_by_provenance(rows),
        left_out_by_provenance=_by_provenance(_left_out(samples.values(), rows)),
    )


def _targets(bench: Workbench, template_id: str, models: Sequence[str]) -> list[Target]:
    bench.registry.get(template_id)
    if models:
        return [bench.target(template_id, model) for model in dict.fromkeys(models)]
    targets = [target for target in bench.targets() if target.template_id == template_id]
    if not targets:
        bench.target(template_id)  # says what there is
    return targets


def _shared_test_rows(samples: Sequence[CalibrationSample]) -> tuple[Example, ...]:
    """Test rows that all samples have, with the same expected output."""
    held = [{e.example_id: e.expected for e in sample.rows(Split.TEST)} for sample in samples]
    return tuple(
        example
        for example in samples[0].rows(Split.TEST)
        if all(rows.get(example.example_id) == example.expected for rows in held)
    )


def _left_out(samples: Iterable[CalibrationSample], rows: Sequence[Example]) -> list[Example]:
    """One example for each test row of some sample that is not among the shared rows."""
    shared = {row.example_id for row in rows}
    found = {e.example_id: e for sample in samples for e in sample.rows(Split.TEST)}
    return [example for example_id, example in found.items() if example_id not in shared]


def _by_provenance(examples: Iterable[Example]) -> dict[str, int]:
    return dict(sorted(Counter(example.provenance for example in examples).items()))


def _each(
    bench: Workbench,
    effort: Effort,
    samples: Mapping[Target, CalibrationSample],
    size: ComparisonSize,
    *,
    optimize: bool,
) -> Effort:
    """The effort of one model, when what all models together may cost is limited.

    Raises:
        ConfigurationError: what a model may cost is too little, or cannot be kept.
    """
    each = effort if effort.max_calls is None else replace(effort, max_calls=effort.max_calls // len(samples))
    for target, sample in samples.items():
        plan = planning.plan(bench, sample, each)
        least = least_calls(plan, sample, size) if optimize else estimate_calls(plan, sample, size).comparison
        if plan.max_calls is not None and plan.max_calls < least:
            limit = (
                f"mipro_v2.max_calls {plan.max_calls}"
                if effort.max_calls is None
                else f"--max-calls {effort.max_calls}"
            )
            raise ConfigurationError(
                f"{limit} is not enough for {len(samples)} models: each needs at least {least} "
                f"calls, {len(samples) * least} in all, {estimate_calls(plan, sample, size).comparison} of them to run "
                f"every prompt on {len(sample.rows(Split.TEST))} test rows. Allow more, or name fewer --models."
            )

        async def check(models: StudyModels, allowance: Allowance = plan.allowance) -> None:
            models.task.check(allowance)

        steps.with_models(bench, target, check, watch=ignore)
    return each


def _tuned(
    bench: Workbench, target: Target, effort: Effort, size: ComparisonSize, *, optimize: bool, watch: Watcher
) -> Tuned:
    live = bench.live(target).text
    if not optimize:
        content = f"{target.key}:{live.content_hash}:{size}:{effort}"
        return Tuned(target, live, True, f"find-best-model:{hashlib.sha256(content.encode()).hexdigest()[:16]}")
    study = steps.search(bench, target, effort, comparison=size, watch=watch)
    if study.best == LIVE or study.best_text is None:
        return Tuned(target, live, True, study.study_id)
    return Tuned(target, study.best_text, False, study.study_id)


def _crossed(
    bench: Workbench,
    one: Tuned,
    tuned: Sequence[Tuned],
    rows: Sequence[Example],
    evaluator: Evaluator,
    allowance: Allowance,
    *,
    watch: Watcher,
) -> _Crossing:
    """Run every prompt on one model, its own first: that one decides whether the model can be ranked."""
    template_id, done = one.target.template_id, 0
    total = len(tuned) * len(rows)

    async def run(models: StudyModels) -> _Crossing:
        nonlocal done
        title = f"Comparison of {len(tuned)} prompts on {one.target.model}"
        budget = CallBudget(models.task.cache, one.account, allowance, title=title)
        model = models.task.on(budget)
        scores: dict[str, list[RowScore]] = {}
        stopped: BudgetExhaustedError | None = None
        for source in (one, *(other for other in tuned if other is not one)):
            before = done
            try:
                scores[source.target.model] = await score_rows(
                    source.text,
                    rows,
                    template_id=template_id,
                    model=model,
                    evaluator=evaluator,
                    on_row=lambda n, _, before=before: watch(RowsCompared(before + n, total)),
                )
            except BudgetExhaustedError as error:
                stopped = error  # another prompt may have all its answers in the cache
            if source is one and (failed := _silence(scores.get(source.target.model, ()))) is not None:
                return _Crossing(scores, (), budget.spent.calls, failed=failed)
            done += len(rows)
        latencies_s = await _timed(one.text, rows[:_TIMED_CALLS], template_id=template_id, model=model)
        return _Crossing(scores, latencies_s, budget.spent.calls, stopped)

    return steps.with_models(bench, one.target, run, watch=watch)


def _silence(scores: Sequence[RowScore]) -> str | None:
    """Why there is no score at all; None where there is one, or nothing was asked to the end."""
    if not scores or any(score.value is not None for score in scores):
        return None
    return (
        f"None of {counted(len(scores), 'test row')} has a score (the last: {scores[-1].error}). "
        "`route-switch check --live` says how to mend that."
    )


async def _timed(
    text: PromptText, rows: Sequence[Example], *, template_id: str, model: CachedModel
) -> tuple[float, ...]:
    """Seconds of a call, one after the other, until the budget ends; answers out of the cache are left out."""
    latencies_s: list[float] = []
    salt = time.time_ns() // 1_000_000 % _SALTS  # another draw than any before, so that no answer comes from the cache
    for example in rows:
        messages = render_messages(text, example.variables, example.messages, template_id=template_id)
        began = time.perf_counter()
        try:
            answer = await model.answer(messages, salt=salt)
        except (BudgetExhaustedError, ProviderError):
            continue
        if not answer.cached:
            latencies_s.append(time.perf_counter() - began)
    return tuple(latencies_s)


def _tried(bench: Workbench, one: Tuned, scores: Sequence[RowScore], latencies_s: tuple[float, ...]) -> Tried:
    cost_of_call = bench.cost_of_call(one.target)
    answered = [score for score in scores if score.value is not None]
    costs = [cost_of_call(score.input_tokens, score.output_tokens) for score in answered]
    known = [cost for cost in costs if cost is not None]
    return Tried(
        model=one.target.model,
        prompt_hash=one.text.content_hash,
        is_live=one.is_live,
        values=tuple(score.value for score in scores),
        usd_per_1000_calls=1_000 * fmean(known) if known and len(known) == len(costs) else None,
        input_tokens=_average([score.input_tokens for score in answered]),
        output_tokens=_average([score.output_tokens for score in answered]),
        latencies_s=latencies_s,
    )


def _average(counts: Sequence[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return fmean(known) if known else None


def _mean(scores: Sequence[RowScore]) -> float | None:
    present = [score.value for score in scores if score.value is not None]
    return fmean(present) if present else None

"""The loop, step by step, in plain Python: ingest, draw, search, compare, publish. Dagster's assets only call these."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import JudgingEvaluator
from rs_gateway.wiring import open_trace_reader
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.comparison import Comparison, run_comparison
from rs_pipelines.cost_estimate import CostEstimate, estimate_cost, proposals_needed
from rs_pipelines.effort import Effort
from rs_pipelines.evaluator_sanity import check_evaluator
from rs_pipelines.foresight import Needed, models_asked
from rs_pipelines.ingest import IngestReport
from rs_pipelines.interrupts import run_interruptible
from rs_pipelines.live_probe import LiveProbe, probe_of
from rs_pipelines.mipro.budget import LIVE_AND_WINNER, ComparisonSize, estimate_calls, study_allowance
from rs_pipelines.mipro.evaluations import Evaluations, Tools
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.mipro.request import StudyModels, row_order, study_id_of, title_of
from rs_pipelines.mipro.reserve import ComparisonReserve
from rs_pipelines.mipro.search import run_study, utc_now
from rs_pipelines.mipro.teamwork import join_study
from rs_pipelines.planning import bench_with, evaluator_spec, gathered, study_request
from rs_pipelines.preflight import BudgetCheck, Preflight, assess
from rs_pipelines.publishing import NothingPublished, Published, publish
from rs_pipelines.results import StepMissingError, comparison_of, study_of
from rs_pipelines.retention import expire
from rs_pipelines.sample import CalibrationSample, Split, Target
from rs_pipelines.sample_draw import draw_sample
from rs_pipelines.scoring import score_rows
from rs_pipelines.step_events import Ingesting, Paused, Probing, RowsCompared, Watcher, ignore
from rs_pipelines.workbench import Workbench

_PROBE_ROWS = 10
_NOISE_ROWS = 5
_T = TypeVar("_T")


def ingest(bench: Workbench, *, watch: Watcher = ignore) -> IngestReport:
    """Bring new traces and feedback into the lake, and let go what is kept no longer (`privacy.retention`)."""

    def show(page: IngestReport) -> None:
        done = page.rows + page.feedback_rows
        watch(Ingesting(done, max(done, page.expected)))

    reader = open_trace_reader(bench.settings)
    try:
        report = bench.lake.ingest(reader, on_page=show)
    finally:
        reader.close()
    expire(bench, now=datetime.now(UTC))
    watch(report)
    return report


def draw(bench: Workbench, target: Target, *, watch: Watcher = ignore) -> CalibrationSample:
    """Draw and keep the target's calibration sample. Raises LabelShortageError with the remedy."""
    found = gathered(bench, target)
    settings = bench.settings
    sample = draw_sample(
        target,
        found.examples,
        max_records=settings.dataset.max_records,
        seed=settings.mipro_v2.seed,
        door=bench.feedback_door,
        own_answers=found.own_answers,
    )
    bench.known_examples.save(target, sample.sample_id, found.examples)
    bench.samples.save(sample)
    watch(sample)
    return sample


def preflight(
    bench: Workbench,
    target: Target,
    effort: Effort | None = None,
    *,
    comparison: ComparisonSize = LIVE_AND_WINNER,
    watch: Watcher = ignore,
) -> Preflight:
    """What an optimisation of the target's latest sample can prove and will cost. Refuses nothing.

    Asks the live prompt on the first validation rows, which the search asks in any case; at a temperature above 0 on
    some of them twice. These calls are booked on the study. Where `max_calls` is too small for any study, nobody is
    asked.

    Raises:
        StudyBusyError: the target is being optimised.
    """
    bench, effort = bench_with(bench, effort)
    request = study_request(bench, target, effort, comparison)
    evaluator, sample = bench.evaluator_of(request.evaluator_spec), request.sample
    # A judge is asked, and paid, only about answers; whether it agrees with people, its calibration says.
    judged = isinstance(evaluator, JudgingEvaluator)
    sanity = None if judged else check_evaluator(evaluator, sample.examples)
    estimate = estimate_calls(request.plan, sample, comparison)

    def assessed(
        live: LiveProbe | None, *, cost: CostEstimate | None, least: Needed, too_few_calls: str | None = None
    ) -> Preflight:
        found = assess(
            gathered(bench, target),
            sample,
            policy=bench.policy(),
            evaluator=sanity,
            live=live,
            cost=cost,
            budget=BudgetCheck(request.plan.allowance, least, estimate.total, too_few_calls),
            val_rows=request.plan.val_rows,
            judged=judged,
        )
        watch(found)
        return found

    try:
        allowance = study_allowance(request.plan, sample, comparison)
    except ConfigurationError as error:
        return assessed(None, cost=None, least=Needed(), too_few_calls=str(error))
    rows = row_order(sample.rows(Split.VAL), request.plan)[:_PROBE_ROWS]

    async def run(models: StudyModels) -> tuple[LiveProbe, Needed, float]:
        study_id = study_id_of(request, models, evaluator)
        budget = CallBudget(models.task.cache, study_id, allowance, title=title_of(target, study_id))
        model = models.task.on(budget)
        scored_by = models_asked(
            request.live.text, rows[:1], template_id=target.template_id, model=model, evaluator=evaluator
        )
        for asked in (model, models.prompt, *scored_by):
            asked.check(allowance)
        twice = rows[:_NOISE_ROWS] if _draws(model) else ()
        watch(Probing(len(rows) + len(twice)))
        before, began = model.calls_made, time.monotonic()
        first, again = [
            await score_rows(
                request.live.text,
                asked,
                template_id=target.template_id,
                model=model,
                evaluator=evaluator,
                salt=salt,
                when_spent="leave out",
            )
            for salt, asked in ((0, rows), (1, twice))
        ]
        calls, seconds = model.calls_made - before, time.monotonic() - began
        probe = probe_of(first, again, seconds_per_call=seconds / calls if calls else None)
        reserve = ComparisonReserve(request, task=models.task, evaluator=evaluator)
        proposals = proposals_needed(estimate, cost_of_proposal=bench.cost_of_proposal(target))
        return probe, reserve.least() + proposals, reserve.longest_by_live()

    with bench.studies.lock(target):
        probe, least, longest = with_models(bench, target, run, watch=watch)
    cost = estimate_cost(
        estimate,
        request.plan,
        probe,
        longest=longest,
        cost_of_call=bench.cost_of_call(target),
        cost_of_proposal=bench.cost_of_proposal(target),
    )
    return assessed(probe, cost=cost, least=least)


def search(
    bench: Workbench,
    target: Target,
    effort: Effort | None = None,
    *,
    comparison: ComparisonSize = LIVE_AND_WINNER,
    watch: Watcher = ignore,
) -> StudyRecord:
    """Search a better prompt on the target's latest sample; goes on where an interrupted search was.

    Args:
        comparison: what of the budget is kept back for after the search.

    Raises:
        PreflightError: it could not end in a proof; nothing but the probe calls was spent.
        StudyFailedError: the model stopped answering; what was evaluated is kept.
    """
    found = preflight(bench, target, effort, comparison=comparison, watch=watch)
    if found.refusal is not None:
        raise found.refusal
    bench, effort = bench_with(bench, effort)
    request = study_request(bench, target, effort, comparison)
    evaluator = bench.evaluator_of(request.evaluator_spec)

    async def run(models: StudyModels) -> StudyRecord:
        return await run_study(
            request, models, evaluator=evaluator, files=bench.studies, storage=bench.trials, on_event=watch
        )

    return with_models(bench, target, run, watch=watch)


def join(bench: Workbench, target: Target, *, on_delivered: Callable[[int], None], watch: Watcher = ignore) -> int:
    """Take looks of the search that another process leads for the target, until it has ended; how many were taken.

    Raises:
        ConfigurationError: no storage is configured that both reach.
        StepMissingError: nobody searches for the target.
    """
    storage = bench.trials
    if storage is None:
        raise ConfigurationError(
            "A search can be joined only where `stores.trials` names a database that both processes reach, and "
            "`mipro_v2.looks_at_once` is over 1."
        )
    record = next((r for r in reversed(bench.studies.studies(target)) if not r.finished), None)
    if record is None:
        raise StepMissingError(
            f"There is no search for {target.key} to join: start one with `route-switch optimize`, and join it once "
            "the live version has been evaluated."
        )
    sample = bench.samples.load(target, record.sample_id)
    evaluator = bench.evaluator(bench.registry.get(target.template_id).template)
    by_id = {example.example_id: example for example in sample.rows(Split.VAL)}
    rows = tuple(by_id[example_id] for example_id in record.row_order)
    request = replace(study_request(bench, target, Effort(), LIVE_AND_WINNER), sample=sample, plan=record.plan)

    async def run(models: StudyModels) -> int:
        reserve = ComparisonReserve(request, task=models.task, evaluator=evaluator)
        allowance = study_allowance(request.plan, sample, request.comparison)
        budget = CallBudget(models.task.cache, record.study_id, allowance, title=title_of(target, record.study_id))
        tools = Tools(models.task.on(budget), evaluator, budget, reserve, bench.studies, watch, utc_now)
        return await join_study(Evaluations(record, rows, tools), storage, on_delivered=on_delivered)

    return with_models(bench, target, run, watch=watch)


def _draws(model: CachedModel) -> bool:
    """Whether the model's answers are drawn: at a temperature above 0, or one that is the provider's secret."""
    temperature = model.identity.request_parameters(0).get("temperature")
    return not isinstance(temperature, int | float) or temperature > 0


def compare(bench: Workbench, target: Target, *, study_id: str | None = None, watch: Watcher = ignore) -> Comparison:
    """Score a study's choice against the live version on the test rows, and keep the result.

    Args:
        study_id: None takes the study that ended last.

    Raises:
        StudyBusyError: the target is being optimised by somebody else.
    """
    study = study_of(bench, target, study_id)
    sample = bench.samples.load(target, study.sample_id)
    evaluator = bench.evaluator_of(evaluator_spec(bench, target.template_id, Effort(evaluator=study.evaluator_spec)))

    async def run(models: StudyModels) -> Comparison:
        return await run_comparison(
            study,
            sample,
            bench.live(target),
            model=models.task,
            evaluator=evaluator,
            policy=bench.policy(),
            cost_of_call=bench.cost_of_call(target),
            on_row=lambda done, total: watch(RowsCompared(done, total)),
        )

    with bench.studies.lock(target):
        comparison = with_models(bench, target, run, watch=watch)
        bench.studies.save_comparison(comparison)
    return comparison


def publish_winner(bench: Workbench, target: Target, *, study_id: str | None = None) -> Published | NothingPublished:
    """Publish a study's choice, if its comparison is proof; verified again in any case.

    Args:
        study_id: None takes the study that ended last.
    """
    study = study_of(bench, target, study_id)
    comparison = comparison_of(bench, target, study_id)
    if study.best_text is None:
        raise StepMissingError(f"Study {study.study_id} has not finished: run it again, it goes on where it was.")
    return publish(comparison, study.best_text, bench.registry, now=datetime.now(UTC))


def lake_rows(bench: Workbench) -> tuple[int, int]:
    """Traces and feedback rows that the lake holds."""
    manifest = bench.lake.manifest()
    return manifest.traces.rows, manifest.feedback.rows


def unread(bench: Workbench) -> bool:
    """Whether the trace store holds a trace or feedback that the lake has not."""
    manifest, reader = bench.lake.manifest(), open_trace_reader(bench.settings)
    try:
        return bool(
            reader.traces(after=manifest.traces.cursor, limit=1).rows
            or reader.feedback(after=manifest.feedback.cursor, limit=1).rows
        )
    finally:
        reader.close()


def with_models(
    bench: Workbench,
    target: Target,
    run: Callable[[StudyModels], Awaitable[_T]],
    *,
    watch: Watcher,
    combination: Combination | None = None,
) -> _T:
    """What `run` returns with the target's models open; Ctrl-C ends it between two calls.

    Args:
        combination: how the target's model is asked; None: as its first enabled combination says.
    """

    async def main() -> _T:
        async with bench.models(target, on_pause=lambda why: watch(Paused(why)), combination=combination) as models:
            return await run(models)

    return run_interruptible(main)

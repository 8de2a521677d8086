"""What a search of a target would be asked to do: its rows, its size, its limits."""

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import questions_per_answer
from rs_pipelines.effort import Effort
from rs_pipelines.examples import Gathered, gather
from rs_pipelines.mipro.budget import ComparisonSize, PlanNumbers, StudyPlan, plan_for
from rs_pipelines.mipro.demos import demo_user_text
from rs_pipelines.mipro.earlier import MOST_EARLIER, earlier_winners, untried_drafts
from rs_pipelines.mipro.request import StudyRequest
from rs_pipelines.preflight import Preflight, assess
from rs_pipelines.publishing import taken_back_hashes
from rs_pipelines.results import latest_sample
from rs_pipelines.sample import CalibrationSample, Split, Target
from rs_pipelines.workbench import Workbench


def plan(bench: Workbench, sample: CalibrationSample, effort: Effort) -> StudyPlan:
    """The size of the study that the settings and this run's effort ask for."""
    mipro = effort.applied_to(bench.settings).mipro_v2
    numbers = PlanNumbers(
        num_candidates=mipro.num_candidates,
        num_instruction_candidates=mipro.num_instruction_candidates,
        num_revisions=mipro.num_revisions,
        max_bootstrapped_demos=mipro.max_bootstrapped_demos,
        max_labeled_demos=mipro.max_labeled_demos,
        wide_demos=mipro.wide_demos,
        nearest_demos=mipro.nearest_demos,
        num_trials=mipro.num_trials,
        minibatch_size=mipro.minibatch_size,
        minibatch_full_eval_steps=mipro.minibatch_full_eval_steps,
        look_rows=mipro.look_rows,
        search=mipro.search,
        seed=mipro.seed if effort.seed is None else effort.seed,
        max_calls=mipro.max_calls,
        max_tokens=mipro.max_tokens,
        max_cost_usd=mipro.max_cost_usd,
    )
    return plan_for(
        mipro.mode,
        len(sample.rows(Split.VAL)),
        numbers=numbers,
        questions_per_answer=questions_per_answer(
            bench.evaluator_of(evaluator_spec(bench, sample.template_id, effort))
        ),
    )


def inspect_sample(bench: Workbench, target: Target, sample: CalibrationSample) -> Preflight:
    """What the rows alone say: no model and no evaluator is asked."""
    return assess(gathered(bench, target), sample, policy=bench.policy())


def gathered(bench: Workbench, target: Target) -> Gathered:
    """All examples that the target could be optimised on now."""
    registered = bench.registry.get(target.template_id)
    outputs = {number: version.text.output for number, version in registered.versions.items()}
    return gather(target, registered.template, lake=bench.lake, datasets=bench.datasets, outputs=outputs)


def bench_with(bench: Workbench, effort: Effort | None) -> tuple[Workbench, Effort]:
    effort = effort or Effort()
    return Workbench(effort.applied_to(bench.settings)), effort


def evaluator_spec(bench: Workbench, template_id: str, effort: Effort) -> JsonObject:
    return effort.evaluator or bench.evaluator_spec(bench.registry.get(template_id).template)


def study_request(bench: Workbench, target: Target, effort: Effort, comparison: ComparisonSize) -> StudyRequest:
    sample = latest_sample(bench, target)
    policy = bench.policy()
    registered, live = bench.registry.get(target.template_id), bench.live(target)
    if bench.settings.mipro_v2.nearest_demos and not any(
        demo_user_text(live.text, example, template_id=target.template_id) for example in sample.rows(Split.TRAIN)
    ):
        raise ConfigurationError(
            f"mipro_v2.nearest_demos finds nothing in the rows of {target.template_id!r} to choose demos by: the user "
            "text is the same for all, and no row has a user's message. Put a variable into the user text, as in "
            "{message}, or leave the setting out."
        )
    refused = taken_back_hashes(registered, target.model)
    studies = bench.studies.studies(target)
    searched = {study.study_id for study in studies}
    drafts = untried_drafts(registered, target.model, searched=searched, refused=refused)
    winners = earlier_winners(
        studies,
        sample_id=sample.sample_id,
        live_hash=live.text.content_hash,
        refused=refused,
    )
    return StudyRequest(
        target=target,
        sample=sample,
        live=live,
        plan=plan(bench, sample, effort),
        evaluator_spec=evaluator_spec(bench, target.template_id, effort),
        output_formats=bench.output_formats(target),
        objective=policy.objective,
        max_loss=policy.max_loss,
        earlier=(*drafts, *winners)[:MOST_EARLIER],
        redactor=bench.redactor,
        comparison=comparison,
        looks_at_once=bench.settings.mipro_v2.looks_at_once,
    )

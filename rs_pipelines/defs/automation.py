"""What starts by itself: sensors and schedules. All off by default but the one that makes partitions appear."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dagster as dg
import msgspec

from rs_gateway.domain.errors import RouteSwitchError
from rs_pipelines import occasions, steps
from rs_pipelines.defs.jobs import AS_CONFIGURED, INGEST, OPTIMIZE
from rs_pipelines.defs.launches import LastRun, end_orphans, last_run_of_job, last_run_of_target
from rs_pipelines.defs.partitions import TARGETS, missing_targets, targets
from rs_pipelines.defs.requested_runs import RequestedRuns, RequestedRunsResource
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.upkeep import UPKEEP
from rs_pipelines.live_scores import load_live_scores
from rs_pipelines.occasions import Occasion
from rs_pipelines.sample import Target
from rs_pipelines.upkeep import needs_upkeep
from rs_pipelines.workbench import Workbench

_INGEST_PATIENCE_S, _OPTIMIZE_PATIENCE_S = 600.0, 3_600.0
_TICK_S = 20.0
"""A tick that has taken so long leaves the other targets to the next one; Dagster gives up after 60 s."""


def new_targets(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SensorResult | dg.SkipReason:
    """Add a partition for every target that has none."""
    missing = missing_targets(context.instance, stores.open())
    if not missing:
        return dg.SkipReason("every registered target has its partition")
    return dg.SensorResult(dynamic_partitions_requests=[targets.build_add_request(missing)])


def new_traces(
    context: dg.SensorEvaluationContext, stores: StoresResource, requested: RequestedRunsResource
) -> dg.RunRequest | dg.SkipReason:
    """Ingest what the gateway has stored since the last time."""
    return _ingest(context.instance, stores.open(), requested)


def new_examples(
    context: dg.SensorEvaluationContext, stores: StoresResource, requested: RequestedRunsResource
) -> dg.SensorResult:
    """Optimise the targets with enough examples that their last study has not seen."""
    bench = stores.open()
    seen, state = _cursor(context), occasions.label_state(bench)

    def occasion(target: Target) -> Occasion | None:
        if seen.get(target.key) == state:
            return None
        rule = bench.settings.gateway.optimization.of(target.template_id)
        return occasions.enough_new(occasions.new_examples(bench, target), min_new=rule.min_new_examples)

    def done(target: Target) -> None:
        seen[target.key] = state

    return _optimize(context, bench, requested, occasion, done, seen, nothing="no new traces, feedback or imports")


def score_drift(
    context: dg.SensorEvaluationContext, stores: StoresResource, requested: RequestedRunsResource
) -> dg.SensorResult:
    """Optimise the targets whose live version scores worse than it did."""
    bench = stores.open()
    seen, scores = _cursor(context), load_live_scores(bench.live_scores)
    blocks: dict[str, Any] = {}

    def occasion(target: Target) -> Occasion | None:
        rule = bench.settings.gateway.optimization.of(target.template_id)
        found: list[Occasion] = []
        for series in scores:
            name = f"{series.target.key} {series.version} {series.kind}"
            if series.target == target:
                one, blocks[name] = occasions.fallen(
                    series, window=rule.drift_window, min_drop=rule.drift_min_drop, after_block=seen.get(name, -1)
                )
                found.append(one)
        started = [one for one in found if one.start]
        return next(iter(started or found), None)

    def done(target: Target) -> None:
        seen.update({name: block for name, block in blocks.items() if name.startswith(f"{target.key} ")})

    nothing = "nobody has said how good any live answer was"
    return _optimize(context, bench, requested, occasion, done, seen, nothing=nothing)


def ingest_every_hour(
    context: dg.ScheduleEvaluationContext, stores: StoresResource, requested: RequestedRunsResource
) -> dg.RunRequest | dg.SkipReason:
    """Ingest whatever is new, for those who do without the sensor."""
    return _ingest(context.instance, stores.open(), requested)


def upkeep_every_day(context: dg.ScheduleEvaluationContext, stores: StoresResource) -> dg.RunRequest | dg.SkipReason:
    """Pack the lake small, and let go what is kept no longer also where nothing new is ingested."""
    if not needs_upkeep(stores.open()):
        return dg.SkipReason("every part of the lake is packed, and nothing expires")
    last = last_run_of_job(context.instance, UPKEEP, now_s=time.time())
    why_not = None if last is None else last.why_not_now(patience_s=_INGEST_PATIENCE_S)
    return dg.RunRequest() if why_not is None else dg.SkipReason(why_not)


def optimize_when_due(
    context: dg.ScheduleEvaluationContext, stores: StoresResource, requested: RequestedRunsResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Optimise the targets whose interval is over, if there is anything new to learn from."""
    bench = stores.open()
    requests: list[dg.RunRequest] = []
    words: list[str] = []
    for target in _automatic(context.instance, bench):
        last = _last_run(context.instance, target)
        rule = bench.settings.gateway.optimization.of(target.template_id)
        why_not = None if last is None else last.why_not_now(patience_s=_OPTIMIZE_PATIENCE_S)
        if why_not is None and last is not None and last.age_s < rule.interval_seconds:
            why_not = f"due in {rule.interval_seconds - last.age_s:.0f} s"
        if why_not is None:
            try:
                found = occasions.due(
                    occasions.new_examples(bench, target),
                    live_changed=occasions.live_changed(bench, target),
                    since_last_s=None if last is None else last.age_s,
                    interval_s=rule.interval_seconds,
                )
            except RouteSwitchError as error:
                # One template that cannot be read keeps no other one from its turn.
                words.append(f"{target.key}: {error}")
                continue
            why_not = _why_not(context.instance, requested, target, last) if found.start else found.why
            if why_not is None:
                requests.append(_request(target, found))
                continue
        words.append(f"{target.key}: {why_not}")
    return requests or dg.SkipReason("; ".join(words) or "no target may be optimised by itself")


def sensors(*, on: bool) -> list[dg.SensorDefinition]:
    """All sensors. `on` is what holds until somebody switches one in the UI."""
    status = dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED

    def sensor(function: Callable[..., Any], *, every_s: int, job_name: str) -> dg.SensorDefinition:
        return dg.sensor(
            job_name=job_name,
            name=function.__name__,
            minimum_interval_seconds=every_s,
            description=function.__doc__,
            default_status=status,
        )(function)

    return [
        # Costs nothing and starts nothing, so it is on: a registered template is a partition by itself.
        dg.sensor(
            name=new_targets.__name__,
            minimum_interval_seconds=30,
            description=new_targets.__doc__,
            default_status=dg.DefaultSensorStatus.RUNNING,
        )(new_targets),
        sensor(new_traces, every_s=60, job_name=INGEST),
        sensor(new_examples, every_s=60, job_name=OPTIMIZE),
        sensor(score_drift, every_s=300, job_name=OPTIMIZE),
    ]


def schedules(*, on: bool) -> list[dg.ScheduleDefinition]:
    """All schedules; `on` as for the sensors."""
    status = dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED
    return [
        dg.schedule(
            "0 * * * *",
            job_name=INGEST,
            name=ingest_every_hour.__name__,
            description=ingest_every_hour.__doc__,
            default_status=status,
            execution_timezone="UTC",
        )(ingest_every_hour),
        # Intervals are per template and may be any number of seconds, so it looks every minute who is due.
        dg.schedule(
            "* * * * *",
            job_name=OPTIMIZE,
            name=optimize_when_due.__name__,
            description=optimize_when_due.__doc__,
            default_status=status,
            execution_timezone="UTC",
        )(optimize_when_due),
        # After the days that retention counts have ended, and before most people's working day.
        dg.schedule(
            "30 2 * * *",
            job_name=UPKEEP,
            name=upkeep_every_day.__name__,
            description=upkeep_every_day.__doc__,
            default_status=status,
            execution_timezone="UTC",
        )(upkeep_every_day),
    ]


def _ingest(instance: dg.DagsterInstance, bench: Workbench, requested: RequestedRuns) -> dg.RunRequest | dg.SkipReason:
    def latest() -> LastRun | None:
        return last_run_of_job(instance, INGEST, now_s=time.time())

    last = latest()
    if not steps.unread(bench):
        return dg.SkipReason("no new traces or feedback")
    why_not = None if last is None else last.why_not_now(patience_s=_INGEST_PATIENCE_S)
    why_not = why_not or requested.why_not(INGEST, seen=last, latest=latest)
    return dg.RunRequest() if why_not is None else dg.SkipReason(why_not)


def _optimize(
    context: dg.SensorEvaluationContext,
    bench: Workbench,
    requested: RequestedRuns,
    occasion: Callable[[Target], Occasion | None],
    done: Callable[[Target], None],
    cursor: dict[str, Any],
    *,
    nothing: str,
) -> dg.SensorResult:
    """Request a run for every target that has an occasion. What is `done` is looked at again only when it changed."""
    began = time.monotonic()
    requests: list[dg.RunRequest] = []
    words: list[str] = []
    for target in _automatic(context.instance, bench):
        if time.monotonic() - began > _TICK_S:
            words.append("the others at the next tick")
            break
        last = _last_run(context.instance, target)
        why_not = None if last is None else last.why_not_now(patience_s=_OPTIMIZE_PATIENCE_S)
        if why_not is not None:
            words.append(f"{target.key}: {why_not}")
            continue
        try:
            found = occasion(target)
        except RouteSwitchError as error:
            # One template that cannot be read keeps no other one from its turn.
            words.append(f"{target.key}: {error}")
            continue
        if found is None:
            continue
        why_not = _why_not(context.instance, requested, target, last) if found.start else None
        if why_not is not None:
            words.append(f"{target.key}: {why_not}")
            continue
        done(target)
        if found.start:
            requests.append(_request(target, found))
        words.append(f"{target.key}: {found.why}")
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else dg.SkipReason("; ".join(words) or nothing),
        cursor=msgspec.json.encode(cursor, order="sorted").decode(),
    )


def _automatic(instance: dg.DagsterInstance, bench: Workbench) -> list[Target]:
    end_orphans(instance)
    # Whoever asks for a run must not depend on another sensor having been there first.
    instance.add_dynamic_partitions(TARGETS, missing_targets(instance, bench))
    rules = bench.settings.gateway.optimization
    return [t for t in occasions.registered_targets(bench) if not rules.leaves_alone(t.template_id)]


def _last_run(instance: dg.DagsterInstance, target: Target) -> LastRun | None:
    return last_run_of_target(instance, target.key, now_s=time.time())


def _why_not(
    instance: dg.DagsterInstance, requested: RequestedRuns, target: Target, seen: LastRun | None
) -> str | None:
    return requested.why_not(target.key, seen=seen, latest=lambda: _last_run(instance, target))


def _request(target: Target, occasion: Occasion) -> dg.RunRequest:
    return dg.RunRequest(
        partition_key=target.key,
        run_config=dict(AS_CONFIGURED),
        tags={"route-switch/target": target.key, "route-switch/because": occasion.why},
    )


def _cursor(context: dg.SensorEvaluationContext) -> dict[str, Any]:
    """What was looked at before; nothing where somebody wrote a cursor of their own: then all is looked at again."""
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(context.cursor or "{}", type=dict[str, Any])
    return {}

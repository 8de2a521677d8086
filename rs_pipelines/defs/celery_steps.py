"""Steps on Celery's workers, and what `dagster-celery` leaves out: a step whose worker died is sent again.

dagster-celery waits for ever for a step whose worker was killed: nobody tells it. So each step that was begun is
watched: its worker is asked whether it still knows of it. If it does not, for long enough, the step is sent to whoever
is free. What the step had paid for is in the answer cache, and a study goes on where it was.
"""

import time
from collections.abc import Callable, Generator
from typing import Any

import dagster as dg
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.result import AsyncResult
from celery.states import FAILURE, STARTED
from dagster import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent, EngineEventData  # not exported; dagster-celery's loop works with them
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.execution.retries import RetryMode
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value
from dagster_celery.core_execution_loop import core_celery_execution_loop
from dagster_celery.executor import CeleryExecutor
from dagster_celery.tasks import create_task

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.pipeline_sections import PipelineSettings
from rs_pipelines.defs.celery_settings import celery_arguments

_MAX_SENT = 4
"""How often a step is sent at most: one that kills every worker, by its memory perhaps, ends there."""
_ANSWER_S = 1.0
"""How long a worker may take to say what it knows."""


class StepLostError(RouteSwitchError):
    """Every worker that was given the step died of it, or was killed."""

    code = "step_lost"


def celery_executor_for(settings: PipelineSettings) -> dg.ExecutorDefinition:
    """The executor on the broker of the configuration. Raises ConfigurationError where there is none."""
    arguments = celery_arguments(settings)

    @dg.executor(name="celery", requirements=multiple_process_executor_requirements())
    def celery(_: dg.InitExecutorContext) -> dg.Executor:
        return _WatchingExecutor(
            retries=RetryMode.ENABLED,
            broker=arguments["broker"],
            backend=arguments["backend"],
            include=arguments["include"],
            config_source=arguments["config_source"].__dict__,
            lost_after_s=settings.lost_after_seconds,
        )

    return celery


class _WatchingExecutor(CeleryExecutor):
    def __init__(self, *, lost_after_s: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._lost_after_s = lost_after_s

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Generator[DagsterEvent]:
        def send(
            app: Celery,
            context: PlanOrchestrationContext,
            step: ExecutionStep,
            queue: str,
            priority: int,
            known_state: KnownExecutionState,
        ) -> WatchedStep:
            job = context.reconstructable_job
            arguments = ExecuteStepArgs(
                job_origin=job.get_python_origin(),
                run_id=context.dagster_run.run_id,
                step_keys_to_execute=[step.key],
                instance_ref=context.instance.get_ref(),
                retry_mode=self.retries.for_inner_plan(),
                known_state=known_state,
                print_serialized_events=True,
            )
            execute: Any = create_task(app)
            task = execute.si(execute_step_args_packed=pack_value(arguments), executable_dict=job.to_dict())

            def report(words: str) -> None:
                context.instance.report_engine_event(
                    words, context.dagster_run, EngineEventData(), CeleryExecutor, step_key=step.key
                )

            return WatchedStep(
                lambda: task.apply_async(queue=queue, priority=priority, routing_key=f"{queue}.execute_plan"),
                lost_after_s=self._lost_after_s,
                report=report,
            )

        return core_celery_execution_loop(plan_context, execution_plan, step_execution_fn=send)


class WatchedStep:
    """A step that was sent, as dagster-celery's loop asks after it; sent again when its worker has gone.

    Args:
        send: hands the step to whoever is free.
        report: told why a step is sent again.
    """

    def __init__(
        self,
        send: Callable[[], AsyncResult],
        *,
        lost_after_s: float,
        report: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._lost_after_s, self._report, self._now = send, lost_after_s, report, now
        self._result, self._n_sent = send(), 1
        self._given_up: StepLostError | None = None
        self._last_known = self._last_asked = now()

    def ready(self) -> bool:
        """Whether there is a result to get."""
        if self._result.state == FAILURE and isinstance(self._result.result, WorkerLostError):
            self._lost(f"The process that ran the step was killed ({self._result.result}).")
        elif not self._result.ready() and self._is_lost() and not self._result.ready():
            self._lost(f"Worker {self._worker} has not known of the step for {self._lost_after_s:g} s: it was killed.")
        return self._given_up is not None or self._result.ready()

    def get(self) -> Any:
        """The step's events; raises what it raised, and StepLostError when no worker survived it."""
        if self._given_up is not None:
            raise self._given_up
        return self._result.get()

    def revoke(self) -> None:
        """Stop it, although it was begun: what it has paid for is kept."""
        self._result.revoke(terminate=True)

    def _is_lost(self) -> bool:
        now = self._now()
        if self._result.state != STARTED:
            self._last_known = now
            return False
        if now - self._last_asked < min(self._lost_after_s / 4, 5.0):
            return False
        if self._is_known():
            self._last_known = self._now()
        self._last_asked = self._now()
        return self._last_asked - self._last_known >= self._lost_after_s

    def _is_known(self) -> bool:
        app = self._result.app
        assert app is not None
        answers = app.control.inspect(destination=[self._worker], timeout=_ANSWER_S).query_task(self._result.id) or {}
        return any(self._result.id in known for known in answers.values())

    @property
    def _worker(self) -> str:
        info = self._result.info
        return str(info.get("hostname")) if isinstance(info, dict) else "unknown"

    def _lost(self, why: str) -> None:
        self._result.revoke(terminate=True)
        if self._n_sent >= _MAX_SENT:
            self._given_up = StepLostError(f"{why} It was sent {self._n_sent} times, and is not sent again.")
            return
        self._report(f"{why} The step is sent again; it goes on where it was.")
        self._result, self._n_sent = self._send(), self._n_sent + 1
        self._last_known = self._last_asked = self._now()

"""Distillation: a stronger model answers what was asked in production, and its answers become labels."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import ConfigurationError, ProviderError, RegistryError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.output_formats import read_answer
from rs_gateway.domain.ports import TraceStore
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.rendering import render_messages
from rs_gateway.domain.wording import did_you_mean
from rs_gateway.wiring import combinations_of, open_trace_store
from rs_pipelines import steps
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.examples import Unlabelled, unlabelled_inputs
from rs_pipelines.mipro.request import StudyModels
from rs_pipelines.sample import TEACHER, Target
from rs_pipelines.spending import Allowance
from rs_pipelines.step_events import Watcher, ignore
from rs_pipelines.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher did.

    Attributes:
        source: how its labels are marked, `teacher:<model>`.
        inputs: asked in production, without a label, and asked again here; labelled: those that got one.
        unanswered: those that the teacher did not answer, or not to the end.
        calls: made now; answers that were in the cache cost none.
        budget_spent: whether the limit on calls ended it.
        remaining: inputs that have no label now, those that were not answered among them.
    """

    source: str
    inputs: int
    labelled: int
    unanswered: int
    calls: int
    budget_spent: bool
    remaining: int


def teach(
    bench: Workbench,
    template_id: str,
    *,
    teacher: str,
    limit: int,
    max_calls: int | None = None,
    watch: Watcher = ignore,
    on_label: Callable[[int, int], None] = lambda done, total: None,
) -> Taught:
    """Have a combination answer what is not labelled yet, the newest input first, with its own live prompt.

    The labels are feedback on the traces that asked, so the next ingest brings them to the examples, below those of
    people. Run again, it goes on with what is left.

    Args:
        teacher: id of one of the template's combinations, enabled or not.
        limit: inputs at most.
        on_label: called with (inputs so far, inputs).

    Raises:
        ConfigurationError: the template has no such combination.
        RegistryError: no version is live for its model.
    """
    template = bench.registry.get(template_id)
    combination = _combination(bench, template_id, teacher)
    version = template.live(combination.model)
    if version is None:
        raise RegistryError(f"No version of {template_id!r} is live for {combination.model!r}.")
    steps.ingest(bench, watch=watch)
    found = unlabelled_inputs(template.template, lake=bench.lake, datasets=bench.datasets, limit=limit)
    source = f"{TEACHER}{combination.model}"
    store = open_trace_store(bench.settings)

    async def run(models: StudyModels) -> Taught:
        account = f"teach:{template_id}:{combination.combination_id}"
        spent = models.task.on(CallBudget(models.task.cache, account)).cache.spending(account).calls
        allowance = Allowance(None if max_calls is None else spent + max_calls)
        model = models.task.on(CallBudget(models.task.cache, account, allowance))
        lesson = _Lesson(store, template_id, version.text, model, source, on_label)
        return await lesson.give(found.newest, total=found.total)

    try:
        target = Target(template_id, combination.model)
        return steps.with_models(bench, target, run, watch=watch, combination=combination)
    finally:
        store.close()


def _combination(bench: Workbench, template_id: str, teacher: str) -> Combination:
    own = {c.combination_id: c for c in combinations_of(bench.settings) if c.template_id == template_id}
    if teacher not in own:
        raise ConfigurationError(
            f"{teacher!r} is no combination of template {template_id!r} in gateway.combinations; there are: "
            f"{', '.join(sorted(own)) or 'none'}. A teacher that serves nothing can be one with `enabled: false`."
            f"{did_you_mean(teacher, own)}"
        )
    return own[teacher]


@dataclass(frozen=True, slots=True)
class _Lesson:
    store: TraceStore
    template_id: str
    text: PromptText
    model: CachedModel
    source: str
    on_label: Callable[[int, int], None]

    async def give(self, inputs: Sequence[Unlabelled], *, total: int) -> Taught:
        """Ask about `inputs`, of `total` that have no label."""
        labelled = done = 0
        spent = False

        async def one(asked: Unlabelled) -> None:
            nonlocal labelled, done, spent
            try:
                got_label = await self._label(asked)
            except BudgetExhaustedError:
                spent = True  # those under way are paid for: they go on
                return
            labelled += got_label
            done += 1
            self.on_label(done, len(inputs))

        before = self.model.calls_made
        async with anyio.create_task_group() as group:
            for asked in inputs:
                group.start_soon(one, asked)
        return Taught(
            source=self.source,
            inputs=len(inputs),
            labelled=labelled,
            unanswered=done - labelled,
            calls=self.model.calls_made - before,
            budget_spent=spent,
            remaining=total - labelled,
        )

    async def _label(self, asked: Unlabelled) -> bool:
        messages = render_messages(self.text, asked.variables, asked.messages, template_id=self.template_id)
        try:
            answer = await self.model.answer(messages)
        except ProviderError:
            return False
        reading = read_answer(self.text.output, answer.text, finish_reason=answer.finish_reason)
        if answer.finish_reason != "stop" or reading.parsed is False or not reading.text.strip():
            return False
        # The same answer of the same teacher is the same feedback: an interrupted lesson gives no label twice.
        feedback_id = hashlib.sha256(f"{asked.trace_id}:{self.source}:{reading.text}".encode()).hexdigest()[:26]
        await self.store.add_feedback(
            Feedback(feedback_id, asked.trace_id, FeedbackKind.LABEL, reading.text, self.source, time.time())
        )
        return True

"""A step on a worker that may die: when it is sent again, and when no more."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError

from rs_pipelines.defs.celery_steps import StepLostError, WatchedStep


@dataclass
class Sent:
    """A task as Celery shows it to whoever sent it; its own app, control and inspect, which know one worker."""

    id: str
    state: str = "PENDING"
    result: Any = None
    known: bool = True
    revoked: bool = False

    @property
    def info(self) -> Any:
        return {"hostname": "one@here"} if self.state == "STARTED" else self.result

    @property
    def app(self) -> "Sent":
        return self

    @property
    def control(self) -> "Sent":
        return self

    def inspect(self, *, destination: list[str], timeout: float) -> "Sent":
        assert destination == ["one@here"]
        return self

    def query_task(self, task_id: str) -> dict[str, dict[str, Any]] | None:
        return {"one@here": {task_id: ["active", {}]}} if self.known else None

    def ready(self) -> bool:
        return self.state in ("SUCCESS", "FAILURE")

    def get(self) -> Any:
        if self.state == "FAILURE":
            raise self.result
        return self.result

    def revoke(self, *, terminate: bool) -> None:
        self.revoked = terminate


@dataclass
class Stage:
    """A watched step with a clock of the test's own."""

    now: float = 0.0
    sent: list[Sent] = field(default_factory=list[Sent])
    reports: list[str] = field(default_factory=list[str])

    def step(self) -> WatchedStep:
        def send() -> Any:
            self.sent.append(Sent(f"task{len(self.sent)}"))
            return self.sent[-1]

        return WatchedStep(send, lost_after_s=20.0, report=self.reports.append, now=lambda: self.now)

    def ask_until(self, step: WatchedStep, now: float) -> bool:
        """Whether the step is ready at `now`, asked every second until then."""
        while self.now < now and not step.ready():
            self.now += 1
        return step.ready()


def test_a_step_waits_in_the_queue_as_long_as_it_must() -> None:
    stage = Stage()
    step = stage.step()
    assert not stage.ask_until(step, 10_000)
    assert len(stage.sent) == 1


def test_a_step_that_its_worker_knows_is_left_alone_however_long_it_takes() -> None:
    stage = Stage()
    step = stage.step()
    stage.sent[0].state = "STARTED"
    assert not stage.ask_until(step, 10_000)
    stage.sent[0].state, stage.sent[0].result = "SUCCESS", ["event"]
    assert step.ready()
    assert step.get() == ["event"]
    assert len(stage.sent) == 1


def test_a_worker_that_answers_late_once_loses_no_step() -> None:
    stage = Stage()
    step = stage.step()
    sent = stage.sent[0]
    sent.state, sent.known = "STARTED", False
    stage.ask_until(step, 15)
    sent.known = True
    stage.ask_until(step, 25)
    sent.known = False
    stage.ask_until(step, 40)
    assert len(stage.sent) == 1


def test_a_step_whose_worker_does_not_know_of_it_any_more_is_sent_again_and_its_result_counts() -> None:
    stage = Stage()
    step = stage.step()
    stage.sent[0].state, stage.sent[0].known = "STARTED", False
    stage.ask_until(step, 30)
    assert [sent.revoked for sent in stage.sent] == [True, False]
    assert "one@here has not known of the step for 20 s" in stage.reports[0]
    stage.sent[1].state, stage.sent[1].result = "SUCCESS", ["again"]
    assert step.ready()
    assert step.get() == ["again"]


def test_a_step_that_kills_every_process_is_given_up_with_the_reason() -> None:
    stage = Stage()
    step = stage.step()
    for number in range(4):
        assert not stage.ask_until(step, stage.now + 1)
        stage.sent[number].state, stage.sent[number].result = "FAILURE", WorkerLostError("signal 9 (SIGKILL)")
    assert step.ready()
    assert len(stage.sent) == 4
    with pytest.raises(StepLostError, match="sent 4 times"):
        step.get()


def test_what_a_step_raises_is_its_result_and_nothing_is_sent_again() -> None:
    stage = Stage()
    step = stage.step()
    stage.sent[0].state, stage.sent[0].result = "FAILURE", ValueError("no such target")
    assert step.ready()
    with pytest.raises(ValueError, match="no such target"):
        step.get()
    assert len(stage.sent) == 1


def test_a_cancelled_step_is_stopped_although_it_was_begun() -> None:
    stage = Stage()
    step = stage.step()
    stage.sent[0].state = "STARTED"
    step.revoke()
    assert stage.sent[0].revoked

"""`route-switch demo` as a real process, with all of its children, on a scripted model in the local one's place."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_results import check_result
from tests.e2e.processes import process_groups, running_in, started
from tests.e2e.scripted_demo import N_MESSAGES
from tests.running import eventually

pytestmark = pytest.mark.e2e
DEMO = (sys.executable, str(Path(__file__).with_name("scripted_demo.py")), "demo", "--once", "--json")


def interrupt_demo(folder: Path, *, when: str) -> str:
    """Press Ctrl-C as soon as the demo has said `when`; what it said in all."""
    log = folder / "process.log"
    with started(cwd=folder, program=DEMO, env={"DELAY_S": "0.1"}) as process:
        eventually(lambda: process.poll() is not None or when in log.read_text(), timeout_s=240)
        assert process.poll() is None, log.read_text()
        groups = process_groups(process)
        assert len(groups) >= 3, "the demo, its model and its gateway"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(240) == 130
        assert running_in(groups) == []
    return log.read_text()


def run_demo(folder: Path) -> dict[str, Any]:
    """The figures of a whole demo, its last line."""
    log = folder / "process.log"
    log.unlink(missing_ok=True)
    with started(cwd=folder, program=DEMO, env={"DELAY_S": "0"}) as process:
        eventually(lambda: process.poll() is not None or "2. Sending" in log.read_text(), timeout_s=240)
        assert process.poll() is None, log.read_text()
        groups = process_groups(process)
        process.wait(240)
    output = log.read_text()
    assert process.returncode == 0, output
    assert running_in(groups) == []
    figures = json.loads(output.splitlines()[-1])
    tokens = f"{figures['input_tokens']} input and {figures['output_tokens']} output tokens"
    assert f"{figures['task_model_calls']} model calls, {tokens}, " in output
    return figures


def check(figures: dict[str, Any]) -> None:
    check_result("demo", figures)
    assert figures["published"] is True
    assert figures["served_version"] == figures["published_version"] == 2
    assert figures["optimized_score"] > figures["baseline_score"]
    low, high = figures["interval"]
    assert 0 < low <= figures["optimized_score"] - figures["baseline_score"] <= high
    assert figures["n_test"] >= 30
    assert figures["task_model_calls"] > N_MESSAGES + figures["n_test"]
    assert figures["input_tokens"] > figures["output_tokens"] > 0


def test_stopped_while_it_sends_messages_it_leaves_nothing_running_and_the_next_one_works(tmp_path: Path) -> None:
    output = interrupt_demo(tmp_path, when="2. Sending")
    assert "3. Sending" not in output
    assert "nothing is left running" in output
    assert "Traceback" not in output
    check(run_demo(tmp_path))


def test_stopped_while_it_optimises_it_leaves_nothing_running_and_the_next_one_works(tmp_path: Path) -> None:
    output = interrupt_demo(tmp_path, when="full evaluation")
    assert "published as" not in output
    assert "nothing is left running" in output
    assert "Traceback" not in output
    check(run_demo(tmp_path))

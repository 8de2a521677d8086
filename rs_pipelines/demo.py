"""The demo: real traffic on a real local model, through every part of the product, to a better prompt in service."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import yaml
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.evaluation import Answer
from rs_gateway.local_model import fetch
from rs_pipelines.defs.runs import add_partitions, optimize_in_process
from rs_pipelines.demo_directory import demo_directory
from rs_pipelines.effort import Effort
from rs_pipelines.inputs import input_key
from rs_pipelines.paired_statistics import paired_interval
from rs_pipelines.processes import Processes, free_port, route_switch
from rs_pipelines.progress import RunProgress, print_comparison, print_study
from rs_pipelines.results import comparison_of, published_version, spending, study_of
from rs_pipelines.sample import Split, Target
from rs_pipelines.stack import sample_folder, start_dagster, start_gateway, wait_for_dagster
from rs_pipelines.workbench import Workbench

MODEL = "smollm2-135m-instruct"
_SLOTS = 4
"""On two cores more slots are slower: each computes the demos' prefix for itself."""
_SHOWN = 3


ModelCommand: TypeAlias = Callable[[int], Sequence[str]]
"""Port -> the command line that serves a model called `MODEL` there, over the OpenAI API and with `/health`."""
GetModel: TypeAlias = Callable[[Path, Callable[[str], None]], ModelCommand]
"""(folder for weights, where to say a line) -> how to start the model, once all that it needs is there."""


def local_model(folder: Path, say: Callable[[str], None]) -> ModelCommand:
    """SmolLM2 behind llama.cpp; its weights are fetched unless they lie in `folder`."""
    weights = fetch(folder, on_progress=say)

    def command(port: int) -> Sequence[str]:
        serve = route_switch("model", "serve", str(weights), "--port", str(port), "--alias", MODEL)
        return [*serve, "--slots", str(_SLOTS), "--context", "1024", "--exit-with-parent"]

    return command


class DemoFailedError(RouteSwitchError):
    """The demo could not be carried through."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled message of the sample data."""

    variables: dict[str, str]
    expected: str


@dataclass(frozen=True, slots=True)
class Served:
    """What the gateway answered to one row."""

    row: Row
    output: str
    trace_id: str
    version: int
    input_tokens: int
    output_tokens: int


def run_demo(
    directory: Path,
    console: Console,
    *,
    keep_running: bool,
    get_model: GetModel = local_model,
    n_messages: int = 300,
) -> dict[str, Any]:
    """Run the demo in `directory`, which is made anew, and return its figures.

    Args:
        n_messages: how many of the sample messages are sent; they must leave enough rows on each side of the split.

    Raises:
        RouteSwitchError: a part did not start, a request failed, or `directory` holds something that is not the demo's.
    """
    began = time.monotonic()
    with demo_directory(directory):
        model = get_model(directory.parent / "models", lambda line: console.print(f"  {line}", markup=False))
        with Processes(directory / "logs") as processes:
            demo = _Demo(directory, console, processes, model, n_messages, with_ui=keep_running)
            figures = demo.run()
            figures["seconds"] = round(time.monotonic() - began, 1)
            console.print(
                f"{figures['task_model_calls']} model calls, {figures['input_tokens']} input and "
                f"{figures['output_tokens']} output tokens, {figures['seconds']:.0f} s in all.",
                highlight=False,
                soft_wrap=True,
            )
            if keep_running:
                demo.stay()
    return figures


class _Demo:
    def __init__(
        self,
        directory: Path,
        console: Console,
        processes: Processes,
        model: ModelCommand,
        n_messages: int,
        *,
        with_ui: bool,
    ) -> None:
        self._directory, self._console, self._processes = directory, console, processes
        self._model, self._with_ui = model, with_ui
        self._template: dict[str, Any] = yaml.safe_load((sample_folder() / "template.yaml").read_text())
        self._rows = _read_rows(sample_folder() / "tickets.jsonl")[:n_messages]
        self._gateway_url = self._dagster_url = ""

    def run(self) -> dict[str, Any]:
        self._step(1, "Starting the local model and the gateway")
        bench = self._start()
        target = bench.target(self._template["id"])
        template = bench.registry.get(target.template_id).template
        evaluator = bench.evaluator(template)

        self._step(2, f"Sending {len(self._rows)} customer messages through the gateway")
        before = self._send(self._rows)
        for one in before[:_SHOWN]:
            self._show(one)

        self._step(3, "Sending the right answers as feedback")
        self._label(before)

        self._step(4, "Running the pipeline in Dagster: ingest, sample, MIPROv2 search, proof, publication")
        with RunProgress(self._console) as progress:
            run = optimize_in_process(bench, target, Effort(), watch=progress)
        study, comparison = study_of(bench, target, run.study_id), comparison_of(bench, target, run.study_id)
        published = published_version(bench, comparison)
        print_study(self._console, study)
        print_comparison(self._console, comparison, published=published)

        held_out = self._held_out(bench, target, before)
        if published is not None:
            self._step(5, "Waiting for the gateway's next refresh")
            self._wait_for(published, target)
        self._step(6, f"Sending the {len(held_out)} held-out messages again")
        after = self._send([one.row for one in held_out])
        for one in after[:_SHOWN]:
            self._show(one)

        scores = [
            [s.value for s in evaluator.score([Answer(one.output, one.row.expected) for one in answers])]
            for answers in (held_out, after)
        ]
        low, high = paired_interval(scores[1], scores[0], seed=0)
        baseline, optimized = (sum(values) / len(values) for values in scores)
        sent, paid = [*before, *after], spending(bench, study.study_id)
        figures = {
            "baseline_score": round(baseline, 4),
            "optimized_score": round(optimized, 4),
            "interval": [round(low, 4), round(high, 4)],
            "n_test": len(held_out),
            "published": published is not None,
            "published_version": published,
            "served_version": served_version(after),
            "task_model_calls": len(sent) + paid.calls,
            "input_tokens": sum(one.input_tokens for one in sent) + paid.input_tokens,
            "output_tokens": sum(one.output_tokens for one in sent) + paid.output_tokens,
            "study_id": study.study_id,
            "run_id": run.run_id,
        }
        self._print_result(figures, held_out, after)
        return figures

    def stay(self) -> None:
        """Leave gateway and Dagster UI up until Ctrl-C."""
        wait_for_dagster(self._processes, self._dagster_url)
        config = self._directory / "route-switch.yaml"
        self._console.print(
            f"\nStill running, until Ctrl-C:\n"
            f"  gateway     {self._gateway_url}/status\n"
            f"  Dagster UI  {self._dagster_url}\n"
            f"  try         route-switch template show {self._template['id']} --config {config}",
            highlight=False,
            soft_wrap=True,
        )
        try:
            self._processes.check(self._processes.wait())
        except KeyboardInterrupt:
            self._console.print("Stopping.")

    def _start(self) -> Workbench:
        model_port, gateway_port, dagster_port = free_port(8081), free_port(8080), free_port(3000)
        config = self._directory / "route-switch.yaml"
        _write_configuration(config, self._template["id"], model_port=model_port, gateway_port=gateway_port)
        self._processes.start("model", self._model(model_port))
        registration = route_switch("template", "register", str(sample_folder() / "template.yaml"))
        self._processes.run("register", [*registration, "--config", str(config)])
        bench = Workbench.at(config)
        self._gateway_url = start_gateway(self._processes, bench)
        self._processes.wait_until_answers("model", f"http://127.0.0.1:{model_port}/health", timeout_s=60)
        if self._with_ui:
            add_partitions(bench)
            self._dagster_url = start_dagster(self._processes, bench, port=dagster_port, wait=False)
        self._say(f"gateway {self._gateway_url}, model {MODEL} on port {model_port}")
        return bench

    def _send(self, rows: Sequence[Row]) -> list[Served]:
        """All rows, eight at a time, with the official client; in their order."""
        began = time.monotonic()
        done = 0
        counting = threading.Lock()
        with (
            OpenAI(base_url=f"{self._gateway_url}/v1", api_key="none-needed", timeout=120) as client,
            RunProgress(self._console) as progress,
        ):

            def send(row: Row) -> Served:
                nonlocal done
                answer = client.chat.completions.with_raw_response.create(
                    model=self._template["id"], messages=[], extra_body={"variables": row.variables}
                )
                completion = answer.parse()
                usage = completion.usage
                with counting:
                    done += 1
                    progress.bar("requests", done, len(rows))
                return Served(
                    row,
                    completion.choices[0].message.content or "",
                    answer.headers["x-route-switch-trace-id"],
                    int(answer.headers["x-route-switch-version"]),
                    usage.prompt_tokens if usage else 0,
                    usage.completion_tokens if usage else 0,
                )

            served = _in_parallel(send, rows)
        seconds = time.monotonic() - began
        self._say(f"{len(rows)} requests in {seconds:.0f} s ({len(rows) / seconds:.1f} a second)")
        return served

    def _label(self, answers: Sequence[Served]) -> None:
        with httpx.Client(base_url=self._gateway_url, timeout=30) as client:

            def label(one: Served) -> None:
                body = {"trace_id": one.trace_id, "kind": "label", "value": one.row.expected, "source": "human"}
                client.post("/v1/feedback", json=body).raise_for_status()

            _in_parallel(label, answers)
        self._say(f"{len(answers)} labels stored")

    def _held_out(self, bench: Workbench, target: Target, before: Sequence[Served]) -> list[Served]:
        sample = bench.samples.latest(target)
        assert sample is not None
        test = {input_key(example.variables, example.messages) for example in sample.rows(Split.TEST)}
        return [one for one in before if input_key(one.row.variables, ()) in test]

    def _wait_for(self, version: int, target: Target) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            status = httpx.get(f"{self._gateway_url}/status", timeout=5).json()
            served = status["templates"][target.template_id]["combinations"][0]["version"]
            if served == version:
                self._say(f"version {version} is served; the gateway was not restarted")
                return
            time.sleep(0.2)
        raise DemoFailedError(f"The gateway did not serve version {version} within 30 s.")

    def _print_result(self, figures: dict[str, Any], held_out: Sequence[Served], after: Sequence[Served]) -> None:
        low, high = figures["interval"]
        table = Table("", "before", "after", title="Through the gateway, on held-out messages", title_justify="left")
        table.add_row("prompt version", *(str(served_version(answers)) for answers in (held_out, after)))
        table.add_row("mean score", f"{figures['baseline_score']:.3f}", f"{figures['optimized_score']:.3f}")
        table.add_row("messages", str(len(held_out)), str(len(after)))
        tokens = [sum(one.input_tokens for one in answers) / len(answers) for answers in (held_out, after)]
        table.add_row("input tokens a call", f"{tokens[0]:.0f}", f"{tokens[1]:.0f}")
        self._console.print(table)
        gain = figures["optimized_score"] - figures["baseline_score"]
        self._console.print(f"Gain {gain:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}].", highlight=False)

    def _show(self, one: Served) -> None:
        message = " ".join(one.row.variables.values())
        self._say(f"> {message}")
        self._say(f"  v{one.version} answered {json.dumps(one.output, ensure_ascii=False)}; right: {one.row.expected}")

    def _say(self, line: str) -> None:
        self._console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)

    def _step(self, number: int, title: str) -> None:
        self._console.print(f"\n{number}. {title}", style="bold", highlight=False)


def served_version(answers: Sequence[Served]) -> int:
    """The prompt version that all answers say they were made with. Raises DemoFailedError: there were several."""
    versions = sorted({one.version for one in answers})
    if len(versions) != 1:
        raise DemoFailedError(f"One version should have answered, but these did: {versions}.")
    return versions[0]


def _in_parallel(do: Any, items: Sequence[Any]) -> list[Any]:
    """`do` on every item, as many at a time as the model has slots; the first failure, or Ctrl-C, stops it."""
    pool = ThreadPoolExecutor(_SLOTS)
    try:
        return list(pool.map(do, items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _write_configuration(path: Path, template_id: str, *, model_port: int, gateway_port: int) -> None:
    configuration = {
        "model_providers": {
            "local": {
                "kind": "openai_compatible",
                "base_url": f"http://127.0.0.1:{model_port}/v1",
                "models": [MODEL],
                "options": {"temperature": 0, "max_tokens": 24},
            }
        },
        "gateway": {
            "addr": f"127.0.0.1:{gateway_port}",
            "combinations": [
                {"id": f"{template_id}-local", "template_id": template_id, "model": MODEL, "provider": "local"}
            ],
        },
        "mipro_v2": {
            "mode": "light",
            "num_trials": 8,
            "minibatch_size": 25,
            "minibatch_full_eval_steps": 4,
            "concurrency": _SLOTS,
            # Eight trials are few; those of the figures in the README were spent on demos and instructions.
            "output_formats": ["bare"],
        },
    }
    path.write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")


def _read_rows(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [Row(row["variables"], row["expected"]) for row in rows]

"""Commands that the pipelines add to `route-switch`; dagster and its kin are imported inside the commands."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from rs_gateway.cli_options import ConfigOption, JsonOption, TemplateArgument
from rs_gateway.completions import model_names
from rs_gateway.data_console import words
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.pipeline_sections import MOST_SEED
from rs_pipelines.cli_backup import backup, restore
from rs_pipelines.cli_best_model import find_best_model
from rs_pipelines.cli_dataset import dataset_app
from rs_pipelines.cli_forget import forget
from rs_pipelines.cli_ingest import ingest
from rs_pipelines.cli_package import package_app
from rs_pipelines.cli_study import study_app

if TYPE_CHECKING:
    from rs_pipelines.effort import Effort
    from rs_pipelines.gate import ComparedRow
    from rs_pipelines.sample import Example, Target
    from rs_pipelines.workbench import Workbench


def register(app: typer.Typer) -> None:
    """Called through the `route_switch.commands` entry point."""
    app.add_typer(dataset_app, name="dataset")
    app.add_typer(study_app, name="study")
    app.add_typer(package_app, name="package")
    app.command("ingest")(ingest)
    app.command("optimize")(optimize)
    app.command("find-best-model")(find_best_model)
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("forget")(forget)
    app.command("up")(up)
    app.command("demo")(demo)


def optimize(
    template_id: TemplateArgument,
    config: ConfigOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model to optimise for, where the template runs on several.",
            autocompletion=model_names,
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="First take the instruction in this text file in: as a draft to try, or as a new template.",
        ),
    ] = None,
    variables: Annotated[
        str | None, typer.Option(help="With --prompt-file: its variables, as a,b.  [default: those that the text uses]")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Size of the search: so many candidates, each tried on a minibatch, or a race over no more rows than "
            "that takes.  [default: mipro_v2.num_trials]",
        ),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="How much is tried: light, medium or heavy.  [default: mipro_v2.mode]")
    ] = None,
    max_calls: Annotated[
        int | None,
        typer.Option(
            min=1, help="Hard limit on model calls, those of the comparison included.  [default: mipro_v2.max_calls]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_SEED, help="Decides every random choice of the search.  [default: mipro_v2.seed]"),
    ] = None,
    show_rows: Annotated[
        int, typer.Option(min=0, help="How many rows won, and how many lost, to show with input and both outputs.")
    ] = 0,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only say what can be proven and what it would cost.")
    ] = False,
    join: Annotated[
        bool, typer.Option("--join", help="Only help the search that another process leads for this template.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Search for a better prompt, prove it on held-out rows, publish it if the proof holds. Exit 0 in either case.

    The same assets as in the Dagster UI, in this process; the run shows there too. Interrupted, it goes on where it was
    when started again. Before the search it says what the rows can prove and what the search may cost; where no proof
    is possible it refuses. `--preflight` stops there, after at most 15 questions that the search need not ask again.
    `--join` helps a search that another process leads (docs/scaling.md).

    Example: `route-switch optimize support --trials 12`
    """
    need_pipelines()
    from rs_pipelines.defs.runs import optimize_in_process
    from rs_pipelines.effort import Effort
    from rs_pipelines.progress import RunProgress, print_comparison, print_study
    from rs_pipelines.results import comparison_of, published_version, reasons, spending, study_of
    from rs_pipelines.workbench import Workbench

    if mode not in (None, "light", "medium", "heavy"):
        raise typer.BadParameter(f"{mode!r} is not light, medium or heavy.", param_hint="--mode")
    chosen: Literal["light", "medium", "heavy"] | None = mode  # pyright: ignore[reportAssignmentType]  # just checked
    bench = Workbench.at(config)
    target = bench.target(template_id, model)
    if prompt_file is not None:
        _take_prompt(bench, target, prompt_file, variables)
    elif variables is not None:
        raise typer.BadParameter("--variables goes with --prompt-file.")
    effort = Effort(chosen, trials, max_calls, seed)
    if preflight:
        _preflight_only(bench, target, effort, as_json=as_json)
        return
    if join:
        _join(bench, target)
        return
    began = time.monotonic()
    words.print(f"Optimising {target.template_id!r} for {target.model!r}", highlight=False)
    try:
        with RunProgress(words) as progress:
            run = optimize_in_process(bench, target, effort, watch=progress)
    except KeyboardInterrupt:
        words.print("Stopped. What was evaluated is kept: the same command goes on where it was.")
        raise typer.Exit(130) from None
    study, comparison = study_of(bench, target, run.study_id), comparison_of(bench, target, run.study_id)
    published, why = published_version(bench, comparison), reasons(bench, comparison)
    paid = spending(bench, study.study_id)
    examples = {e.example_id: e for e in bench.samples.load(target, comparison.sample_id).examples}
    if as_json:
        verdict = comparison.verdict
        _print_json(
            {
                "template_id": target.template_id,
                "model": target.model,
                "baseline_score": verdict.mean_live,
                "optimized_score": verdict.mean_candidate,
                "interval": [verdict.interval_low, verdict.interval_high],
                "n_test": verdict.n,
                "test_rows_by_provenance": dict(comparison.by_provenance),
                "won": verdict.won,
                "lost": verdict.lost,
                "objective": comparison.policy.objective,
                "by_label": [asdict(change) for change in comparison.by_label],
                "input_tokens": [verdict.tokens_live, verdict.tokens_candidate],
                "output_tokens": [verdict.output_tokens_live, verdict.output_tokens_candidate],
                "usd_per_1000_calls": [
                    None if usd is None else 1_000 * usd for usd in (verdict.cost_usd_live, verdict.cost_usd_candidate)
                ],
                "rows_won": [_with_input(row, examples) for row in comparison.rows_with("won")[:show_rows]],
                "rows_lost": [_with_input(row, examples) for row in comparison.rows_with("lost")[:show_rows]],
                "published": published is not None,
                "published_version": published,
                "reasons": list(why),
                "model_calls": paid.calls,
                "paid_input_tokens": paid.input_tokens,
                "paid_output_tokens": paid.output_tokens,
                "paid_usd": paid.usd if bench.cost_of_call(target)(1, 1) is not None else None,
                "seconds": round(time.monotonic() - began, 1),
                "study_id": study.study_id,
                "comparison_id": comparison.comparison_id,
                "run_id": run.run_id,
            }
        )
    else:
        console = Console(highlight=False, markup=False)
        print_study(console, study)
        print_comparison(console, comparison, published=published, reasons=why, show_rows=show_rows, examples=examples)
        usd = f", {paid.usd:.4g} USD" if bench.cost_of_call(target)(1, 1) is not None else ""
        console.print(
            f"This study has taken {paid.calls} model calls, {paid.input_tokens:,} input and {paid.output_tokens:,} "
            f"output tokens{usd}, its earlier runs included. This run took {time.monotonic() - began:.0f} s."
        )


def _take_prompt(bench: "Workbench", target: "Target", file: Path, variables: str | None) -> None:
    from rs_pipelines.prompt_draft import take_prompt

    named = None if variables is None else [name.strip() for name in variables.split(",") if name.strip()]
    draft = take_prompt(bench, target, file, variables=named)
    if draft.registered:
        words.print(f"Registered {target.template_id!r} from {file}, version 1 live.")
    elif draft.added:
        words.print(f"Added {file} as version {draft.version}, a draft: the search tries it beside its own.")
    else:
        words.print(f"Version {draft.version} says the same as {file} already.")


def _join(bench: "Workbench", target: "Target") -> None:
    from rs_pipelines import steps

    try:
        n = steps.join(bench, target, on_delivered=lambda n: words.print(f"{n} looks taken"))
    except KeyboardInterrupt:
        words.print("Stopped. The search goes on without this process.")
        raise typer.Exit(130) from None
    words.print(f"The search has ended; {n} looks were taken here.")


def _with_input(row: "ComparedRow", examples: Mapping[str, "Example"]) -> dict[str, Any]:
    example = examples[row.example_id]
    return {"variables": dict(example.variables), "messages": list(example.messages), **asdict(row)}


def _preflight_only(bench: "Workbench", target: "Target", effort: "Effort", *, as_json: bool) -> None:
    """Exit 0 when a search may start, 1 when it would be refused."""
    from rs_pipelines import steps
    from rs_pipelines.progress import RunProgress, print_preflight
    from rs_pipelines.step_events import Probing

    with RunProgress(words) as progress:
        steps.ingest(bench, watch=progress)
        steps.draw(bench, target, watch=progress)
        # The result itself goes to stdout below.
        found = steps.preflight(
            bench, target, effort, watch=lambda event: progress(event) if isinstance(event, Probing) else None
        )
    if as_json:
        _print_json(asdict(found))
    else:
        print_preflight(Console(highlight=False, markup=False), found)
    if found.objections:
        raise typer.Exit(1)


def up(
    config: ConfigOption = None,
    dagster_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Dagster UI, which listens at 127.0.0.1.")
    ] = 3000,
) -> None:
    """Start the gateway and the Dagster UI on your configuration, until Ctrl-C.

    The gateway listens at `gateway.addr` of the configuration. Both log to files in `logs` of the data directory.

    Example: `route-switch up --config route-switch.yaml`
    """
    need_pipelines()
    from rs_pipelines.defs.runs import add_partitions
    from rs_pipelines.processes import Processes
    from rs_pipelines.stack import refuse_taken_ports, start_dagster, start_gateway
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    refuse_taken_ports(bench, dagster_port=dagster_port)
    add_partitions(bench)
    with Processes(bench.data / "logs") as processes:
        gateway_url = start_gateway(processes, bench)
        dagster_url = start_dagster(processes, bench, port=dagster_port)
        words.print(
            f"Gateway {gateway_url}   Dagster UI {dagster_url}   logs {bench.data / 'logs'}   Ctrl-C stops both"
        )
        ended = processes.wait()
        processes.check(ended)


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop everything at the end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object, the last line.")
    ] = False,
    directory: Annotated[Path, typer.Option(help="The demo's own data; made anew every time.")] = Path("data/demo"),
) -> None:
    """Run the whole loop on a real local model: traffic, labels, search, proof, publication, better answers.

    Example: `route-switch demo --once --json`
    """
    need_pipelines()
    if find_spec("xllamacpp") is None:
        raise ConfigurationError("The demo runs a local model: pip install 'route-switch[pipelines,local]'.")
    from rs_pipelines.demo import run_demo

    try:
        result = run_demo(directory, words, keep_running=not once)
    except KeyboardInterrupt:
        words.print("Stopped; nothing is left running. The demo starts anew next time.")
        raise typer.Exit(130) from None
    if as_json:
        _print_json(result)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def need_pipelines() -> None:
    """Raises ConfigurationError where only the gateway is installed."""
    if find_spec("dagster") is None:
        raise ConfigurationError("This command needs the pipelines: pip install 'route-switch[pipelines]'.")
    from rs_gateway.logs import configure_logs

    configure_logs()

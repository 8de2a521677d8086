"""`route-switch find-best-model`: one template, many models."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rs_gateway.cli_options import TemplateArgument
from rs_gateway.data_console import DataConsole, words
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.pipeline_sections import MOST_SEED


def find_best_model(
    template_id: TemplateArgument,
    models: Annotated[
        str | None, typer.Option(help="Models to compare, as a,b.  [default: all that the template runs on]")
    ] = None,
    quality_bound: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="By how much a cheaper model's score may be below the best one's, at the worst."
        ),
    ] = 0.02,
    no_optimize: Annotated[
        bool, typer.Option("--no-optimize", help="Compare the live versions; search nothing.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, help="As for `optimize`, for each model.  [default: mipro_v2.num_trials]")
    ] = None,
    max_calls: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Hard limit on all model calls together, shared out among the models.  "
            "[default: mipro_v2.max_calls for each]",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=MOST_SEED, help="Decides every random choice of the searches.  [default: mipro_v2.seed]"
        ),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write best-model.json and best-model.html there.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The configuration file.  [default: $RS_CONFIG, else route-switch.yaml]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")] = False,
) -> None:
    """Tune a prompt for each model, run every prompt on every model, and say which model to take.

    All on the same test rows: quality with its interval, price, latency, the Pareto front, the cheapest model within
    the quality bound, and how well a prompt that was tuned for one model does on another. Publishes nothing.
    A model that does not answer is named with the reason, and the others are compared. Interrupted, it goes on where it
    was when started again.

    Example: `route-switch find-best-model support --models gpt-4o-mini,gpt-4o --output-dir report`
    """
    from rs_pipelines.best_model_report import best_model_page, print_best_model
    from rs_pipelines.cli import need_pipelines

    need_pipelines()
    from rs_pipelines.durable_files import check_writable, write_durably
    from rs_pipelines.effort import Effort
    from rs_pipelines.find_best_model import Crossed, Failed, Tuning
    from rs_pipelines.find_best_model import find_best_model as find
    from rs_pipelines.interrupts import sigterm_interrupts
    from rs_pipelines.progress import RunProgress
    from rs_pipelines.workbench import Workbench

    bench = Workbench.at(config)
    named = [model.strip() for model in (models or "").split(",") if model.strip()]
    if models is not None and not named:
        known = ", ".join(target.model for target in bench.targets() if target.template_id == template_id)
        raise ConfigurationError(
            f"--models {models!r} names no model: {template_id!r} runs on {known or 'none'}. Name some of these, or "
            "leave --models out for all."
        )
    if output_dir is not None:
        try:
            check_writable(output_dir)
        except OSError as error:
            raise ConfigurationError(
                f"--output-dir {output_dir} cannot be written ({error.strerror or error}), so nothing was asked yet: "
                "name another folder, or make this one writable."
            ) from error
    try:
        with sigterm_interrupts(), RunProgress(words) as progress:

            def step(event: Tuning | Crossed | Failed) -> None:
                match event:
                    case Tuning() if no_optimize:
                        progress.say(f"{event.model}: the live version as it is")
                    case Tuning():
                        progress.say(f"model {event.position} of {event.total}: tuning a prompt for {event.model}")
                    case Crossed():
                        progress.say(f"all prompts have run on {event.model}")
                    case Failed():
                        progress.say(f"{event.model} failed, the others go on without it: {event.why}")

            found = find(
                bench,
                template_id,
                models=named,
                quality_bound=quality_bound,
                effort=Effort(num_trials=trials, max_calls=max_calls, seed=seed),
                optimize=not no_optimize,
                watch=progress,
                on_step=step,
            )
    except KeyboardInterrupt:
        words.print("Stopped. What was evaluated is kept: the same command goes on where it was.")
        raise typer.Exit(130) from None
    content = json.dumps(asdict(found), indent=1)
    if output_dir is not None:
        write_durably(output_dir / "best-model.json", content.encode())
        write_durably(output_dir / "best-model.html", best_model_page(found).encode())
        words.print(f"Written: {output_dir / 'best-model.json'}, {output_dir / 'best-model.html'}")
    if as_json:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
    else:
        print_best_model(DataConsole(), found)

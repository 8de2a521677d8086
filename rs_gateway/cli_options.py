"""Arguments and options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file.  [default: $RS_CONFIG, else route-switch.yaml]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]
TemplateArgument = Annotated[str, typer.Argument(help="The template's id.")]

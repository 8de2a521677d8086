"""Arguments and options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

from rs_gateway.completions import template_names

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file.  [default: $RS_CONFIG, else route-switch.yaml]"),
]
TemplateArgument = Annotated[str, typer.Argument(help="The template's id.", autocompletion=template_names)]
OneTemplateArgument = Annotated[str | None, typer.Argument(help="Only this template's.", autocompletion=template_names)]
OneTemplateOption = Annotated[
    str | None,
    typer.Option("--template-id", "-t", help="Only this template's.", autocompletion=template_names),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]

"""`route-switch init`: a configuration to begin with."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rs_gateway.cli_options import JsonOption
from rs_gateway.data_console import print_json, words


def write_configuration(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The file to write.  [default: $RS_CONFIG, else route-switch.yaml]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a commented route-switch.yaml with the providers that it finds.

    These are the ones whose keys are in the environment, a local Ollama, and a running `route-switch model serve`. It
    asks nothing. Keys are not copied: the file names the variable that holds each.

    Example: `route-switch init`
    """
    from rs_gateway.first_configuration import first_configuration, models_of
    from rs_gateway.settings import CONFIG_VARIABLE, DEFAULT_CONFIG
    from rs_gateway.surroundings import look_around
    from rs_gateway.whole_file import whole_file

    path = config or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))
    found = look_around()
    usable = models_of(found)
    with whole_file(path, overwrite=overwrite) as file:
        file.write(first_configuration(found))
    address = f"127.0.0.1:{found.port}"
    if as_json:
        providers = [
            {"name": name, "key_variable": found.keys.get(name), "models": list(models)}
            for name, models in usable.items()
        ]
        print_json({"file": str(path), "addr": address, "providers": providers})
        return
    for name, models in usable.items():
        words.print(f"Found {name} ({found.keys.get(name, 'on this machine')}): {', '.join(models)}")
    option = "" if config is None else f" --config {path}"
    if usable:
        words.print(
            f"Wrote {path}. Next: `route-switch check --live{option}`, then `route-switch serve{option}`: any OpenAI "
            f"client reaches it at http://{address}/v1."
        )
    else:
        words.print(
            f"Wrote {path}, but found nobody to answer: set OPENAI_API_KEY (or another provider's), start Ollama, or "
            "start `route-switch model serve`, which runs a small model here; then run this again with --overwrite."
        )

"""Where an analyst's records lie. They are only read, and nothing is locked: the gateway goes on writing meanwhile."""

import os
from pathlib import Path

from rs_gateway.domain.errors import ConfigurationError, StoreError
from rs_gateway.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, Settings
from rs_pipelines.lake import Lake
from rs_pipelines.workbench import Workbench

DATA_VARIABLE = "RS_DATA_DIR"


class NoTracesError(StoreError):
    """There is nothing to analyse yet."""

    code = "no_traces"

    def __init__(self, data: Path) -> None:
        super().__init__(
            f"There are no traces in the lake of {data} yet. Run `route-switch ingest`, which brings them from the "
            f"gateway's store; or set {DATA_VARIABLE} to another data directory, the one that holds `lake/`."
        )


def open_data(directory: Path | str | None = None) -> Workbench:
    """The stores of one data directory. No configuration is needed where the directory is named.

    Args:
        directory: the one that holds `lake/`, `studies/` and `prompts/`. None: `$RS_DATA_DIR`; without it, what
            `$RS_CONFIG` says, or the route-switch.yaml of the current directory or the nearest one above it.

    Raises:
        ConfigurationError: there is neither a directory nor a configuration, or the configuration cannot be used.
    """
    named = directory if directory is not None else os.environ.get(DATA_VARIABLE)
    if named is not None and (directory is not None or CONFIG_VARIABLE not in os.environ):
        return Workbench(Settings(data_dir=Path(named).absolute()))
    try:
        return Workbench.at(None if CONFIG_VARIABLE in os.environ else _nearest_config(Path.cwd()))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error} To read a data directory without its configuration, set {DATA_VARIABLE} to it."
        ) from error


def need_traces(bench: Workbench) -> Lake:
    """The lake, once there is something in it. Raises NoTracesError, which says how that comes about."""
    if not bench.lake.manifest().traces.rows:
        raise NoTracesError(bench.data)
    return bench.lake


def _nearest_config(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / DEFAULT_CONFIG).exists():
            return folder / DEFAULT_CONFIG
    raise ConfigurationError(f"There is no {DEFAULT_CONFIG} in {start} or above it. Set {CONFIG_VARIABLE} to one.")

"""What the assets are handed. Opened when an asset runs, so that loading the definitions needs no configuration."""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from rs_pipelines.step_events import Watcher, ignore
from rs_pipelines.workbench import Workbench


@dataclass(frozen=True)
class Stores:
    """The stores and models of one configuration.

    Attributes:
        open: gives the workbench; by default that of `$RS_CONFIG`, else of route-switch.yaml.
        watch: sees every event of a step; for whoever started the run in this very process.
    """

    open: Callable[[], Workbench] = Workbench.at
    watch: Watcher = ignore


StoresResource = dg.ResourceParam[Stores]

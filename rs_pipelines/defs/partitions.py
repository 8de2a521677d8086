"""One partition a target: a prompt is optimised for the model that it runs on, so both name it."""

import dagster as dg

from rs_pipelines.occasions import registered_targets
from rs_pipelines.workbench import Workbench

TARGETS = "targets"
targets = dg.DynamicPartitionsDefinition(name=TARGETS)


def missing_targets(instance: dg.DagsterInstance, bench: Workbench) -> list[str]:
    """Keys of the targets, of registered templates and enabled combinations, that are no partitions yet."""
    known = set(instance.get_dynamic_partitions(TARGETS))
    return [target.key for target in registered_targets(bench) if target.key not in known]

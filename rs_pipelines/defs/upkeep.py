"""Job `upkeep`: no asset is made, but what the stores need once a day is done."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.metadata import of_upkeep
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.upkeep import keep_up

UPKEEP = "upkeep"


@dg.op(description="Let go what `privacy.retention` keeps no longer, and pack the lake: few parts a day, each small.")
def keep_stores(context: dg.OpExecutionContext, stores: StoresResource) -> dg.Output[Any]:
    with explained():
        done = keep_up(stores.open(), now=datetime.now(UTC))
    context.log.info(f"{done.compaction.merged} parts merged into {done.compaction.into}")
    return dg.Output(None, metadata=of_upkeep(done))


@dg.job(name=UPKEEP, description="Pack the lake small and let go what is kept no longer. Readers are not disturbed.")
def upkeep() -> None:
    keep_stores()

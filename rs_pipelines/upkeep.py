"""What the stores of the pipelines need once a day: what is kept no longer goes, and the lake is packed small."""

from dataclasses import dataclass
from datetime import datetime

from rs_pipelines.compaction import CompactionReport, small_parts
from rs_pipelines.lake_schema import TABLES
from rs_pipelines.retention import Expired, expire
from rs_pipelines.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What was let go, and what the lake looks like now."""

    expired: Expired
    compaction: CompactionReport


def keep_up(bench: Workbench, *, now: datetime) -> Upkeep:
    """Let go what `privacy.retention` keeps no longer, then pack the rest. Killed anywhere, the next call goes on.

    Args:
        now: UTC.

    Raises:
        LakeBusyError: somebody else's change of the lake did not end in time.
        LakeCorruptError, StoreError: as an ingest.
    """
    expired = expire(bench, now=now)
    return Upkeep(expired, bench.lake.compact() if bench.lake.exists() else CompactionReport())


def needs_upkeep(bench: Workbench) -> bool:
    """Whether there may be anything to do. Reads no more than the manifest."""
    kept = bench.settings.privacy.retention
    if any(limit is not None for limit in (kept.lake_days, kept.lake_gb, kept.cache_days, kept.cache_gb)):
        return True
    manifest = bench.lake.manifest()
    return any(small_parts(manifest.table(table.name).parts) for table in TABLES)

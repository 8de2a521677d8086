"""What the pipelines keep no longer: days of the lake and cached answers, by age and by size."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from rs_pipelines.answers import AnswerCache
from rs_pipelines.lake_manifest import Manifest, Part
from rs_pipelines.lake_schema import TABLES
from rs_pipelines.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Expired:
    """How much was let go: days and rows of the lake, cached answers."""

    lake_days: int = 0
    lake_rows: int = 0
    answers: int = 0


def expire(bench: Workbench, *, now: datetime) -> Expired:
    """Let go what `privacy.retention` keeps no longer. Costs nothing where nothing is due.

    Args:
        now: UTC.

    Raises:
        LakeBusyError, StoreError: nothing more can be removed now; the next call tries again.
    """
    kept = bench.settings.privacy.retention
    days = _expire_lake(bench, now)
    removed = 0
    path = bench.data / "cache" / "answers.db"
    if path.exists() and (kept.cache_days is not None or kept.cache_gb is not None):
        cache = AnswerCache(path)
        try:
            removed = cache.expire(
                before_s=None if kept.cache_days is None else now.timestamp() - kept.cache_days * 86_400,
                max_bytes=None if kept.cache_gb is None else kept.cache_gb * 1e9,
            )
        finally:
            cache.close()
    return Expired(len({part.day for part in days}), sum(part.rows for part in days), removed)


def parts_due(manifest: Manifest, *, today: date, max_days: float | None, max_bytes: float | None) -> list[Part]:
    """Parts of days that are over: those that ended more than `max_days` ago, and the oldest ones beyond `max_bytes`.

    Args:
        today: UTC; it stays in every case.
    """
    parts = [part for table in TABLES for part in manifest.table(table.name).parts]
    days = sorted({part.day for part in parts if part.day < today})
    due = {day for day in days if max_days is not None and today - day > timedelta(days=max_days)}
    size = sum(part.bytes for part in parts if part.day not in due)
    for day in days:
        if max_bytes is None or size <= max_bytes:
            break
        if day not in due:
            due.add(day)
            size -= sum(part.bytes for part in parts if part.day == day)
    return [part for part in parts if part.day in due]


def _expire_lake(bench: Workbench, now: datetime) -> Sequence[Part]:
    kept = bench.settings.privacy.retention
    max_bytes = None if kept.lake_gb is None else kept.lake_gb * 1e9

    def due(manifest: Manifest) -> list[Part]:
        return parts_due(manifest, today=now.date(), max_days=kept.lake_days, max_bytes=max_bytes)

    if not due(bench.lake.manifest()):
        return ()
    with bench.lake.edit() as lake:
        parts = due(lake.manifest)
        for table in TABLES:
            gone = [part for part in lake.manifest.table(table.name).parts if part in parts]
            if gone:
                lake.replace(table, remove=gone, add=[])
        lake.purge()
    return parts

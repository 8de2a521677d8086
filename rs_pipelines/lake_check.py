"""Whether the parts of a copied lake are what its manifest says, by their sizes and footers: no row is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rs_pipelines.lake_edit import read_manifest
from rs_pipelines.lake_files import LakeFiles
from rs_pipelines.lake_manifest import Part
from rs_pipelines.lake_schema import TABLES

_MOST_NAMED = 10
_SAYS_ITS_SIZE = 2
"""Schema since which a manifest knows how large each file is."""


@dataclass(frozen=True, slots=True)
class DamagedPart:
    """A part that counts and is not what it was; `path` is relative to the lake."""

    path: str
    why: str


def damaged_parts(files: LakeFiles) -> list[DamagedPart]:
    """The parts that count and whose file is cut off, is no Parquet or has other rows; [] where all is well.

    Raises:
        LakeCorruptError: the manifest is damaged. SchemaTooNewError.
    """
    manifest = read_manifest(files)
    parts = [part for table in TABLES for part in manifest.table(table.name).parts]
    return [DamagedPart(part.path, why) for part in parts for why in _faults(files, part)]


def in_words(damaged: Sequence[DamagedPart], lake: Path | str) -> str:
    """Where they lie, and why; the first ones, where there are many."""
    named = "; ".join(f"{lake}/{part.path} ({part.why})" for part in damaged[:_MOST_NAMED])
    return named + (f"; and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else "")


def _faults(files: LakeFiles, part: Part) -> Iterator[str]:
    path = files.path(part.path)
    try:
        size_bytes = path.stat().st_size
        if part.schema >= _SAYS_ITS_SIZE and size_bytes != part.bytes:
            yield f"{size_bytes} bytes instead of {part.bytes}"
            return
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(pl.len()).collect().item()
    except FileNotFoundError:
        yield "missing"
    except pl.exceptions.PolarsError as error:
        yield str(error).partition("\n")[0]
    else:
        if rows != part.rows:
            yield f"{rows} rows instead of {part.rows}"

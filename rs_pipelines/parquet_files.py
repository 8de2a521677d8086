"""Parquet files that appear whole or not at all, on a disk that may be full."""

import errno
import os
from pathlib import Path
from typing import Literal

import polars as pl

from rs_pipelines.durable_files import put_in_place, temporary_for

_DISK_FULL = "os error 28"
"""How the writer tells ENOSPC, in the words of an error of its own."""


def write_parquet(
    frame: pl.DataFrame,
    path: Path,
    *,
    compression: Literal["lz4", "zstd"] = "zstd",
    row_group_size: int | None = None,
) -> None:
    """Write a file, not yet durably.

    Raises:
        OSError: it cannot be written. Of a disk that is full nothing is left behind.
    """
    try:
        frame.write_parquet(path, compression=compression, row_group_size=row_group_size)
    except pl.exceptions.ComputeError as error:
        if _DISK_FULL not in str(error):
            raise
        path.unlink(missing_ok=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def replace_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write `path` as a whole, durably; whoever reads it meanwhile sees the old table or the new one.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(path)
    write_parquet(frame, temporary)
    put_in_place(temporary, path)

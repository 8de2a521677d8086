"""Parquet on a disk that may be full."""

import errno
import os
from pathlib import Path
from typing import Literal

import polars as pl

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

"""What the lake asks of the place where its files are: a folder (lake_files.py) or a bucket (lake_bucket.py)."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from rs_pipelines.lake_schema import Packing


class LakePlace(Protocol):
    """`<table>/dt=YYYY-MM-DD/*.parquet` and a manifest. Names are relative, with `/`. Blocking."""

    @property
    def root(self) -> Path | str:
        """The folder, or the URL."""
        ...

    @property
    def storage_options(self) -> Mapping[str, str]:
        """What Polars needs to read parts."""
        ...

    def path(self, name: str) -> Path | str:
        """Where a part is."""
        ...

    def manifest(self) -> bytes | None:
        """Content of the manifest; None where there is none."""
        ...

    def replace_manifest(self, content: bytes) -> None:
        """Make this the manifest, durably; a reader sees the old one or this one."""
        ...

    def write_part(self, name: str, rows: pl.DataFrame, *, packing: Packing) -> int:
        """Write one part; its size in bytes. It is durable after `sync_parts`."""
        ...

    def sync_parts(self, names: Collection[str]) -> None:
        """Wait until these parts are durable."""
        ...

    def sync_folders(self, names: Collection[str]) -> None:
        """Wait until it is durable that these parts are there, or gone."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        ...

    def names(self) -> frozenset[str]:
        """Names of all files of parts, also of those that do not count."""
        ...

    def absent(self, names: Collection[str]) -> frozenset[str]:
        """Which of these parts are not there."""
        ...

    def filesystem(self) -> Any:
        """An fsspec filesystem through which DuckDB reads; None where it reads by itself."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Be the only writer. Raises LakeBusyError."""
        ...

"""The lake's files on a local disk: parts that appear whole, a manifest that is replaced whole, one writer at a time.

All that changes the disk goes through here, one named step after the other, so that tests can kill or fail each one.
"""

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import polars as pl
from filelock import FileLock, Timeout

from rs_gateway.domain.errors import StoreError
from rs_pipelines.durable_files import sync_path, temporary_for, unwritable
from rs_pipelines.lake_schema import TABLES, Packing
from rs_pipelines.parquet_files import write_parquet

_MANIFEST = "manifest.json"
CODECS: Mapping[Packing, Literal["lz4", "zstd"]] = {"fast": "lz4", "small": "zstd"}
ROW_GROUP_ROWS = 16_384
"""Larger ones take more memory and more time to write: they do not fit into the processor's cache."""


class LakeBusyError(StoreError):
    """Somebody else is changing the same lake."""

    code = "lake_busy"
    retryable = True


def _ignore_step(step: str) -> None:
    del step


class LakeFiles:
    """`<table>/dt=YYYY-MM-DD/*.parquet` and `manifest.json` in one folder, which need not exist yet.

    Names of parts are relative to the folder, with `/`.
    """

    def __init__(
        self, root: Path, *, lock_timeout_s: float = 30.0, before_step: Callable[[str], None] = _ignore_step
    ) -> None:
        """Files in `root`.

        Args:
            lock_timeout_s: how long a writer waits for another one before it is refused.
            before_step: called with the name of each thing that is about to be done to the disk; the tests kill there.
        """
        self.root = root
        self._lock_timeout_s = lock_timeout_s
        self._step = before_step

    @property
    def storage_options(self) -> Mapping[str, str]:
        """Polars reads files by itself."""
        return {}

    def filesystem(self) -> None:
        """So does DuckDB."""

    def path(self, name: str) -> Path:
        """Where a part is."""
        return self.root / name

    def manifest(self) -> bytes | None:
        """Content of the manifest; None where there is none. Raises StoreError: the folder is none."""
        try:
            return (self.root / _MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise StoreError(f"The lake {self.root} is no folder: move it away, or set another `data_dir`.") from error

    def replace_manifest(self, content: bytes) -> None:
        """Make this the manifest, durably; a reader sees the old one or this one."""
        path = self.root / _MANIFEST
        temporary = temporary_for(path)
        self._step("write manifest")
        temporary.write_bytes(content)
        self._step("sync manifest")
        sync_path(temporary)
        self._step("rename manifest")
        temporary.replace(path)
        self._step("sync lake folder")
        sync_path(self.root)
        self._step("return from manifest")

    def write_part(self, name: str, rows: pl.DataFrame, *, packing: Packing) -> int:
        """Write one part; its size in bytes. It is on the disk only after `sync_parts`."""
        path = self.path(name)
        temporary = temporary_for(path)
        self._step(f"make folder of {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._step(f"write {name}")
        write_parquet(rows, temporary, compression=CODECS[packing], row_group_size=ROW_GROUP_ROWS)
        self._step(f"rename {name}")
        temporary.replace(path)
        return path.stat().st_size

    def sync_parts(self, names: Collection[str]) -> None:
        """Wait until these parts are on the disk."""
        for name in names:
            self._step(f"sync {name}")
            sync_path(self.path(name))
        self.sync_folders(names)

    def sync_folders(self, names: Collection[str]) -> None:
        """Wait until it is on the disk that these parts are there, or gone."""
        folders = {self.path(name).parent for name in names}
        tables = {folder.parent for folder in folders}
        for folder in (*sorted(folders), *sorted(tables), self.root):
            self._step(f"sync folder {folder.name}")
            sync_path(folder)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        self._step(f"remove {name}")
        self.path(name).unlink(missing_ok=True)

    def names(self) -> frozenset[str]:
        """Names of all files in the tables' folders, half-written ones included."""
        return frozenset(
            path.relative_to(self.root).as_posix()
            for table in TABLES
            for pattern in ("dt=*/*.parquet", "dt=*/.*.tmp")
            for path in (self.root / table.name).glob(pattern)
        )

    def absent(self, names: Collection[str]) -> frozenset[str]:
        """Which of these parts are not there."""
        return frozenset(name for name in names if not self.path(name).exists())

    @contextmanager
    def alone(self) -> Generator[None]:
        """Be the only writer.

        Raises:
            LakeBusyError: another one did not end in time; a dead one is none.
            StoreError: the folder cannot be written.
        """
        lock = FileLock(self.root / ".ingest.lock", timeout=self._lock_timeout_s)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise LakeBusyError(
                f"Another ingest, or another change, of {self.root} is under way and did not end within "
                f"{self._lock_timeout_s:g} s: try again when it has ended."
            ) from error
        except OSError as error:
            raise unwritable(self.root, error) from error
        try:
            yield
        finally:
            lock.release()

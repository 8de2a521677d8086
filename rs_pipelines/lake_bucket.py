"""The lake's files on object storage: parts that appear whole, a manifest that is put last, one writer at a time.

Objects cannot be renamed, and need not be: an object appears as a whole when it is put, and what no manifest names does
not count. The manifest is put only in the place of the one that was read (its ETag decides), so that no change is ever
overwritten unseen. Who may write says a lease, an object of its own that is taken and renewed in the same way.
"""

import io
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import polars as pl

from rs_gateway.domain.errors import ConfigurationError, StoreError
from rs_pipelines.lake_files import CODECS, ROW_GROUP_ROWS, LakeBusyError
from rs_pipelines.lake_schema import TABLES, Packing

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_MANIFEST, _LEASE = "manifest.json", "lease.json"
_POLL_S = 0.2


class Lease(msgspec.Struct, frozen=True):
    """Who may write until when (seconds since 1970); `token` and `renewed` make every renewal another object."""

    holder: str
    token: str
    until: float
    renewed: int = 0


def _ignore_step(step: str) -> None:
    del step


class LakeBucket:
    """The same as LakeFiles, under a URL such as `s3://bucket/prefix`.

    Endpoint and credentials come from the usual variables: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, ...
    """

    def __init__(
        self,
        url: str,
        *,
        lock_timeout_s: float = 30.0,
        before_step: Callable[[str], None] = _ignore_step,
        lease_s: float = 300.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            lease_s: how long a writer that was killed keeps others waiting. One that lives renews its lease.
            now: seconds since 1970.
        """
        self.root = url.rstrip("/")
        self._lock_timeout_s, self._step, self._lease_s, self._now = lock_timeout_s, before_step, lease_s, now
        self._opened: tuple[Any, ObjectStore] | None = None
        self._manifest_tag: str | None = None
        self._lease: Lease | None = None
        self._lease_tag: str | None = None
        self._renewing = threading.Lock()

    @property
    def storage_options(self) -> Mapping[str, str]:
        """What Polars needs beside the variables."""
        return {"aws_allow_http": "true"} if _is_plain_http() else {}

    def path(self, name: str) -> str:
        """Where a part is."""
        return f"{self.root}/{name}"

    def manifest(self) -> bytes | None:
        """Content of the manifest; None where there is none."""
        content, self._manifest_tag = self._get(_MANIFEST)
        return content

    def replace_manifest(self, content: bytes) -> None:
        """Put this in the place of the manifest that was read. Raises LakeBusyError when that is no longer there."""
        self._renew()
        self._step("put manifest")
        self._manifest_tag = self._put(_MANIFEST, content, instead_of=self._manifest_tag)
        self._step("return from manifest")

    def write_part(self, name: str, rows: pl.DataFrame, *, packing: Packing) -> int:
        """Put one part; its size in bytes."""
        self._renew()
        buffer = io.BytesIO()
        rows.write_parquet(buffer, compression=CODECS[packing], row_group_size=ROW_GROUP_ROWS)
        self._step(f"put {name}")
        obstore, store = self._open()
        with _translated(self.root):
            obstore.put(store, name, buffer.getvalue())
        self._step(f"return from {name}")
        return buffer.tell()

    def sync_parts(self, names: Collection[str]) -> None:
        """What was put is durable already."""

    def sync_folders(self, names: Collection[str]) -> None:
        """There are none."""

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        self._renew()
        self._step(f"remove {name}")
        self._delete(name)

    def names(self) -> frozenset[str]:
        """Names of all parts, also of those that do not count."""
        obstore, store = self._open()
        with _translated(self.root):
            return frozenset(
                entry["path"]
                for table in TABLES
                for page in obstore.list(store, prefix=table.name)
                for entry in page
                if entry["path"].endswith(".parquet")
            )

    def absent(self, names: Collection[str]) -> frozenset[str]:
        """Which of these parts are not there."""
        return frozenset(names) - self.names() if names else frozenset()

    def filesystem(self) -> Any:
        """An fsspec filesystem over the same storage, for DuckDB."""
        from obstore.fsspec import FsspecStore

        return FsspecStore("s3", client_options={"allow_http": _is_plain_http()})

    @contextmanager
    def alone(self) -> Generator[None]:
        """Be the only writer. Raises LakeBusyError when another one does not end in time; a dead one's lease ends."""
        self._take()
        try:
            yield
        finally:
            lease, self._lease = self._lease, None
            if lease is not None and self._get(_LEASE)[1] == self._lease_tag:
                self._delete(_LEASE)

    def _take(self) -> None:
        deadline = time.monotonic() + self._lock_timeout_s
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        while True:
            content, tag = self._get(_LEASE)
            held = None if content is None else msgspec.json.decode(content, type=Lease)
            if held is None or held.until < self._now():
                self._lease = Lease(holder, uuid4().hex, self._now() + self._lease_s)
                try:
                    self._lease_tag = self._put(_LEASE, msgspec.json.encode(self._lease), instead_of=tag)
                    return
                except LakeBusyError:
                    self._lease = None
            if time.monotonic() >= deadline:
                who = "another process" if held is None else held.holder
                raise LakeBusyError(
                    f"{self.root} is being changed by {who}, which did not end within {self._lock_timeout_s:g} s: try "
                    f"again when it has ended. The lease of a killed process ends after {self._lease_s:g} s."
                )
            time.sleep(_POLL_S)

    def _renew(self) -> None:
        """Prove that the lease is still ours, and prolong it, once a third of it is over."""
        # Parts are written beside the thread that commits them.
        with self._renewing:
            lease = self._lease
            if lease is None or lease.until - self._now() > self._lease_s * 2 / 3:
                return
            self._lease = msgspec.structs.replace(lease, until=self._now() + self._lease_s, renewed=lease.renewed + 1)
            try:
                self._lease_tag = self._put(_LEASE, msgspec.json.encode(self._lease), instead_of=self._lease_tag)
            except LakeBusyError:
                self._lease = None
                raise

    def _get(self, name: str) -> tuple[bytes | None, str | None]:
        obstore, store = self._open()
        with _translated(self.root):
            try:
                found = obstore.get(store, name)
            except FileNotFoundError:
                return None, None
            return bytes(found.bytes()), found.meta["e_tag"]

    def _put(self, name: str, content: bytes, *, instead_of: str | None) -> str | None:
        """Put an object where there is none, or in the place of the one with this ETag; the new ETag."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        obstore, store = self._open()
        mode: Any = "create" if instead_of is None else {"e_tag": instead_of}
        with _translated(self.root):
            try:
                return obstore.put(store, name, content, mode=mode, use_multipart=False)["e_tag"]
            except (AlreadyExistsError, PreconditionError) as error:
                raise LakeBusyError(
                    f"{self.path(name)} was changed by another process in the meantime: try again."
                ) from error

    def _delete(self, name: str) -> None:
        obstore, store = self._open()
        with _translated(self.root):
            try:
                obstore.delete(store, name)
            except FileNotFoundError:
                return

    def _open(self) -> "tuple[Any, ObjectStore]":
        if self._opened is None:
            try:
                import obstore
                from obstore.store import from_url
            except ImportError as error:
                raise ConfigurationError(
                    f"stores.lake {self.root} needs the package obstore: install it with "
                    "`pip install 'route-switch[scale]'`."
                ) from error
            with _translated(self.root):
                self._opened = (obstore, from_url(self.root, client_options={"allow_http": _is_plain_http()}))
        return self._opened


def _is_plain_http() -> bool:
    return os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")


@contextmanager
def _translated(url: str) -> Generator[None]:
    """What the storage says, as a StoreError that names the place."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(
            f"The lake at {url} cannot be reached: {first}. See AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY."
        ) from error

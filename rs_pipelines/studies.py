"""Studies on disk: `<root>/<target>/<study id>/` with study.json, comparison.json and Optuna's journal.log."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock
import msgspec

from rs_gateway.domain.errors import RouteSwitchError, StoreError
from rs_pipelines.comparison import Comparison
from rs_pipelines.durable_files import write_durably
from rs_pipelines.mipro.records import StudyRecord, decode_study, encode_study
from rs_pipelines.sample import Target

_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""Folders of the targets that the running code holds."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who is optimising a target: process, machine and since when (UTC, ISO 8601)."""

    pid: int
    host: str
    since: str


class StudyBusyError(RouteSwitchError):
    """Another process is optimising the same target."""

    code = "study_busy"

    def __init__(self, target: Target, holder: Holder | None) -> None:
        self.target, self.holder = target, holder
        who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another process"
        super().__init__(
            f"{target.template_id!r} on {target.model!r} is being optimised by {who}: wait for it to end, or stop it. "
            "What it has evaluated is kept."
        )


class StudyFiles:
    """All studies under one folder. Blocking; every write replaces its file as a whole."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, target: Target, study_id: str) -> Path:
        """Where one study lies."""
        return self._root / target.key / study_id

    def journal(self, target: Target, study_id: str) -> Path:
        """Optuna's journal file of one study."""
        return self.directory(target, study_id) / "journal.log"

    def save_study(self, record: StudyRecord) -> None:
        """Write study.json."""
        write_durably(self.directory(record.target, record.study_id) / "study.json", encode_study(record))

    def load_study(self, target: Target, study_id: str) -> StudyRecord | None:
        """Read study.json; None when there is none. Raises StoreError when it cannot be understood."""
        content = _read(self.directory(target, study_id) / "study.json")
        return None if content is None else _decoded(f"{study_id} of {target.key}", content)

    def save_comparison(self, comparison: Comparison) -> None:
        """Write comparison.json beside its study."""
        path = self.directory(comparison.target, comparison.study_id) / "comparison.json"
        write_durably(path, msgspec.json.format(msgspec.json.encode(comparison), indent=1))

    def load_comparison(self, target: Target, study_id: str) -> Comparison | None:
        """Read comparison.json; None when there is none. Raises StoreError when it cannot be understood."""
        content = _read(self.directory(target, study_id) / "comparison.json")
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=Comparison)
        except msgspec.DecodeError as error:
            raise StoreError(f"The comparison of study {study_id} cannot be read ({error}): compare again.") from error

    def set_latest(self, record: StudyRecord) -> None:
        """Remember which study of a target ended last."""
        write_durably(self._root / record.target.key / "latest", record.study_id.encode())

    def latest(self, target: Target) -> StudyRecord | None:
        """The study that ended last; None when none has."""
        content = _read(self._root / target.key / "latest")
        return None if content is None else self.load_study(target, content.decode().strip())

    def studies(self, target: Target) -> list[StudyRecord]:
        """All studies of a target, unfinished ones too, in the order of their start."""
        found = [self.load_study(target, path.parent.name) for path in (self._root / target.key).glob("*/study.json")]
        return sorted((record for record in found if record is not None), key=lambda record: record.started_at)

    def targets(self) -> list[Target]:
        """Every target that has a study, in the order of their keys. Raises StoreError: one cannot be understood."""
        studies = {path.parent.parent.name: path for path in sorted(self._root.glob("*/*/study.json"))}
        return [_decoded(f"{path.parent.name} of {key}", path.read_bytes()).target for key, path in studies.items()]

    @contextmanager
    def lock(self, target: Target) -> Generator[None]:
        """Hold a target for one optimisation. The lock goes with its process, so a dead holder blocks nobody.

        What is called while the target is held, such as the steps of a run, may hold it again.

        Raises:
            StudyBusyError: another process, or another task of this one, holds it.
        """
        folder = self._root / target.key
        if folder in _held.get():
            yield
            return
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", blocking=False, thread_local=False)
        holder = folder / ".holder.json"
        try:
            lock.acquire()
        except filelock.Timeout:
            raise StudyBusyError(target, _read_holder(holder)) from None
        token = _held.set(_held.get() | {folder})
        try:
            me = Holder(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
            write_durably(holder, msgspec.json.encode(me))
            yield
        finally:
            _held.reset(token)
            holder.unlink(missing_ok=True)
            lock.release()


def _decoded(name: str, content: bytes) -> StudyRecord:
    try:
        return decode_study(content)
    except msgspec.DecodeError as error:
        raise StoreError(f"Study {name} cannot be read ({error}): delete its folder.") from error


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _read_holder(path: Path) -> Holder | None:
    content = _read(path)
    try:
        return None if content is None else msgspec.json.decode(content, type=Holder)
    except msgspec.DecodeError:
        return None

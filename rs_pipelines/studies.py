"""Studies on disk: `<root>/<target>/<study id>/` with study.json, comparison.json and Optuna's journal.log."""

import os
import socket
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import filelock
import msgspec

from rs_gateway.domain.errors import RouteSwitchError, StoreError
from rs_pipelines.comparison import Comparison, decode_comparison, encode_comparison
from rs_pipelines.durable_files import unwritable, write_durably
from rs_pipelines.mipro.records import StudyRecord, decode_study, encode_study
from rs_pipelines.sample import Target
from rs_pipelines.study_schema import STUDY_SCHEMA

_T = TypeVar("_T")
_WORDS = ("user", "assistant", "expected", "live_output", "candidate_output")
"""Where a demo or a compared row has the words of its example."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a damaged file can do: it is another JSON, no text, or brackets without end."""
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
        write_durably(self._folder(record.target, record.study_id) / "study.json", encode_study(record))

    def load_study(self, target: Target, study_id: str) -> StudyRecord | None:
        """Read study.json; None when there is none. Raises StoreError when it cannot be understood."""
        content = _read(self._readable(target, study_id) / "study.json")
        return None if content is None else _decoded(f"{study_id} of {target.key}", content)

    def save_comparison(self, comparison: Comparison) -> None:
        """Write comparison.json beside its study."""
        path = self._folder(comparison.target, comparison.study_id) / "comparison.json"
        write_durably(path, encode_comparison(comparison))

    def copy_comparison(self, target: Target, study_id: str, *, to: "StudyFiles") -> None:
        """Bring a comparison.json that is there to other studies byte by byte, for its id stands for what it holds."""
        content = (self.directory(target, study_id) / "comparison.json").read_bytes()
        write_durably(to._folder(target, study_id) / "comparison.json", content)

    def load_comparison(self, target: Target, study_id: str) -> Comparison | None:
        """Read comparison.json; None when there is none. Raises StoreError when it cannot be understood."""
        content = _read(self._readable(target, study_id) / "comparison.json")
        if content is None:
            return None
        try:
            return decode_comparison(content)
        except _UNREADABLE as error:
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
        """Every target that has a study that can be read, in the order of their keys."""
        return list({record.target.key: record.target for record in self.readable()}.values())

    def readable(self) -> list[StudyRecord]:
        """All studies that can be read, by target and id; `faults` names the others."""
        tried = (self._tried(key, path) for key, path in self._study_files())
        return [record for record in tried if isinstance(record, StudyRecord)]

    def faults(self) -> list[str]:
        """For each file of a study or comparison that cannot be read, a sentence with what to do."""
        tried = (self._tried(key, path) for key, path in self._study_files())
        faults = [str(fault) for fault in tried if isinstance(fault, StoreError)]
        for record in self.readable():
            try:
                self.load_comparison(record.target, record.study_id)
            except StoreError as error:
                faults.append(str(error))
        return faults

    def _study_files(self) -> list[tuple[str, Path]]:
        """The study.json of every study, after its target's key."""
        return [(path.parent.parent.name, path) for _, path in self._all("study.json")]

    def _tried(self, key: str, path: Path) -> StudyRecord | StoreError:
        try:
            return _decoded(f"{path.parent.name} of {key}", path.read_bytes())
        except StoreError as error:
            return StoreError(f"{error} It is {path.parent}.")
        except OSError as error:
            return StoreError(f"{path} cannot be read ({error.strerror or error}).")

    def _folder(self, target: Target, study_id: str) -> Path:
        """The same, whose files have the newest schema. Raises SchemaTooNewError."""
        STUDY_SCHEMA.migrate(self._root)
        return self.directory(target, study_id)

    def _readable(self, target: Target, study_id: str) -> Path:
        """The same for whoever only reads. Raises SchemaTooNewError, StoreError."""
        STUDY_SCHEMA.migrate_to_read(self._root)
        return self.directory(target, study_id)

    def ids(self) -> Mapping[str, str]:
        """Of all studies: study id -> sample id. Raises StoreError: one cannot be read."""
        return {name: _plain(path, _Searched).sample_id for name, path in self._all("study.json")}

    def quoting(self, example_ids: Collection[str]) -> list[Path]:
        """Studies and comparisons that show any of these examples, as a demo or as a row."""
        found = [*self._all("study.json"), *self._all("comparison.json")]
        return [path for _, path in found if _quotes(_plain(path, dict[str, Any]), example_ids)]

    def forget(self, path: Path, example_ids: Collection[str]) -> None:
        """Take these examples' words out of a study or comparison. A comparison proves nothing any more after that."""
        content = _without_words(_plain(path, dict[str, Any]), example_ids)
        write_durably(path, msgspec.json.format(msgspec.json.encode(content), indent=1))

    def _all(self, name: str) -> list[tuple[str, Path]]:
        STUDY_SCHEMA.migrate_to_read(self._root)
        return [(path.parent.name, path) for path in sorted(self._root.glob(f"*/*/{name}"))]

    @contextmanager
    def lock(self, target: Target) -> Generator[None]:
        """Hold a target for one optimisation. The lock goes with its process, so a dead holder blocks nobody.

        What is called while the target is held, such as the steps of a run, may hold it again.

        Raises:
            StudyBusyError: another process, or another task of this one, holds it.
            StoreError: the folder cannot be written.
        """
        folder = self._root / target.key
        if folder in _held.get():
            yield
            return
        lock = filelock.FileLock(folder / ".lock", blocking=False, thread_local=False)
        holder = folder / ".holder.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise StudyBusyError(target, _read_holder(holder)) from None
        except OSError as error:
            raise unwritable(folder, error) from error
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
    except _UNREADABLE as error:
        raise StoreError(f"Study {name} cannot be read ({error}): delete its folder.") from error


class _Searched(msgspec.Struct):
    """What a study was searched with; the rest of its file is not looked at."""

    sample_id: str


def _plain(path: Path, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=shape)
    except _UNREADABLE as error:
        raise StoreError(f"{path} cannot be read ({error}): delete its folder.") from error


def _quotes(value: Any, example_ids: Collection[str]) -> bool:
    if isinstance(value, dict):
        shown = value.get("example_id") in example_ids and any(value.get(name) for name in _WORDS)
        return shown or any(_quotes(item, example_ids) for item in value.values())
    return isinstance(value, list) and any(_quotes(item, example_ids) for item in value)


def _without_words(value: Any, example_ids: Collection[str]) -> Any:
    if isinstance(value, dict):
        gone = _WORDS if value.get("example_id") in example_ids else ()
        return {k: "" if k in gone and v else _without_words(v, example_ids) for k, v in value.items()}
    return [_without_words(item, example_ids) for item in value] if isinstance(value, list) else value


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _read_holder(path: Path) -> Holder | None:
    content = _read(path)
    try:
        return None if content is None else msgspec.json.decode(content, type=Holder)
    except _UNREADABLE:
        return None

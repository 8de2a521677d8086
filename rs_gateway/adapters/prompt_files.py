"""The prompt registry as a tree of YAML files that people may read, diff and edit.

    <root>/<template_id>/template.yaml          the facts
    <root>/<template_id>/versions/0001.yaml     immutable, with a content hash
    <root>/<template_id>/live.yaml              which version each model serves, weights, and the history of changes

Every file appears whole or not at all, and writers of one template take turns, so a killed one leaves at most a hidden
temporary file or a draft that nobody serves. Names that start with a dot are ours: locks, and what is being written.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, TypeVar

import filelock

from rs_gateway.adapters.file_schema import FileSchema
from rs_gateway.adapters.prompt_records import LiveRecord, TemplateRecord, VersionRecord, not_registered
from rs_gateway.adapters.prompt_yaml import dump_live, dump_template, dump_version, load_file
from rs_gateway.domain.errors import RegistryError, TemplateExistsError, TemplateInvalidError
from rs_gateway.domain.ports import RegistryState
from rs_gateway.domain.prompts import (
    ANY_MODEL,
    Origin,
    PromptTemplate,
    PromptText,
    PromptVersion,
    check_template_id,
    check_text,
    check_variables,
)
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate, make_live, number_drafts, set_weight

TEMPLATE_FILE, LIVE_FILE, VERSIONS_DIR = "template.yaml", "live.yaml", "versions"
_LOCKS_DIR, _NEW_DIR = ".locks", ".new"
_UNFINISHED = ".unfinished"
"""In a folder of versions: the names of those that are being added together."""
_VERSION_NAME = re.compile(r"(\d{4,})\.yaml\Z")
_Signature: TypeAlias = tuple[int, int, int]
REGISTRY_SCHEMA = FileSchema("prompt registry", "stores.prompts")
"""What the files look like as a whole, and how an older tree gets there. Forward only: append, never edit."""


class PromptFiles:
    """PromptRegistry over a directory. Safe for several threads and processes; reading takes no lock."""

    def __init__(self, root: Path, *, lock_timeout_s: float = 10.0) -> None:
        """Nothing is read or made yet; a root that does not exist is an empty registry.

        Args:
            lock_timeout_s: how long a change waits for another one of the same template.
        """
        self._root, self._lock_timeout_s = root, lock_timeout_s
        # Versions never change, so each is parsed once, unless somebody edits it.
        self._parsed: dict[Path, tuple[_Signature, VersionRecord]] = {}

    def fingerprint(self) -> str:
        """See PromptRegistry. Looks at names, times, sizes and inodes; opens no file."""
        digest = hashlib.sha256()
        for path in _yaml_files(self._root):
            try:
                digest.update(f"{path}\0{_signature(path)}\n".encode("utf-8", "surrogateescape"))
            except OSError:  # replaced or removed at this moment: the next look sees it
                digest.update(f"{path}\0gone\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def load(self, previous: RegistryState | None = None) -> RegistryState:
        """See PromptRegistry. Raises RegistryError when the root itself cannot be read, SchemaTooNewError."""
        REGISTRY_SCHEMA.migrate(self._root)
        fingerprint = self.fingerprint()  # before reading: what changes meanwhile is noticed by the next look
        templates: dict[str, RegisteredTemplate] = {}
        problems: dict[str, str] = {}
        for template_id in self._template_ids():
            try:
                templates[template_id] = self._read(template_id)
            except (RegistryError, TemplateInvalidError) as error:
                problems[template_id] = str(error)
                if previous is not None and template_id in previous.templates:
                    templates[template_id] = previous.templates[template_id]
        return RegistryState(fingerprint, templates, problems)

    def get(self, template_id: str) -> RegisteredTemplate:
        """See PromptRegistry. Raises SchemaTooNewError too."""
        REGISTRY_SCHEMA.migrate(self._root)
        known = self._template_ids()
        if template_id not in known:
            raise not_registered(template_id, known)
        try:
            return self._read(template_id)
        except TemplateInvalidError as error:
            raise RegistryError(str(error)) from error

    def register(self, template: PromptTemplate, text: PromptText, *, origin: Origin) -> RegisteredTemplate:
        """See PromptRegistry. Raises TemplateInvalidError too."""
        template_id = check_template_id(template.template_id)
        check_variables(template.variables)
        check_text(text, template=template)
        version = PromptVersion(1, text, None, origin)
        change = Change(Action.REGISTER, 1, None, origin.by, origin.at, origin.note or "registered")
        registered = RegisteredTemplate(template, {1: version}, {ANY_MODEL: 1}, history=(change,))
        with self._changing(template_id):
            if template_id in self._template_ids():
                raise TemplateExistsError(
                    f"Template {template_id!r} is registered already: add a version, or choose another id."
                )
            self._put(registered)
        return registered

    def add_drafts(self, template: PromptTemplate, versions: Sequence[PromptVersion]) -> dict[int, int]:
        """See PromptRegistry. Raises RegistryError, TemplateInvalidError."""
        template_id = check_template_id(template.template_id)
        check_variables(template.variables)
        with self._changing(template_id):
            if template_id not in self._template_ids():
                for version in versions:
                    check_text(version.text, template=template)
                self._put(RegisteredTemplate(template, {version.number: version for version in versions}, {}))
                return {version.number: version.number for version in versions}
            registered = self.get(template_id)
            numbers, added = number_drafts(registered, versions)
            for version in added:
                check_text(version.text, template=registered.template)
            self._add_together(self._root / template_id / VERSIONS_DIR, added)
        return numbers

    def _put(self, registered: RegisteredTemplate) -> None:
        """Write a template that is not there yet: built aside and renamed, so that nobody ever sees half of it."""
        template_id = registered.template.template_id
        draft = self._root / _NEW_DIR / template_id
        shutil.rmtree(draft, ignore_errors=True)
        try:
            (draft / VERSIONS_DIR).mkdir(parents=True)
            for version in registered.versions.values():
                _create(draft / VERSIONS_DIR / _version_name(version.number), dump_version(version))
            _replace(draft / LIVE_FILE, dump_live(registered))
            _replace(draft / TEMPLATE_FILE, dump_template(registered.template))
            _sync_directory(draft)
            draft.rename(self._root / template_id)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # where it is still there, the disk may be full of it
        _sync_directory(self._root)

    def _add_together(self, folder: Path, versions: Sequence[PromptVersion]) -> None:
        """Add all of these versions or none: readers pass over those that a list names, until it is gone."""
        if versions:
            names = [_version_name(version.number) for version in versions]
            _replace(folder / _UNFINISHED, "\n".join(names).encode())
            for name, version in zip(names, versions, strict=True):
                _create(folder / name, dump_version(version))
            (folder / _UNFINISHED).unlink()
            _sync_directory(folder)

    def add_version(self, template_id: str, text: PromptText, *, model: str | None, origin: Origin) -> PromptVersion:
        """See PromptRegistry. Raises RegistryError, TemplateInvalidError."""
        with self._changing(template_id):
            registered = self.get(template_id)
            check_text(text, template=registered.template)
            version = PromptVersion(max(registered.versions) + 1, text, model, origin)
            folder = self._root / template_id / VERSIONS_DIR
            _create(folder / _version_name(version.number), dump_version(version))
        return version

    def make_live(self, template_id: str, change: Change) -> RegisteredTemplate:
        """See PromptRegistry. Raises RegistryError when there is no such template or version."""
        with self._changing(template_id):
            registered = make_live(self.get(template_id), change)
            _replace(self._root / template_id / LIVE_FILE, dump_live(registered))
        return registered

    def set_weight(self, template_id: str, change: Change) -> RegisteredTemplate:
        """See PromptRegistry."""
        with self._changing(template_id):
            registered = set_weight(self.get(template_id), change)
            _replace(self._root / template_id / LIVE_FILE, dump_live(registered))
        return registered

    @contextmanager
    def _changing(self, template_id: str) -> Generator[None]:
        locks = self._root / _LOCKS_DIR
        try:
            REGISTRY_SCHEMA.migrate(self._root)
            locks.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(locks / f"{check_template_id(template_id)}.lock", timeout=self._lock_timeout_s):
                _take_back_unfinished(self._root / template_id / VERSIONS_DIR)
                yield
        except filelock.Timeout as error:
            raise RegistryError(
                f"Template {template_id!r} is being changed by another process for more than "
                f"{self._lock_timeout_s:g} s: try again when it is done."
            ) from error
        except OSError as error:
            raise RegistryError(
                f"Template {template_id!r} cannot be written under {self._root} ({error.strerror or error}): mend that "
                "and try again. What was there is whole."
            ) from error

    def _template_ids(self) -> list[str]:
        try:
            with os.scandir(self._root) as entries:
                folders = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RegistryError(f"The prompt registry {self._root} cannot be read: {error}") from error
        return sorted(name for name in folders if _holds_something(self._root / name))

    def _read(self, template_id: str) -> RegisteredTemplate:
        folder = self._root / template_id
        _in_file(folder, lambda: check_template_id(template_id))
        facts = load_file(folder / TEMPLATE_FILE, TemplateRecord)
        template = _in_file(folder / TEMPLATE_FILE, lambda: facts.to_template(template_id))
        # Before the versions: whatever a publisher adds from here on, what this file names is already there.
        live = load_file(folder / LIVE_FILE, LiveRecord)
        versions = {
            number: self._read_version(number, path, template) for number, path in _version_files(folder / VERSIONS_DIR)
        }
        return live.to_registered(template, versions, where=str(folder / LIVE_FILE))

    def _read_version(self, number: int, path: Path, template: PromptTemplate) -> PromptVersion:
        try:
            signature = _signature(path)
        except OSError as error:
            raise RegistryError(f"{path}: {error.strerror or error}") from error
        known = self._parsed.get(path)
        record = known[1] if known is not None and known[0] == signature else load_file(path, VersionRecord)
        self._parsed[path] = (signature, record)
        written_at = datetime.fromtimestamp(signature[0] / 1e9, UTC).isoformat(timespec="seconds")
        return record.to_version(number, template=template, where=str(path), written_at=written_at)


_Value = TypeVar("_Value")


def _in_file(path: Path, check: Callable[[], _Value]) -> _Value:
    """What `check` returns; its TemplateInvalidError names the file as well."""
    try:
        return check()
    except TemplateInvalidError as error:
        raise TemplateInvalidError(f"{path}: {error}") from error


# Looking at the tree


def _signature(path: Path) -> _Signature:
    stat = path.stat(follow_symlinks=False)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _yaml_files(root: Path) -> list[Path]:
    """Every YAML file that counts, sorted; empty when there is no root."""
    found: list[Path] = []
    pending = [root]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    elif entry.name.endswith((".yaml", ".yml")):
                        found.append(Path(entry.path))
        except OSError:  # gone by now, or `load` will say what is wrong
            continue
    return sorted(found)


def _holds_something(folder: Path) -> bool:
    try:
        return any(not name.startswith(".") for name in os.listdir(folder))  # noqa: PTH208 names are all we need
    except FileNotFoundError:
        return False
    except OSError:
        return True  # reading it will say what is wrong


def _version_name(number: int) -> str:
    return f"{number:04d}.yaml"


def _version_files(folder: Path) -> list[tuple[int, Path]]:
    try:
        unfinished = _unfinished(folder)
        names = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and p.name[0] != ".")
        unfinished |= _unfinished(folder)
    except OSError as error:
        raise RegistryError(f"{folder}: {error.strerror or error}") from error
    names = [name for name in names if name not in unfinished]
    numbered: list[tuple[int, Path]] = []
    for name in names:
        matched = _VERSION_NAME.match(name)
        if matched is None or int(matched[1]) == 0 or name != _version_name(int(matched[1])):
            raise RegistryError(f"{folder / name}: a version's file is named by its number, as 0001.yaml: rename it.")
        numbered.append((int(matched[1]), folder / name))
    if not numbered:
        raise RegistryError(f"{folder}: there is no version here: add one as {_version_name(1)}.")
    return sorted(numbered)


def _unfinished(folder: Path) -> set[str]:
    try:
        return set((folder / _UNFINISHED).read_text().split())
    except FileNotFoundError:
        return set()


# Writing, with the template's lock held


def _take_back_unfinished(folder: Path) -> None:
    """Remove the versions that a killed writer was adding together."""
    for name in _unfinished(folder):
        if _VERSION_NAME.match(name):
            (folder / name).unlink(missing_ok=True)
    (folder / _UNFINISHED).unlink(missing_ok=True)


def _write_aside(path: Path, data: bytes) -> Path:
    """Put `data` on the disk beside `path`; what a killed writer left there is written over."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


def _replace(path: Path, data: bytes) -> None:
    _write_aside(path, data).replace(path)
    _sync_directory(path.parent)


def _create(path: Path, data: bytes) -> None:
    """Make a file that was not there. Raises RegistryError when it is there after all."""
    aside = _write_aside(path, data)
    try:
        path.hardlink_to(aside)  # unlike a rename, it never overwrites
    except FileExistsError as error:
        raise RegistryError(f"{path} exists already: versions are immutable, so it is left as it is.") from error
    finally:
        aside.unlink()
    _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

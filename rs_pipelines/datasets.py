"""Imported data sets, kept as immutable, content-addressed files."""

import hashlib
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from rs_gateway.adapters.file_schema import FileSchema
from rs_gateway.domain.chat import Message
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.prompts import check_template_id
from rs_pipelines.dataset_file import DatasetError, DatasetFile, Problem
from rs_pipelines.durable_files import sync_path, write_durably
from rs_pipelines.labelled_rows import LabelledRow
from rs_pipelines.sample import Split

DATASET_SCHEMA = FileSchema("folder of datasets", "dataset.base_path")
"""What the files look like as a whole, and how older ones get there. Forward only: append, never edit."""
_LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import changed.

    Attributes:
        added: inputs that were not known; corrected: known inputs with another label or a first split.
        duplicates: rows that said nothing new.
        problems: why rows were left out, in the order of their lines: faults of the file, and conflicts with what was
            imported before.
    """

    added: int
    corrected: int
    duplicates: int
    problems: tuple[Problem, ...]

    @property
    def skipped(self) -> int:
        """How many rows were left out."""
        return len(self.problems)


class DatasetStore:
    """Imported files under one folder: `<template_id>/NNNNNN-<hash>.jsonl`, numbered in the order of import."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, template_id: str, file: DatasetFile, *, skip_invalid: bool = False) -> ImportReport:
        """Import the rows of `file`; rows that say what is known already change nothing.

        A later file's label replaces an earlier one's for the same input, also back to what it was. A split that a
        file gave stays.

        Raises:
            DatasetError: the file has problems and `skip_invalid` is not set; nothing was imported.
        """
        check_template_id(template_id)
        with self._alone(template_id):
            known = {row.key: row for row in self.rows(template_id)}
            rows, moved = _split_keepers(file.rows, known)
            problems = sorted((*file.problems, *moved), key=lambda p: p.line)
            if problems and not skip_invalid:
                raise DatasetError(
                    f"Nothing was imported from {file.source}: {len(problems)} rows cannot be. Mend them, or "
                    "leave them out with --skip-invalid.",
                    problems,
                )
            # Of rows with the same input the last one counts, or two spellings of one label would change it every time.
            said = {row.key: row for row in rows}
            added = sum(key not in known for key in said)
            corrected = sum(key in known and _changes(row, known[key]) for key, row in said.items())
            if added or corrected:
                content = _content(rows)
                digest = hashlib.sha256(content).hexdigest()[:32]
                # The last label counts, so a file whose label comes back is kept once more, under the next number.
                number = max((int(path.stem.split("-")[0]) for path in self._files(template_id)), default=0) + 1
                write_durably(self.root / template_id / f"{number:06d}-{digest}.jsonl", content)
            return ImportReport(added, corrected, len(rows) - added - corrected, tuple(problems))

    def names(self, template_id: str) -> list[str]:
        """The files that were imported for a template, in their order."""
        return [path.name for path in self._files(check_template_id(template_id))]

    def take_back(self, template_id: str, rows: Sequence[LabelledRow], *, keep: Collection[str]) -> None:
        """Undo an import of exactly these rows, unless its file is one of those to keep."""
        digest = hashlib.sha256(_content(rows)).hexdigest()[:32]
        with self._alone(check_template_id(template_id)):
            for path in self._files(template_id):
                if path.stem.endswith(digest) and path.name not in keep:
                    path.unlink()
            sync_path(self.root / template_id)

    def rows(self, template_id: str) -> tuple[LabelledRow, ...]:
        """One row for each normalised input, with its latest label and the split that a file gave it, if any did.

        Raises:
            StoreError: a file was changed after its import. SchemaTooNewError: a newer program wrote them.
        """
        DATASET_SCHEMA.migrate(self.root)
        merged: dict[str, LabelledRow] = {}
        for path in self._files(check_template_id(template_id)):
            for row in _load(path):
                before = merged.get(row.key)
                merged[row.key] = row if before is None else replace(row, split=before.split or row.split)
        return tuple(merged.values())

    def count(self, template_id: str, keys: Collection[str]) -> int:
        """Imported rows of these normalised inputs. Raises StoreError."""
        return sum(row.key in keys for path in self._files(template_id) for row in _load(path))

    def forget(self, template_id: str, keys: Collection[str]) -> int:
        """Remove every row of these normalised inputs from the imported files; how many. Raises StoreError."""
        removed = 0
        with self._alone(template_id):
            for path in self._files(template_id):
                rows = list(_load(path))
                kept = [row for row in rows if row.key not in keys]
                if len(kept) == len(rows):
                    continue
                if kept:
                    content = b"".join(row.encoded() + b"\n" for row in kept)
                    digest = hashlib.sha256(content).hexdigest()[:32]
                    write_durably(path.with_name(f"{path.stem.split('-')[0]}-{digest}.jsonl"), content)
                path.unlink()
                removed += len(rows) - len(kept)
        return removed

    def _files(self, template_id: str) -> list[Path]:
        return sorted(p for p in (self.root / template_id).glob("*.jsonl") if re.match(r"\d{6}-[0-9a-f]{32}\Z", p.stem))

    @contextmanager
    def _alone(self, template_id: str) -> Generator[None]:
        folder = self.root / template_id
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".import.lock", timeout=_LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(f"Another import into {folder} is under way: try again when it has ended.") from error
        try:
            yield
        finally:
            lock.release()


class _StoredRow(msgspec.Struct):
    variables: dict[str, str]
    messages: list[Message]
    expected: str
    split: Split | None
    id: str | None


def _split_keepers(
    rows: Iterable[LabelledRow], known: Mapping[str, LabelledRow]
) -> tuple[list[LabelledRow], list[Problem]]:
    """The rows that leave every known input on its side, and why the others do not."""
    kept: list[LabelledRow] = []
    moved: list[Problem] = []
    for row in rows:
        before = known.get(row.key)
        if before is not None and before.split and row.split and before.split is not row.split:
            reason = (
                f"was imported as {before.split}: a row never changes sides, or the proof would be of rows seen before"
            )
            moved.append(Problem(row.line, reason))
        else:
            kept.append(row)
    return kept, moved


def _changes(row: LabelledRow, before: LabelledRow) -> bool:
    return row.expected != before.expected or (row.split is not None and before.split is None)


def _content(rows: Iterable[LabelledRow]) -> bytes:
    return b"".join(row.encoded() + b"\n" for row in rows)


def _load(path: Path) -> Iterator[LabelledRow]:
    content = path.read_bytes()
    if not path.stem.endswith(hashlib.sha256(content).hexdigest()[:32]):
        raise StoreError(
            f"{path} was changed after its import: imported files stay as they are. Move it away and import the "
            "changed rows as a file of their own."
        )
    for line in content.splitlines():
        row = msgspec.json.decode(line, type=_StoredRow)
        yield LabelledRow(row.variables, tuple(row.messages), row.expected, row.split, row.id)

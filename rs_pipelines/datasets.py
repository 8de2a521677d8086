"""Imported labelled files: read row by row with every fault named, kept as immutable, content-addressed files."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec
from filelock import FileLock, Timeout

from rs_gateway.adapters.file_schema import FileSchema
from rs_gateway.domain.chat import JsonValue, Message
from rs_gateway.domain.errors import RouteSwitchError, StoreError
from rs_gateway.domain.prompts import PromptTemplate, check_template_id
from rs_pipelines.durable_files import sync_path, write_durably
from rs_pipelines.inputs import input_key, normal_text
from rs_pipelines.sample import Split

MAX_LINE_BYTES = 1 << 20
"""A longer line is refused: it is a file without line ends far more often than one huge example."""
DATASET_SCHEMA = FileSchema("folder of datasets", "dataset.base_path")
"""What the files look like as a whole, and how older ones get there. Forward only: append, never edit."""
_KEYS = ("variables", "expected", "split", "id", "messages")
_CSV_OPTIONAL = ("split", "id")
_SHOWN_PROBLEMS = 20
_LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One imported input with its right output.

    Attributes:
        split: what the file says; None leaves it to the hash of the input.
        row_id: the file's own `id`; None when it has none.
        line: line in the file it was read from, from 1; 0 for rows that come from the store.
    """

    variables: Mapping[str, str]
    messages: tuple[Message, ...]
    expected: str
    split: Split | None = None
    row_id: str | None = None
    line: int = 0

    @property
    def key(self) -> str:
        """Hash of the normalised input."""
        return input_key(self.variables, self.messages)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one line cannot be imported; `line` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """What a file holds: the rows that are well, and why the others are not."""

    source: str
    rows: tuple[LabelledRow, ...]
    problems: tuple[Problem, ...]


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


class DatasetError(RouteSwitchError):
    """A labelled file cannot be read or holds rows that cannot be imported.

    Attributes:
        problems: all of them; the message shows the first ones.
    """

    code = "invalid_dataset"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        lines = [f"\n  line {p.line}: {p.reason}" for p in self.problems[:_SHOWN_PROBLEMS]]
        hidden = len(self.problems) - len(lines)
        super().__init__(message + "".join(lines) + (f"\n  and {hidden} more" if hidden > 0 else ""))


def read_dataset(path: Path, template: PromptTemplate) -> DatasetFile:
    """Read JSON Lines of `{"variables", "expected"}`, optionally `split`, `id` and `messages`; or CSV (`*.csv`).

    The first row of CSV names the columns: the template's variables and `expected`, optionally `split` and `id`.

    Numbers, true and false become their JSON text where text is meant; an `expected` object or list becomes compact
    JSON text. Empty lines do not count. Two rows with the same normalised input must not contradict each other.

    Raises:
        DatasetError: the file cannot be read at all; faulty rows are returned as problems instead.
    """
    rows: list[LabelledRow] = []
    problems: list[Problem] = []
    seen: dict[str, LabelledRow] = {}
    try:
        with path.open("rb") as file:
            for number, raw in _csv_lines(file, template) if path.suffix.lower() == ".csv" else _lines(file):
                try:
                    if (row := _read_row(number, raw, template)) is None:
                        continue
                    key = row.key
                    known = seen.get(key)
                    if known is not None:
                        _refuse_contradiction(row, known)
                        row = replace(row, split=row.split or known.split)
                    seen[key] = row
                    rows.append(row)
                except _BadRowError as error:
                    problems.append(Problem(number, str(error)))
                except RecursionError:
                    problems.append(Problem(number, "nested too deeply"))
                except UnicodeEncodeError:
                    reason = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
                    problems.append(Problem(number, reason))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    if not rows and not problems:
        problems.append(Problem(1, "the file holds no rows"))
    return DatasetFile(str(path), tuple(rows), tuple(problems))


def line_of(row: LabelledRow) -> str:
    """One line, without its end, that `read_dataset` reads as this row again."""
    content = {
        "variables": dict(row.variables),
        "messages": list(row.messages) or None,
        "expected": row.expected,
        "split": row.split,
        "id": row.row_id,
    }
    return json.dumps({name: value for name, value in content.items() if value is not None}, ensure_ascii=False)


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
                    content = b"".join(_encode(row) + b"\n" for row in kept)
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


class _BadRowError(Exception):
    """Why a row is refused; becomes a Problem."""


class _NumberText(str):
    """A JSON number as it was written: 12.50 stays 12.50."""

    __slots__ = ()


class _StoredRow(msgspec.Struct):
    variables: dict[str, str]
    messages: list[Message]
    expected: str
    split: Split | None
    id: str | None


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long only the beginning, one byte more than is allowed."""
    number, limit = 0, MAX_LINE_BYTES + 3  # \r\n, and one more
    while line := file.readline(limit):
        number += 1
        rest = line
        while len(rest) == limit and not rest.endswith(b"\n"):
            rest = file.readline(limit)
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            yield number, line[:2]  # UTF-16: one problem says it all
            return
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _csv_lines(file: BinaryIO, template: PromptTemplate) -> Iterator[tuple[int, bytes]]:
    """The rows of a CSV file as lines of JSON, each with the number of its last line. Raises DatasetError."""
    columns = (*template.variables, "expected", *_CSV_OPTIONAL)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        header = tuple(reader.fieldnames or ())
        if not {*template.variables, "expected"} <= {*header} <= {*columns} or len({*header}) < len(header):
            raise DatasetError(
                f"The first line of a CSV file names its columns, each once: {_quoted(columns[:-2])}, and if you like "
                f"{_quoted(_CSV_OPTIONAL)}. Here it names {_quoted(header) or 'none'}."
            )
        for cells in reader:
            if None in cells or None in cells.values():
                raise DatasetError(
                    f"Line {reader.line_num} has not as many cells as the first line names columns: put what holds a "
                    "comma into double quotes."
                )
            content = {name: cells[name] for name in ("expected", *_CSV_OPTIONAL) if cells.get(name)}
            row = {"variables": {name: cells[name] for name in template.variables}, **content}
            yield reader.line_num, json.dumps(row, ensure_ascii=False).encode()
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"The CSV file cannot be read: {error}. Save it as UTF-8, with commas.") from error
    finally:
        text.detach()  # or it would close the file, which belongs to the caller


def _read_row(number: int, raw: bytes, template: PromptTemplate) -> LabelledRow | None:
    """The row of one line, None for an empty one. Raises _BadRowError, RecursionError, UnicodeEncodeError."""
    raw = raw.rstrip(b"\r\n")
    if not raw.strip():
        return None
    if len(raw) > MAX_LINE_BYTES:
        raise _BadRowError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        value = _parse(raw.decode())
    except UnicodeDecodeError as error:
        raise _BadRowError(f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8") from error
    except ValueError as error:
        raise _BadRowError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _BadRowError(f"a row is a JSON object, not {_kind(value)}")
    if unknown := [key for key in value if key not in _KEYS]:
        raise _BadRowError(f"unknown key {_quoted(unknown)}: there are {_quoted(_KEYS)}")
    row = LabelledRow(
        variables=_variables(value.get("variables", {}), template),
        messages=_messages(value.get("messages", [])),
        expected=_expected(value.get("expected")),
        split=_split(value.get("split")),
        row_id=_row_id(value.get("id")),
        line=number,
    )
    if not row.variables and not row.messages:
        raise _BadRowError("there is no input: give `variables` or `messages`")
    _encode(row)
    return row


def _parse(text: str) -> JsonValue:
    def refuse_constant(name: str) -> JsonValue:
        raise ValueError(f"{name} is no JSON value")

    def unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is there twice")
        return made

    return json.loads(
        text,
        parse_int=_NumberText,
        parse_float=_NumberText,
        parse_constant=refuse_constant,
        object_pairs_hook=unique,
    )


def _variables(value: JsonValue, template: PromptTemplate) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _BadRowError(f"`variables` is an object, not {_kind(value)}")
    if missing := [name for name in template.variables if name not in value]:
        others = [name for name in value if name not in template.variables]
        instead = f"; it has {_quoted(others)}, which the template does not know" if others else ""
        raise _BadRowError(f"variable {_quoted(missing)} is missing{instead}")
    if extra := [name for name in value if name not in template.variables]:
        known = _quoted(template.variables) or "none"
        raise _BadRowError(f"the template has no variable {_quoted(extra)}: it has {known}")
    for name, item in value.items():
        if item is None or isinstance(item, dict | list):
            raise _BadRowError(f"variable {name!r} is {_kind(item)}: give it as text")
    return {name: _json_text(value[name]) if isinstance(value[name], bool) else str(value[name]) for name in value}


def _messages(value: JsonValue) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise _BadRowError(f"`messages` is a list, not {_kind(value)}")
    for position, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _BadRowError(f"message {position + 1} is no object with a `role`")
        if "content" not in message:
            raise _BadRowError(f"message {position + 1} has no `content`")
    try:
        return tuple(msgspec.json.decode(_json_text(message), type=dict[str, JsonValue]) for message in value)
    except msgspec.DecodeError as error:  # a number too large to be sent on
        raise _BadRowError(f"`messages`: {error}") from error


def _expected(value: JsonValue) -> str:
    text = "" if value is None else str(value) if isinstance(value, str) else _json_text(value)
    if not text.strip():
        raise _BadRowError("`expected` is missing or empty")
    return text


def _split(value: JsonValue) -> Split | None:
    if value is None:
        return None
    if isinstance(value, str) and value in tuple(Split):
        return Split(value)
    raise _BadRowError(f"`split` is train, val or test, not {_json_text(value)}")


def _row_id(value: JsonValue) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    raise _BadRowError(f"`id` is a string or a number, not {_kind(value)}")


def _refuse_contradiction(row: LabelledRow, known: LabelledRow) -> None:
    """Raise when a later row of the same file gives the same input another label or another split."""
    if normal_text(row.expected) != normal_text(known.expected):
        labels = f"{row.expected[:80]!r}, there {known.expected[:80]!r}"
        raise _BadRowError(f"the same input as line {known.line}, with another label: {labels}")
    if row.split is not None and known.split is not None and row.split is not known.split:
        raise _BadRowError(f"the same input as line {known.line}, in another split: {row.split}, there {known.split}")


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
    return b"".join(_encode(row) + b"\n" for row in rows)


def _encode(row: LabelledRow) -> bytes:
    content = {
        "variables": dict(sorted(row.variables.items())),
        "messages": list(row.messages),
        "expected": row.expected,
        "split": row.split,
        "id": row.row_id,
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


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


def _json_text(value: JsonValue) -> str:
    """Compact JSON text of a parsed value, its numbers as they were written."""
    if isinstance(value, _NumberText):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json_text(key)}:{_json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_json_text(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _NumberText):
        return "a number"
    return {dict: "an object", list: "a list"}.get(type(value), "a string")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

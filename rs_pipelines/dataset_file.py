"""A labelled file as people bring it, read row by row with every fault named: JSON Lines or CSV."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from rs_gateway.domain.chat import JsonValue, Message
from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.prompts import PromptTemplate
from rs_pipelines.inputs import normal_text
from rs_pipelines.labelled_rows import LabelledRow
from rs_pipelines.sample import Split

MAX_LINE_BYTES = 1 << 20
"""A longer line is refused: it is a file without line ends far more often than one huge example."""
_KEYS = ("variables", "expected", "split", "id", "messages")
_CSV_OPTIONAL = ("split", "id")
_SHOWN_PROBLEMS = 20


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


class _BadRowError(Exception):
    """Why a row is refused; becomes a Problem."""


class _NumberText(str):
    """A JSON number as it was written: 12.50 stays 12.50."""

    __slots__ = ()


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
    row.encoded()  # or it could not be stored
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

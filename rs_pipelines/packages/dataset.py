"""The labelled rows of a package, as SQLite and as Parquet; SQLite files from elsewhere are read with suspicion."""

import json
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import polars as pl

from rs_gateway.domain.chat import Message
from rs_gateway.domain.redaction import Redactor
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_pipelines.datasets import DatasetStore
from rs_pipelines.examples import gather
from rs_pipelines.inputs import example_id, split_of
from rs_pipelines.labelled_rows import LabelledRow
from rs_pipelines.lake import Lake
from rs_pipelines.packages.format import PackageError
from rs_pipelines.sample import VOUCHED_FOR, Split, Target

_MAX_CELL_BYTES = 16 * 2**20
_COLUMNS = ("id", "prompt_id", "model", "input", "output", "variables", "success", "cost", "metadata", "created_at")
_TABLE = (
    "CREATE TABLE examples (id TEXT PRIMARY KEY, prompt_id TEXT NOT NULL, model TEXT, input TEXT NOT NULL, "
    "output TEXT NOT NULL, variables TEXT NOT NULL, success INTEGER, cost REAL, metadata TEXT NOT NULL, "
    "created_at TEXT)"
)
"""The columns of the original system, so that what reads its packages reads ours."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A labelled row, and who vouches for its label: see Example.provenance."""

    row: LabelledRow
    provenance: str

    @property
    def is_label(self) -> bool:
        """Whether a person or an imported file says that it is right."""
        return self.provenance in VOUCHED_FOR


class _Metadata(msgspec.Struct):
    messages: list[Message]
    split: Split | None
    row_id: str | None
    provenance: str


def rows_of(
    registered: RegisteredTemplate, *, lake: Lake, datasets: DatasetStore, redactor: Redactor | None
) -> list[PackedRow]:
    """All labelled rows of a template: imported ones as they are, and one for each other input with a label.

    What the redactor takes out of an input could move it to another side of the split, so its side is written down.
    """
    template = replace(registered.template, reference=None)
    outputs = {number: version.text.output for number, version in registered.versions.items()}
    said = gather(Target(template.template_id, ""), template, lake=lake, datasets=datasets, outputs=outputs)
    rows = {row.key: PackedRow(row, "imported") for row in datasets.rows(template.template_id)}
    for example in said.examples:
        if example.provenance != "imported":
            found = LabelledRow(example.variables, example.messages, example.expected)
            before = rows.get(found.key)
            split = before.row.split if before is not None else None
            rows[found.key] = PackedRow(replace(found, split=split), example.provenance)
    if redactor is None:
        return list(rows.values())
    return list({packed.row.key: packed for packed in (_redacted(p, redactor) for p in rows.values())}.values())


def _redacted(packed: PackedRow, redactor: Redactor) -> PackedRow:
    row = packed.row
    cleaned = replace(
        row,
        variables={name: redactor.text(value) for name, value in row.variables.items()},
        messages=tuple(msgspec.convert(redactor.value(list(row.messages)), tuple[Message, ...])),
        expected=redactor.text(row.expected),
        row_id=None if row.row_id is None else redactor.text(row.row_id),
    )
    if cleaned.key != row.key and cleaned.split is None:
        cleaned = replace(cleaned, split=split_of(row.key))
    return replace(packed, row=cleaned)


def write_dataset(rows: Sequence[PackedRow], template_id: str, *, database: Path, parquet: Path) -> None:
    """Write both files."""
    database.parent.mkdir(parents=True, exist_ok=True)
    cells = [_cells(packed, template_id) for packed in rows]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(_TABLE)
        connection.executemany(f"INSERT INTO examples VALUES ({', '.join('?' * len(_COLUMNS))})", cells)  # noqa: S608
    numbers = {"success": pl.Int64(), "cost": pl.Float64()}
    schema = {name: numbers.get(name, pl.String()) for name in _COLUMNS}
    pl.DataFrame(cells, schema=schema, orient="row").write_parquet(parquet)


def _cells(packed: PackedRow, template_id: str) -> tuple[object, ...]:
    row = packed.row
    metadata = _Metadata(list(row.messages), row.split, row.row_id, packed.provenance)
    variables = json.dumps(dict(row.variables), ensure_ascii=False)
    texts = [str(m.get("content", "")) for m in row.messages] or list(row.variables.values())
    return (
        *(example_id(template_id, row.key), template_id, None, "\n".join(texts), row.expected, variables, 1, None),
        *(msgspec.json.encode(metadata).decode(), None),
    )


def read_dataset(database: Path, template_id: str) -> list[PackedRow]:
    """The rows that `write_dataset` wrote. Raises PackageError."""
    found: list[PackedRow] = []
    for number, row in enumerate(table_rows(database, ("prompt_id", "output", "variables", "metadata")), start=1):
        try:
            if row["prompt_id"] != template_id:
                raise ValueError("it is of another template")
            metadata = msgspec.json.decode(_text(row["metadata"]), type=_Metadata)
            variables = msgspec.json.decode(_text(row["variables"]), type=dict[str, str])
            labelled = LabelledRow(
                variables, tuple(metadata.messages), _text(row["output"]), metadata.split, metadata.row_id
            )
            if not labelled.expected.strip() or not (variables or metadata.messages):
                raise ValueError("it has no input or no output")
            # As the store will write it.
            _ = labelled.key, json.dumps([variables, metadata.messages, row["output"]], ensure_ascii=False).encode()
        except (ValueError, TypeError, msgspec.MsgspecError, RecursionError) as error:
            raise PackageError(f"Row {number} of the dataset cannot be read: {error}.") from error
        found.append(PackedRow(labelled, metadata.provenance))
    if len({packed.row.key for packed in found}) < len(found):
        raise PackageError("The dataset has the same input twice.")
    return found


def table_rows(database: Path, needed: Sequence[str]) -> Iterator[Mapping[str, object]]:
    """The rows of the table `examples` in a file that somebody else made, in their order; columns by name.

    Raises:
        PackageError: it is no SQLite file, is damaged, or holds more than plain tables and indices.
    """
    try:
        with _opened(database) as connection:
            objects = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
            for kind, name, sql in objects:
                virtual = str(sql).lstrip().upper().startswith("CREATE VIRTUAL")
                if kind not in ("table", "index") or virtual:
                    raise PackageError(f"{database.name} holds a {kind} {str(name)[:80]!r} that is no plain table.")
            if not any((kind, name) == ("table", "examples") for kind, name, _ in objects):
                raise PackageError(f"{database.name} has no table `examples`.")
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise PackageError(f"{database.name} is damaged: get the package again.")
            cursor = connection.execute("SELECT * FROM examples ORDER BY rowid")
            names = [column[0] for column in cursor.description]
            missing = [name for name in needed if name not in names]
            if missing:
                raise PackageError(f"{database.name}: the table `examples` has no column {', '.join(missing)}.")
            for row in cursor:
                yield dict(zip(names, row, strict=True))
    except (sqlite3.Error, UnicodeError) as error:
        raise PackageError(f"{database.name} cannot be read ({error}): get the package again.") from error


@contextmanager
def _opened(database: Path) -> Generator[sqlite3.Connection]:
    uri = f"{database.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        # Its schema is not ours: no functions of it run, and no cell takes all the memory.
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_CELL_BYTES)
        yield connection


def _text(cell: object) -> str:
    if not isinstance(cell, str):
        raise TypeError("a cell that should be text is none")
    return cell

"""Two plain ways to bring a trace store into something columnar, each in a process of its own.

python -m benchmarks.ingest_rivals polars STORE ROWS FOLDER        polars.read_database, then write_parquet
python -m benchmarks.ingest_rivals executemany STORE ROWS FOLDER   rows into a DuckDB file with executemany

Prints the seconds that it took.
"""

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import duckdb
import polars as pl

from rs_gateway.adapters.trace_rows import TRACE_COLUMNS

_QUERY = f"SELECT {', '.join(TRACE_COLUMNS)} FROM traces LEFT JOIN trace_payloads USING (trace_id) ORDER BY seq LIMIT "


def polars(store: Path, rows: int, folder: Path) -> None:
    """One query, one frame, one file."""
    with closing(sqlite3.connect(store)) as connection:
        frame = pl.read_database(f"{_QUERY}{rows}", connection, infer_schema_length=None)
    frame.write_parquet(folder / "polars.parquet")


def executemany(store: Path, rows: int, folder: Path) -> None:
    """All rows, handed to DuckDB one after the other, in one transaction."""
    with closing(sqlite3.connect(store)) as connection:
        found = connection.execute(f"{_QUERY}{rows}").fetchall()
    with closing(duckdb.connect(str(folder / "executemany.duckdb"))) as database:
        types = ("VARCHAR" if isinstance(value, str) else "DOUBLE" for value in found[0])
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(TRACE_COLUMNS, types, strict=True))
        database.execute(f"CREATE TABLE traces ({columns})")
        database.execute("BEGIN")
        database.executemany(f"INSERT INTO traces VALUES ({', '.join('?' * len(TRACE_COLUMNS))})", found)
        database.execute("COMMIT")


def main(arguments: list[str]) -> int:
    """See above."""
    match arguments:
        case ["polars" | "executemany" as name, store, rows, folder]:
            began = time.monotonic()
            (polars if name == "polars" else executemany)(Path(store), int(rows), Path(folder))
            print(time.monotonic() - began)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measures ingest, from a trace store that a gateway writes to into the lake. With `--help` it says how."""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

if not __package__:  # started as a file, it finds its siblings by the repository's root
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.ingest_beside_gateway import BesideGateway, ingest_beside_gateway
from benchmarks.processes import BenchmarkError

ROOT = Path(__file__).parents[1]
GOAL_ROWS_PER_S, GOAL_PEAK_MB = 80_000, 700
_POLARS_ROWS, _EXECUTEMANY_ROWS = 200_000, 2_000
_SMALL_LAKE_ROWS, _NEW_ROWS = 10_000, 1_000
_MANY_ROWS = 100_000
"""A run on fewer is a trial of the benchmark itself, with a single round of everything."""
_SAMPLE_S = 0.02
_WRITER_ALONE_S, _ROUNDS = 3.0, 5
_WORDS = """\
A trace store is filled with traces of about 2 KB, then `route-switch ingest` brings them into a new lake: once alone,
and once while another process appends traces as fast as the store takes them, with a text of their own each. Rates are
those of the command itself, without the start of Python; peak memory is the whole process's.

Beside it, on the first 200,000 rows, polars.read_database and write_parquet in one go; and on the first 2,000, DuckDB's
executemany into a file. Then what 1,000 more rows cost on a small lake and on the large one.

A million rows take about ten minutes to make and measure and need 6 GB in the temporary directory (TMPDIR).

With --gateway only this is measured: an ingest while `route-switch serve` answers on the same store as many requests
as 32 connections send, with the upstream, the load and all of it on this machine (Linux, with wrk and a C compiler).
"""
_EXAMPLES = """\
examples:
  python benchmarks/ingest.py --json
  python benchmarks/ingest.py --rows 100000      half a minute
  python benchmarks/ingest.py --gateway
"""


@dataclass(frozen=True)
class Ingested:
    """One run of `route-switch ingest`."""

    rows: int
    seconds: float
    peak_mb: float

    @property
    def rows_per_s(self) -> float:
        """Rows a second of ingest, without the start of the process."""
        return self.rows / self.seconds


@dataclass(frozen=True)
class Live:
    """What a process that wrote meanwhile has to say.

    Attributes:
        wal_mb, wal_alone_mb: the largest write-ahead log while the ingest ran, and while the writer was alone.
    """

    rows_per_s: float
    failed: int
    dropped: int
    wal_mb: float
    wal_alone_mb: float


@dataclass(frozen=True)
class Measured:
    """All figures; rates are rows a second, times seconds."""

    store_bytes_a_row: float
    lake_bytes_a_row: float
    alone: Ingested
    beside: Ingested
    live: Live
    polars: Ingested
    executemany: Ingested
    more_small_s: float
    more_large_s: float
    merged_s: float

    def as_json(self) -> dict[str, float]:
        """The figures for scripts: ours while a gateway writes, and alone to the others, who ran alone."""
        return {
            "rows": self.alone.rows,
            "rows_per_s": round(self.beside.rows_per_s),
            "peak_mb": round(max(self.alone.peak_mb, self.beside.peak_mb), 1),
            "vs_polars": round(self.alone.rows_per_s / self.polars.rows_per_s, 2),
            "vs_executemany": round(self.alone.rows_per_s / self.executemany.rows_per_s, 2),
        }


def measure(rows: int, folder: Path) -> Measured:
    """Fill a store in `folder` and measure everything. Raises BenchmarkError."""
    small, large = _Place(folder / "small"), _Place(folder / "large")
    rounds = _ROUNDS if rows >= _MANY_ROWS else 1
    say(f"making {rows:,} traces")
    large.fill(rows)
    store_bytes = large.store.stat().st_size / rows
    say("ingest, alone")
    alone = large.ingest()
    lake_bytes = sum(path.stat().st_size for path in large.lake.rglob("*.parquet")) / alone.rows
    say("polars.read_database")
    polars = _rival("polars", large, min(rows, _POLARS_ROWS))
    say("DuckDB executemany")
    executemany = _rival("executemany", large, min(rows, _EXECUTEMANY_ROWS))
    say("ingest, while another process writes")
    shutil.rmtree(large.lake)
    with _writer(large) as writer:
        with _wal_watch(large) as alone_wal:
            time.sleep(_WRITER_ALONE_S * rounds / _ROUNDS)
        with _wal_watch(large) as wal:
            beside = large.ingest()
        live = writer.told(wal_mb=max(wal) / 1e6, wal_alone_mb=max(alone_wal) / 1e6)
    say("1,000 more rows")
    small.fill(min(rows, _SMALL_LAKE_ROWS))
    small.ingest()
    large.ingest()
    more_small, more_large = _cost_of_more(small, rounds), _cost_of_more(large, rounds)
    began = time.monotonic()
    large.compact()
    merged = time.monotonic() - began
    return Measured(store_bytes, lake_bytes, alone, beside, live, polars, executemany, more_small, more_large, merged)


def measure_beside_gateway(rows: int, folder: Path) -> BesideGateway[Ingested]:
    """Ingest so many rows while a gateway serves on the same store. Raises BenchmarkError."""
    say(f"making {rows:,} traces; then a gateway, its load, and an ingest")
    return ingest_beside_gateway(folder, lambda store: _fill(store, rows), _ingest)


class _Place:
    """A configuration with a trace store and a lake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self.lake = folder / "data/traces.db", folder / "data/lake"
        self._config = folder / "route-switch.yaml"
        folder.mkdir(parents=True)
        self._config.write_text("data_dir: data\n")

    def fill(self, rows: int) -> None:
        _fill(self.store, rows)

    def ingest(self) -> Ingested:
        return _ingest(self._config)

    def compact(self) -> None:
        _route_switch_ingest(self._config, "--compact")


def _fill(store: Path, rows: int) -> None:
    _run([sys.executable, "-m", "benchmarks.trace_store", "fill", str(store), str(rows)])


def _ingest(config: Path) -> Ingested:
    found, peak_mb = _route_switch_ingest(config)
    return Ingested(int(found["rows"]), float(found["seconds"]), peak_mb)


def _route_switch_ingest(config: Path, *options: str) -> tuple[dict[str, float], float]:
    command = [sys.executable, "-m", "rs_gateway", "ingest", "--json", "--config", str(config), *options]
    out, peak_mb = _run(command, {"OPENAI_API_KEY": "none-needed"})
    return json.loads(out.splitlines()[-1]), peak_mb


class _Writer:
    """A process that appends traces until it is told to stop."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def told(self, *, wal_mb: float, wal_alone_mb: float) -> Live:
        """Stop it, and what it has to say."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise BenchmarkError(f"The process that writes ended with {self._process.returncode}.")
        said = json.loads(out.splitlines()[-1])
        return Live(said["rows"] / said["seconds"], said["failed"], said["dropped"], wal_mb, wal_alone_mb)


@contextmanager
def _writer(place: _Place) -> Generator[_Writer]:
    before = _newest(place.store)
    command = [sys.executable, "-m", "benchmarks.trace_store", "write", str(place.store)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        while _newest(place.store) == before:
            if process.poll() is not None:
                raise BenchmarkError(f"The process that writes ended with {process.returncode} before it wrote.")
            time.sleep(_SAMPLE_S)
        yield _Writer(process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def _wal_watch(place: _Place) -> Generator[list[int]]:
    """Sizes of the write-ahead log from now on, in bytes."""
    wal, sizes, ended = place.store.with_name("traces.db-wal"), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_S):
            if wal.exists():
                sizes.append(wal.stat().st_size)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def _newest(store: Path) -> int:
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
        (newest,) = connection.execute("SELECT max(seq) FROM traces").fetchone()
    return newest or 0


def _cost_of_more(place: _Place, rounds: int) -> float:
    seconds: list[float] = []
    for _ in range(rounds):
        place.fill(_NEW_ROWS)
        found = place.ingest()
        if found.rows != _NEW_ROWS:
            raise BenchmarkError(f"An ingest of {_NEW_ROWS} new rows brought {found.rows}.")
        seconds.append(found.seconds)
    return median(seconds)


def _rival(name: str, place: _Place, rows: int) -> Ingested:
    command = [sys.executable, "-m", "benchmarks.ingest_rivals", name, str(place.store), str(rows), str(place.folder)]
    out, peak_mb = _run(command)
    return Ingested(rows, float(out), peak_mb)


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, float]:
    """Its output and its peak memory in 10^6 bytes."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, env=os.environ | (environment or {}))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise BenchmarkError(f"{' '.join(command[1:4])} ended with {process.returncode}: {err.read()[-2_000:]}")
        unit = 1 if sys.platform == "darwin" else 1024
        return out.read(), usage.ru_maxrss * unit / 1e6


def table(found: Measured) -> str:
    """What a person reads."""
    figures = found.as_json()
    live = found.live
    met = {True: "met", False: "missed"}
    lines = [
        f"{'':38}{'rows':>12}{'rows/s':>12}{'peak MB':>10}",
        *(
            f"{name:38}{run.rows:12,}{run.rows_per_s:12,.0f}{run.peak_mb:10,.0f}"
            for name, run in (
                ("ingest, alone", found.alone),
                ("ingest, while another process writes", found.beside),
                ("polars.read_database, write_parquet", found.polars),
                ("DuckDB executemany", found.executemany),
            )
        ),
        "",
        f"rows/s while another process writes, at least {GOAL_ROWS_PER_S:,}: "
        f"{met[figures['rows_per_s'] >= GOAL_ROWS_PER_S]}",
        f"peak MB, under {GOAL_PEAK_MB}: {met[figures['peak_mb'] < GOAL_PEAK_MB]}",
        f"the other process: {live.rows_per_s:,.0f} rows/s, {live.failed:.0f} failed writes, {live.dropped:.0f} rows "
        f"dropped; write-ahead log at most {live.wal_mb:.1f} MB, {live.wal_alone_mb:.1f} MB without the ingest",
        f"{_NEW_ROWS:,} more rows: {found.more_small_s * 1000:.0f} ms on a lake of {_SMALL_LAKE_ROWS:,}, "
        f"{found.more_large_s * 1000:.0f} ms on this one",
        f"--compact afterwards: {found.merged_s:.1f} s with the start of Python",
        f"bytes a row: {found.store_bytes_a_row:,.0f} in the store, {found.lake_bytes_a_row:,.0f} in the lake",
    ]
    return "\n".join(lines)


def words_beside_gateway(found: BesideGateway[Ingested]) -> str:
    """What a person reads of it."""
    return (
        f"ingest: {found.ingested.rows:,} rows, {found.ingested.rows_per_s:,.0f} rows/s, peak "
        f"{found.ingested.peak_mb:,.0f} MB\n"
        f"gateway: {found.beside_per_s:,.0f} requests/s meanwhile ({found.answered:,}, none failed), "
        f"{found.alone_per_s:,.0f} without it\n"
        f"afterwards: {found.stored:,} traces in the store, none dropped, and after one more ingest as many in the lake"
    )


def say(line: str) -> None:
    """Progress, for whoever waits."""
    print(f"... {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong usage, 130 stopped."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/ingest.py",
        description=f"Measure ingest beside plain ways to do it.\n\n{_WORDS}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=_whole, default=1_000_000, metavar="N", help="in the store; default 1000000")
    parser.add_argument("--gateway", action="store_true", help="ingest while a gateway serves, and nothing else")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="route-switch-bench-") as folder:
            if options.gateway:
                beside = measure_beside_gateway(options.rows, Path(folder))
                print(words_beside_gateway(beside))
                if options.json:
                    print(json.dumps(asdict(beside)))
                return 0
            found = measure(options.rows, Path(folder))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(table(found))
    if options.json:
        print(json.dumps(found.as_json()))
    return 0


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

"""A long reader lets the write-ahead log begin anew, and waits for nothing else."""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from rs_gateway.adapters import sqlite_wal
from rs_gateway.adapters.sqlite_wal import LogPatience

LARGE = 20 * 2**20


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_time(_: float) -> None:
        raise AssertionError("nothing is to be waited for")

    monkeypatch.setattr(time, "sleep", no_time)


def log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def write(connection: sqlite3.Connection, n_bytes: int) -> None:
    with connection:
        connection.execute("INSERT INTO texts VALUES (zeroblob(?))", (n_bytes,))


def test_a_log_that_a_reader_made_grow_begins_anew_while_the_reader_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "_LONGEST_PAUSE_S", 60)  # it ends as soon as the log has begun anew
    path, told = tmp_path / "traces.db", threading.Event()
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE texts (text)")
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM texts").fetchall()
            for _ in range(20):
                write(writer, LARGE // 20)
            assert log_of(path).stat().st_size > LARGE
            header = log_of(path).read_bytes()[:32]

        def write_on() -> None:
            with closing(sqlite3.connect(path)) as connection:
                while not told.is_set():
                    write(connection, 10)

        thread = threading.Thread(target=write_on)
        thread.start()
        LogPatience(path).pause()
        told.set()
        thread.join()
        assert log_of(path).read_bytes()[:32] != header


@pytest.mark.usefixtures("hurry")
def test_a_small_log_or_none_is_not_waited_for(tmp_path: Path) -> None:
    patience = LogPatience(tmp_path / "traces.db")
    patience.pause()
    log_of(tmp_path / "traces.db").write_bytes(b"x" * 1_000)
    patience.pause()


def test_a_log_to_which_nobody_writes_is_waited_for_once_and_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log_of(tmp_path / "traces.db").open("wb") as log:
        log.truncate(LARGE)
    pauses: list[float] = []
    clock = iter(range(100))
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 10)
    patience = LogPatience(tmp_path / "traces.db")
    patience.pause()
    assert 1 < len(pauses) < 10
    waited = len(pauses)
    patience.pause()
    assert len(pauses) == waited

"""The access store as a file: what can happen to it."""

import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.adapters.sqlite_access_schema import MIGRATIONS
from rs_gateway.domain.access import ClientKey
from rs_gateway.domain.errors import SchemaTooNewError, StoreError
from tests.access_fakes import NOON

KEY = ClientKey("k1", "shop", NOON, "ann")


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_a_store_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "access.db"
    SqliteAccessStore(path).close()
    execute(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(SchemaTooNewError, match=r"access\.db has schema 2.*upgrade route-switch"):
        SqliteAccessStore(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "access.db"
    path.write_bytes(b"no database " * 100)
    with pytest.raises(StoreError, match=r"damaged or no SQLite database.*restore a backup"):
        SqliteAccessStore(path)


def test_a_path_that_cannot_be_written_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file.access\.db cannot be used"):
        SqliteAccessStore(tmp_path / "file" / "access.db")


def test_a_row_that_a_person_spoilt_is_an_error_and_no_crash(tmp_path: Path) -> None:
    store = SqliteAccessStore(tmp_path / "access.db")
    store.create(KEY, secret_hash=b"1" * 32)
    execute(tmp_path / "access.db", "UPDATE keys SET budget_period = 'week'")
    with pytest.raises(StoreError, match="'week'"):
        store.records(now_s=NOON)
    execute(tmp_path / "access.db", "UPDATE keys SET budget_period = 'day', templates = '[1, {]'")
    with pytest.raises(StoreError, match="holds what no program wrote"):
        store.records(now_s=NOON)
    store.close()


def test_a_locked_store_is_an_error_and_works_again_afterwards(tmp_path: Path) -> None:
    store = SqliteAccessStore(tmp_path / "access.db", busy_timeout_s=0.05)
    blocker = sqlite3.connect(tmp_path / "access.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.create(KEY, secret_hash=b"1" * 32)
    blocker.execute("ROLLBACK")
    blocker.close()
    store.create(KEY, secret_hash=b"1" * 32)
    assert [record.key for record in store.records(now_s=NOON)] == [KEY]
    store.close()


def test_a_restored_backup_is_read_anew_and_whole(tmp_path: Path) -> None:
    path, backup = tmp_path / "access.db", tmp_path / "backup.db"
    store = SqliteAccessStore(path)
    store.create(KEY, secret_hash=b"1" * 32)
    store.close()
    backup.write_bytes(path.read_bytes())
    store.create(ClientKey("k2", "later", NOON, "ann"), secret_hash=b"2" * 32)
    picture = store.exchange("w", batch=None, in_flight=None, now_s=NOON, since=None)
    assert len(picture.records) == 2
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    backup.replace(path)
    restored = store.exchange("w", batch=None, in_flight=None, now_s=NOON, since=picture.mark)
    assert restored.whole
    assert [record.key for record in restored.records] == [KEY]
    store.close()


def test_processes_that_start_at_once_make_one_store(tmp_path: Path) -> None:
    path = tmp_path / "access.db"
    program = (
        "import sys; from pathlib import Path; from rs_gateway.adapters.sqlite_access import SqliteAccessStore\n"
        "from rs_gateway.domain.access import ClientKey\n"
        "store = SqliteAccessStore(Path(sys.argv[1]), busy_timeout_s=30)\n"
        "store.create(ClientKey(sys.argv[2], 'shop', 1.0, 'ann'), secret_hash=sys.argv[2].encode() * 16)\n"
    )
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(subprocess.run, [sys.executable, "-c", program, str(path), f"k{n}"], check=True)
            for n in range(4)
        ]
        for run in runs:
            run.result()
    store = SqliteAccessStore(path)
    assert {record.key.key_id for record in store.records(now_s=NOON)} == {"k0", "k1", "k2", "k3"}
    store.close()


def test_a_worker_that_is_killed_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "access.db"
    store = SqliteAccessStore(path)
    store.create(KEY, secret_hash=b"1" * 32)
    program = (
        "import itertools, sys; from pathlib import Path\n"
        "from rs_gateway.adapters.sqlite_access import SqliteAccessStore\n"
        "from rs_gateway.domain.access_store import KeyUsage, UsageBatch, UsageDelta\n"
        f"store, at_s = SqliteAccessStore(Path(sys.argv[1])), {NOON}\n"
        "for n in itertools.count(1):\n"
        "    batch = UsageBatch(n, at_s, {'k1': UsageDelta(KeyUsage(1, 1, 0.5, 1), 2.0, 0.0)})\n"
        "    store.exchange('w', batch=batch, in_flight={'k1': 1}, now_s=at_s, since=None)\n"
        "    print(n, flush=True)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    lines = [worker.stdout.readline() for _ in range(50)]
    worker.send_signal(signal.SIGKILL)
    lines += worker.stdout.readlines()
    worker.stdout.close()
    worker.wait()
    told = max(int(line) for line in lines if line.endswith("\n"))
    (record,) = store.records(now_s=NOON)
    total = record.usage["total"]
    assert told <= total.requests <= told + 1
    assert (total.tokens, total.cost_usd, total.unpriced_requests) == (
        *(total.requests, 0.5 * total.requests, total.requests),
    )
    assert record.requests_full_at_s == NOON + 2.0 * total.requests
    store.close()

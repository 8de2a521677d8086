"""Backups: one consistent set while everything is being written, whole or not at all, verified, never in the way."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.adapters.sqlite_copy import StoreInUseError
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.access import ClientKey
from rs_gateway.domain.errors import SchemaTooNewError, StoreError
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.unfinished_restore import refuse_half_restored
from rs_pipelines import restore as restoring
from rs_pipelines.answers import AnswerCache, ModelAnswer
from rs_pipelines.backup import back_up
from rs_pipelines.backup_catalog import BackupError, Catalog
from rs_pipelines.durable_files import write_durably
from rs_pipelines.lake import Lake
from rs_pipelines.lake_manifest import LakeCorruptError
from rs_pipelines.lake_schema import TRACES
from rs_pipelines.restore import check_backup, restore
from rs_pipelines.sample import Target
from rs_pipelines.store_parts import parts_of
from rs_pipelines.workbench import Workbench
from tests.commands import from_json, ok
from tests.pipelines.parcels import LIVE, ORIGIN
from tests.running import eventually, write_configuration
from tests.small_disks import small_disk
from tests.trace_files import a_trace, counted, ids, opened, some_feedback

ROOT = Path(__file__).parents[2]
MADE_AT = "2026-05-01T00:00:00+00:00"
WRITER = """
import sys, time
from pathlib import Path
from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.traces import Outcome, Trace, TracePayload, Usage

store = SqliteTraceStore(Path(sys.argv[1]), limits=WriterLimits(queue_rows=2_000))
text = "x" * 2_000
number = 0
while True:
    if store.health().queued < 1_500:
        for _ in range(100):
            payload = TracePayload(({"role": "user", "content": text},), {}, {}, (), None)
            trace = Trace(f"t{number}", 1.0, "m", Outcome.COMPLETE, False, 0.1, Usage.unknown(), payload=payload)
            store.append(trace)
            number += 1
    else:
        time.sleep(0.001)
"""


@contextmanager
def writing_at_full_speed(path: Path) -> Generator[None]:
    """Another process that writes traces as fast as it can."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT) as process:
        try:
            eventually(lambda: len(ids(path)) > 1_000, timeout_s=30)
            yield
            assert process.poll() is None, "it was writing all the time"
        finally:
            process.kill()


@contextmanager
def going_on(work: Callable[[int], None]) -> Generator[list[int]]:
    """Call `work` with 1, 2, 3 ... in a thread until the block ends; the list holds the last number that is done."""
    stopped, done = threading.Event(), [0]

    def run() -> None:
        while not stopped.is_set():
            work(done[0] + 1)
            done[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
        assert thread.is_alive(), "the work failed"
    finally:
        stopped.set()
        thread.join()


def bench_at(folder: Path) -> Workbench:
    folder.mkdir(exist_ok=True)
    return Workbench.at(write_configuration(folder, {}))


def backed_up(bench: Workbench, target: Path, **options: Any) -> Catalog:
    parts, _ = parts_of(bench.settings)
    return back_up(
        parts,
        target,
        data=bench.data,
        configuration=bench.settings.config_path,
        program="0",
        made_at=MADE_AT,
        **options,
    )


def brought_back(backup: Path, bench: Workbench, *, overwrite: bool = False) -> None:
    parts, _ = parts_of(bench.settings)
    restore(backup, check_backup(backup), parts, data=bench.data, overwrite=overwrite)


def filled(folder: Path) -> Workbench:
    """A bench with something in every store."""
    bench = bench_at(folder)
    template = PromptTemplate("parcels", "Parcels", ("message",), {"name": "exact_match"})
    bench.registry.register(template, LIVE, origin=ORIGIN)
    with opened(bench.data / "traces.db") as store:
        store.append(a_trace("01A"))
    with closing(SqliteAccessStore(bench.data / "access.db")) as access:
        access.create(ClientKey("k1", "shop", 1.0, "tests"), secret_hash=b"hash")
    with closing(SqliteTraceReader(bench.data / "traces.db")) as reader:
        bench.lake.ingest(reader)
    with closing(AnswerCache(bench.data / "cache" / "answers.db")) as cache:
        cache.put("key", ModelAnswer("hello", "stop", 3, 4))
    write_durably(bench.data / "studies" / "parcels@tiny" / "s1" / "study.json", b"{}")
    write_durably(bench.data / "studies" / "parcels@tiny" / "latest", b"s1")
    write_durably(bench.data / "samples" / "parcels@tiny" / "latest", b"c1")
    write_durably(bench.data / "datasets" / "parcels" / "000001-0.jsonl", b"{}\n")
    (bench.data / "studies" / "parcels@tiny" / ".lock").touch()
    return bench


def contents(root: Path) -> dict[str, bytes]:
    """Every visible file of the folders, and what the databases hold."""
    found = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "/." not in str(path.relative_to(root.parent)) and ".db" not in path.name
    }
    for path in root.rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            found[path.relative_to(root).as_posix()] = "\n".join(connection.iterdump()).encode()
    return found


def test_what_is_restored_elsewhere_is_what_was_backed_up(tmp_path: Path) -> None:
    bench = filled(tmp_path / "old")
    catalog = backed_up(bench, tmp_path / "backup")
    assert list(catalog.parts) == [
        *("prompts", "studies", "samples", "datasets", "answers.db", "lake", "traces.db", "access.db")
    ]
    new = bench_at(tmp_path / "new")
    brought_back(tmp_path / "backup", new)
    assert contents(new.data) == contents(bench.data)
    assert not list(new.data.glob(".*")), "nothing of the restore itself is left"
    with closing(SqliteTraceReader(new.data / "traces.db")) as reader:
        assert new.lake.ingest(reader).rows == 0


def test_a_backup_is_as_private_as_the_traces_in_it(tmp_path: Path) -> None:
    backed_up(filled(tmp_path / "bench"), tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "backup" / "traces.db").stat().st_mode & 0o777 == 0o600


def test_each_backup_under_full_load_is_one_moment_of_the_trace_store(tmp_path: Path) -> None:
    bench = bench_at(tmp_path / "bench")
    with writing_at_full_speed(bench.data / "traces.db"):
        sizes: list[int] = []
        for number in range(3):
            copy = tmp_path / f"backup-{number}" / "traces.db"
            backed_up(bench, copy.parent)
            stored = ids(copy)
            assert stored == [f"t{n}" for n in range(len(stored))]
            assert counted(copy) == len(stored), "the figures are of the same moment"
            sizes.append(len(stored))
        wal_bytes = (bench.data / "traces.db-wal").stat().st_size
    assert 1_000 <= sizes[0] < sizes[1] < sizes[2]
    assert wal_bytes < 100 * 2**20, "no write-ahead log was left to grow"


def test_no_backup_holds_a_version_without_the_study_that_proved_it(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    registry = PromptFiles(bench.data / "prompts")

    def publish(number: int) -> None:
        study = bench.data / "studies" / "parcels@tiny" / f"study-{number}"
        write_durably(study / "study.json", b"{}")
        write_durably(study.parent / "latest", study.name.encode())
        text = type(LIVE)(f"{LIVE.instruction} Take {number}.", LIVE.user)
        registry.add_version("parcels", text, model="tiny", origin=type(ORIGIN)("study", "x", MADE_AT, study.name))

    with going_on(publish) as published:
        for number in range(5):
            backup = tmp_path / f"backup-{number}"
            backed_up(bench, backup)
            studies = {path.name for path in (backup / "studies" / "parcels@tiny").iterdir()}
            assert (backup / "studies" / "parcels@tiny" / "latest").read_text() in studies
            for version in PromptFiles(backup / "prompts").get("parcels").versions.values():
                assert version.origin.study_id is None or version.origin.study_id in studies
    assert published[0] > 5


def test_the_lake_of_a_backup_goes_on_from_the_traces_beside_it(tmp_path: Path) -> None:
    bench = bench_at(tmp_path / "bench")
    path = bench.data / "traces.db"
    with opened(path, limits=WriterLimits(flush_interval_s=0.001)) as store:

        def trace_and_ingest(number: int) -> None:
            store.append(a_trace(f"{number:026d}"))
            with closing(SqliteTraceReader(path)) as reader:
                Lake(bench.data / "lake").ingest(reader)

        with going_on(trace_and_ingest) as ingested:
            for number in range(8):
                backup = tmp_path / f"backup-{number}"
                backed_up(bench, backup)
                if not (backup / "traces.db").exists():
                    continue
                with closing(SqliteTraceReader(backup / "traces.db")) as reader:
                    lake = Lake(backup / "lake")
                    lake.ingest(reader)
                assert sorted(lake.traces(["trace_id"]).collect()["trace_id"]) == sorted(ids(backup / "traces.db"))
        assert ingested[0] > 8


def test_a_backup_that_is_killed_leaves_nothing_under_its_name_and_the_next_one_succeeds(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")

    def killed(part: str, done: int, total: int) -> None:
        if part == "lake":
            raise KeyboardInterrupt

    parts, _ = parts_of(bench.settings)
    place, data = bench.settings.config_path, bench.data
    with pytest.raises(KeyboardInterrupt):
        back_up(parts, tmp_path / "b", data=data, configuration=place, program="0", made_at=MADE_AT, on_copied=killed)
    assert not (tmp_path / "b").exists()
    (tmp_path / ".b.partial").mkdir()  # as after `kill -9`
    (tmp_path / ".b.partial" / "traces.db").write_text("half")
    backed_up(bench, tmp_path / "b")
    check_backup(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "bench"]


def test_a_backup_that_is_killed_while_it_replaces_another_leaves_the_other_one_to_be_used(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    backed_up(bench, tmp_path / "b")
    before = contents(tmp_path / "b")
    # As after `kill -9` between the two renames.
    (tmp_path / "b").rename(tmp_path / ".b.replaced")
    (tmp_path / ".b.partial").mkdir()

    with pytest.raises(BackupError, match=r"no backup.* being replaced: the earlier backup is .*/\.b\.replaced"):
        check_backup(tmp_path / "b")
    check_backup(tmp_path / ".b.replaced")
    with pytest.raises(BackupError, match="is a backup already"):
        backed_up(bench, tmp_path / "b")
    assert contents(tmp_path / "b") == before
    backed_up(bench, tmp_path / "b", overwrite=True)
    check_backup(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "bench"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    backed_up(bench, tmp_path / "b")
    with pytest.raises(BackupError, match=r"is a backup already.*--overwrite"):
        backed_up(bench, tmp_path / "b")
    with opened(bench.data / "traces.db") as store:
        store.append(a_trace("01B"))
    backed_up(bench, tmp_path / "b", overwrite=True)
    assert ids(tmp_path / "b" / "traces.db") == ["01A", "01B"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(BackupError, match="is no backup"):
        backed_up(bench, tmp_path / "mine", overwrite=True)

    before = contents(bench.data)
    with pytest.raises(BackupError, match=r"something already.*prompts.*traces\.db.*--overwrite"):
        brought_back(tmp_path / "b", bench)
    assert contents(bench.data) == before


def damage(backup: Path, what: str) -> None:
    match what:
        case "a byte of a database":
            path = backup / "traces.db"
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        case "a file lost":
            (backup / "lake" / "manifest.json").unlink()
        case "a file added":
            (backup / "prompts" / "parcels" / "more.yaml").touch()
        case "half a catalog":
            (backup / "backup.json").write_text("{")
        case "a byte of the catalog":
            path = backup / "backup.json"
            path.write_bytes(path.read_bytes().replace(b"2026", b"\xff026"))
        case _:
            (backup / "backup.json").unlink()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("a byte of a database", r"traces\.db was changed"),
        ("a file lost", "lake/manifest.json is missing"),
        ("a file added", "parcels/more.yaml does not belong"),
        ("half a catalog", "damaged"),
        ("a byte of the catalog", "damaged"),
        ("no catalog", "is no backup"),
    ],
)
def test_a_backup_that_is_not_what_it_was_is_refused_by_name(tmp_path: Path, what: str, words: str) -> None:
    backed_up(filled(tmp_path / "bench"), tmp_path / "b")
    damage(tmp_path / "b", what)
    with pytest.raises(BackupError, match=words):
        brought_back(tmp_path / "b", bench_at(tmp_path / "new"))
    assert not (tmp_path / "new" / "data").exists()


def test_a_backup_of_a_newer_program_is_refused_with_both_versions(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    with closing(sqlite3.connect(bench.data / "access.db")) as connection:
        connection.execute("PRAGMA user_version = 77")
    backed_up(bench, tmp_path / "b")
    with pytest.raises(SchemaTooNewError, match=r"schema 77.*knows up to \d+: upgrade route-switch"):
        check_backup(tmp_path / "b")
    catalog = json.loads((tmp_path / "b" / "backup.json").read_text())
    (tmp_path / "b" / "backup.json").write_text(json.dumps({**catalog, "format": 9}))
    with pytest.raises(SchemaTooNewError, match=r"format 9.*knows up to 1: upgrade route-switch"):
        check_backup(tmp_path / "b")


def test_a_damaged_store_is_not_backed_up_and_can_be_replaced_by_an_earlier_backup(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    backed_up(bench, tmp_path / "good")
    path = bench.data / "traces.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"traces\.db"):
        backed_up(bench, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    brought_back(tmp_path / "good", bench, overwrite=True)
    assert ids(path) == ["01A"]


def test_a_restore_over_something_newer_leaves_only_the_set_that_was_backed_up(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    shutil.rmtree(bench.data / "studies")
    before = contents(bench.data)
    backed_up(bench, tmp_path / "b")
    write_durably(bench.data / "studies" / "parcels@tiny" / "s2" / "study.json", b"{}")
    with opened(bench.data / "traces.db") as store:
        store.append(a_trace("01B"))
    with closing(SqliteTraceReader(bench.data / "traces.db")) as reader:
        bench.lake.ingest(reader)
    brought_back(tmp_path / "b", bench, overwrite=True)
    assert contents(bench.data) == before


def test_a_restore_that_puts_older_client_keys_in_the_place_of_others_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = filled(tmp_path / "bench")
    (bench.data / "access.db").unlink()
    backed_up(bench, tmp_path / "b")
    monkeypatch.chdir(tmp_path / "bench")
    assert "client keys are those of then" not in ok("restore", "../b", "--overwrite").stderr
    ok("keys", "create", "shop")
    said = ok("restore", "../b", "--overwrite").stderr
    assert "where there was none yet, everybody who reaches the gateway may use it" in said
    assert from_json("keys", "list") == []


def test_a_restore_is_refused_while_somebody_has_a_store_open(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    backed_up(bench, tmp_path / "b")
    before = (bench.data / "traces.db").stat().st_ino, (bench.data / "prompts").stat().st_ino
    with (
        opened(bench.data / "traces.db"),
        pytest.raises(StoreInUseError, match=r"traces\.db is in use.*stop the gateway"),
    ):
        brought_back(tmp_path / "b", bench, overwrite=True)
    assert ((bench.data / "traces.db").stat().st_ino, (bench.data / "prompts").stat().st_ino) == before
    brought_back(tmp_path / "b", bench, overwrite=True)


def test_a_restore_is_refused_while_a_target_is_being_optimised(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    backed_up(bench, tmp_path / "b")
    before = contents(bench.data)
    with (
        bench.studies.lock(Target("parcels", "tiny")),
        pytest.raises(StoreInUseError, match=r"studies/parcels@tiny is in use: wait for the run"),
    ):
        brought_back(tmp_path / "b", bench, overwrite=True)
    assert contents(bench.data) == before


def test_a_backup_is_whole_while_parts_of_the_lake_are_rewritten_and_removed(tmp_path: Path) -> None:
    bench = bench_at(tmp_path / "bench")
    with opened(bench.data / "traces.db") as store:
        for number in range(200):
            store.append(a_trace(f"{number:026d}"))
    with closing(SqliteTraceReader(bench.data / "traces.db")) as reader:
        bench.lake.ingest(reader, page_rows=20)

    def rewrite(number: int) -> None:
        with Lake(bench.data / "lake").edit() as lake:
            part = lake.manifest.traces.parts[number % len(lake.manifest.traces.parts)]
            lake.replace(TRACES, remove=[part], add=lake.write(TRACES, lake.read(TRACES, part)))
            lake.purge()

    with going_on(rewrite) as rewritten:
        for number in range(6):
            backup = tmp_path / f"backup-{number}"
            backed_up(bench, backup)
            assert Lake(backup / "lake").traces(["seq"]).collect()["seq"].n_unique() == 200
    assert rewritten[0] > 6


def test_a_restore_that_is_killed_keeps_the_gateway_from_serving_until_it_was_run_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = filled(tmp_path / "bench")
    backed_up(bench, tmp_path / "b")
    before = contents(bench.data)
    swap, swapped = restoring._swap, list[object]()  # pyright: ignore[reportPrivateUsage]  # killed here

    def swap_three(part: object, *, kept: bool) -> None:
        if len(swapped) == 3:
            raise KeyboardInterrupt
        swapped.append(part)
        swap(part, kept=kept)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(restoring, "_swap", swap_three)
        with pytest.raises(KeyboardInterrupt):
            brought_back(tmp_path / "b", bench, overwrite=True)
    with pytest.raises(StoreError, match=r"was cut off.*route-switch restore"):
        refuse_half_restored(bench.data)
    brought_back(tmp_path / "b", bench, overwrite=True)
    refuse_half_restored(bench.data)
    assert contents(bench.data) == before


def test_a_disk_without_room_is_said_and_nothing_of_the_backup_is_left(
    tmp_path: Path, need: Callable[..., None]
) -> None:
    bench = filled(tmp_path / "bench")
    with small_disk(tmp_path, size_kb=64) as disk:
        need("full_disk", have=disk is not None, why="a small file system cannot be mounted here")
        assert disk is not None
        with pytest.raises(BackupError, match=r"No space left.*Make room, or name another place"):
            backed_up(bench, disk / "b")
        assert list(disk.iterdir()) == []


def test_a_restore_without_room_leaves_the_disk_as_it_was_and_says_what_to_do(
    tmp_path: Path, need: Callable[..., None]
) -> None:
    backed_up(filled(tmp_path / "bench"), tmp_path / "b")
    with small_disk(tmp_path, size_kb=96) as disk:
        need("full_disk", have=disk is not None, why="a small file system cannot be mounted here")
        assert disk is not None
        there = bench_at(disk / "there")
        with pytest.raises(StoreError, match=rf"Nothing was restored: .* to {there.data}.*No space left.*Make room"):
            brought_back(tmp_path / "b", there)
        assert list(there.data.rglob("*.restoring")) == []
        refuse_half_restored(there.data)


def test_a_folder_that_was_empty_is_restored_from_where_empty_folders_are_not_kept(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    (bench.data / "packages").mkdir()
    backed_up(bench, tmp_path / "b")
    (tmp_path / "b/packages").rmdir()
    there = bench_at(tmp_path / "there")
    brought_back(tmp_path / "b", there)
    assert contents(there.data) == contents(bench.data)


def test_feedback_and_figures_travel_with_their_traces(tmp_path: Path) -> None:
    import asyncio

    bench = bench_at(tmp_path / "bench")
    with opened(bench.data / "traces.db") as store:
        store.append(a_trace("01A"))
        asyncio.run(store.add_feedback(some_feedback("01A")))
    backed_up(bench, tmp_path / "b")
    new = bench_at(tmp_path / "new")
    brought_back(tmp_path / "b", new)
    with closing(SqliteTraceReader(new.data / "traces.db")) as reader:
        assert len(reader.feedback(after=0, limit=10).rows) == 1
    assert counted(new.data / "traces.db") == 1


def test_a_part_removed_after_the_manifest_was_copied_is_not_missed(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    copied: list[int] = []

    def rewrite_once(part: str, done: int, total: int) -> None:
        del done, total
        if part != "lake":
            return
        if not copied:  # its manifest is
            with bench.lake.edit() as lake:
                for old in lake.manifest.traces.parts:
                    lake.replace(TRACES, remove=[old], add=lake.write(TRACES, lake.read(TRACES, old)))
                lake.purge()
        copied.append(1)

    parts, _ = parts_of(bench.settings)
    configuration = bench.settings.config_path
    back_up(
        parts,
        tmp_path / "backup",
        data=bench.data,
        configuration=configuration,
        program="0",
        made_at=MADE_AT,
        on_copied=rewrite_once,
    )
    assert copied
    assert Lake(tmp_path / "backup" / "lake").traces(["trace_id"]).collect()["trace_id"].to_list() == ["01A"]


def test_a_lake_that_lacks_a_part_is_not_backed_up(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    part = bench.lake.manifest().traces.parts[0]
    (bench.data / "lake" / part.path).unlink()
    with pytest.raises(LakeCorruptError, match=part.path):
        backed_up(bench, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()

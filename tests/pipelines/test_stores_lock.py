"""A backup, an erasure and a restore take turns: each sees the stores as one set, and says whom it waits for."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_gateway.settings import Settings
from rs_gateway.wiring import open_trace_eraser
from rs_pipelines import forgetting
from rs_pipelines.forgetting import find, forget
from rs_pipelines.lake import Lake
from rs_pipelines.restore import check_backup, restore
from rs_pipelines.store_parts import parts_of
from rs_pipelines.stores_lock import StoresHolder, stores_lock, waiting_for
from rs_pipelines.workbench import Workbench
from tests.e2e.processes import ROUTE_SWITCH, started
from tests.pipelines.test_backup import ROOT, backed_up
from tests.pipelines.test_backup import filled as filled_everywhere
from tests.running import eventually
from tests.trace_files import a_trace, ids, opened

HOLD = """
import sys, time
from pathlib import Path
from rs_pipelines.stores_lock import stores_lock

with stores_lock(Path(sys.argv[1]), "erasure"):
    print("held", flush=True)
    time.sleep(600)
"""


def filled(folder: Path) -> Workbench:
    """A bench with one trace, in the trace store and in the lake, and no study that it would have to be looked for."""
    bench = filled_everywhere(folder)
    shutil.rmtree(bench.data / "studies")
    return bench


def nothing(part: str, done: int, total: int) -> None:
    del part


class Waiter:
    """Remembers whom it was told to wait for."""

    def __init__(self) -> None:
        self.told: list[StoresHolder | None] = []
        self.waits = threading.Event()

    def __call__(self, holder: StoresHolder | None) -> None:
        self.told.append(holder)
        self.waits.set()

    @property
    def works(self) -> list[str]:
        return [holder.work for holder in self.told if holder is not None]


@contextmanager
def beside(work: Callable[[], object]) -> Generator[None]:
    """Run in a thread, which has ended at the end of the block."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=120)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def of_the_lake(root: Path) -> list[str]:
    return sorted(Lake(root).traces(["trace_id"]).collect()["trace_id"])


@contextmanager
def held_by_a_process(data: Path) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(data)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_backup_that_is_started_during_an_erasure_has_the_row_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = filled(tmp_path / "bench")
    with opened(bench.data / "traces.db") as store:
        store.append(a_trace("01B"))
    with closing(SqliteTraceReader(bench.data / "traces.db")) as reader:
        bench.lake.ingest(reader)
    found = find(bench, trace_ids=["01A"])
    in_the_middle, go_on, waiter = threading.Event(), threading.Event(), Waiter()

    class SlowEraser:
        """Erases when it is told to; the lake has already been rewritten then."""

        def __init__(self, settings: Settings) -> None:
            self._eraser = open_trace_eraser(settings)

        def erase(self, trace_ids: Collection[str]) -> None:
            in_the_middle.set()
            assert go_on.wait(60)
            self._eraser.erase(trace_ids)

    monkeypatch.setattr(forgetting, "open_trace_eraser", SlowEraser)
    with beside(lambda: forget(bench, found)):
        assert in_the_middle.wait(60)
        assert of_the_lake(bench.data / "lake") == ["01B"]
        with beside(lambda: backed_up(bench, tmp_path / "b", on_wait=waiter, on_copied=nothing)):
            assert waiter.waits.wait(60)
            assert not (tmp_path / "b").exists()
            go_on.set()
    assert waiter.works == ["erasure"]
    assert of_the_lake(tmp_path / "b" / "lake") == ids(tmp_path / "b" / "traces.db") == ["01B"]


def test_an_erasure_that_is_started_during_a_backup_waits_and_the_backup_has_the_row_everywhere(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    found = find(bench, trace_ids=["01A"])
    in_the_middle, go_on, waiter = threading.Event(), threading.Event(), Waiter()

    def pause(part: str, done: int, total: int) -> None:
        if part == "lake":
            in_the_middle.set()
            assert go_on.wait(60)

    with beside(lambda: backed_up(bench, tmp_path / "b", on_wait=Waiter(), on_copied=pause)):
        assert in_the_middle.wait(60)
        with beside(lambda: forget(bench, found, on_wait=waiter)):
            assert waiter.waits.wait(60)
            assert ids(bench.data / "traces.db") == ["01A"]
            go_on.set()
    assert waiter.works == ["backup"]
    assert of_the_lake(tmp_path / "b" / "lake") == ids(tmp_path / "b" / "traces.db") == ["01A"]
    assert ids(bench.data / "traces.db") == of_the_lake(bench.data / "lake") == []


def test_a_restore_waits_for_a_backup_of_the_same_stores(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    backed_up(bench, tmp_path / "b", on_wait=Waiter(), on_copied=nothing)
    parts, _ = parts_of(bench.settings)
    catalog, waiter = check_backup(tmp_path / "b"), Waiter()
    with stores_lock(bench.data, "backup"):
        waits = beside(lambda: restore(tmp_path / "b", catalog, parts, data=bench.data, overwrite=True, on_wait=waiter))
        waits.__enter__()
        assert waiter.waits.wait(60)
    waits.__exit__(None, None, None)
    assert waiter.works == ["backup"]


def test_a_holder_that_is_killed_keeps_nobody_waiting(tmp_path: Path) -> None:
    waiter, got = Waiter(), threading.Event()

    def take() -> None:
        with stores_lock(tmp_path, "backup", on_wait=waiter):
            got.set()

    with held_by_a_process(tmp_path) as holder, beside(take):
        assert waiter.waits.wait(60)
        assert not got.is_set()
        holder.kill()
        assert got.wait(60)
    assert [(known.work, known.pid) for known in waiter.told if known is not None] == [("erasure", holder.pid)]
    with stores_lock(tmp_path, "backup", on_wait=waiter):
        pass
    assert len(waiter.told) == 1


def test_who_waits_says_for_whom_and_can_be_stopped(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    log, folder = tmp_path / "bench" / "process.log", tmp_path / "bench"
    with (
        held_by_a_process(bench.data) as holder,
        started("backup", "../b", cwd=folder, program=ROUTE_SWITCH) as waiting,
    ):
        said = ("Waiting for the erasure that began at 20", f"(process {holder.pid} on ")
        eventually(lambda: all(words in log.read_text() for words in said))
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(60) == 130
        assert holder.poll() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench"]


def test_a_holder_that_could_not_say_who_it_is_is_waited_for_all_the_same(tmp_path: Path) -> None:
    waiter, got = Waiter(), threading.Event()

    def take() -> None:
        with stores_lock(tmp_path, "erasure", on_wait=waiter):
            got.set()

    with ExitStack() as held:
        held.enter_context(stores_lock(tmp_path, "backup"))
        (tmp_path / "locks" / ".stores.json").unlink()  # as on a full disk
        with beside(take):
            assert waiter.waits.wait(60)
            held.close()
    assert got.is_set()
    assert waiter.told == [None]
    assert waiting_for(None).startswith("Waiting for a backup, an erasure or a restore")


def test_readers_and_writers_of_the_stores_go_on_while_somebody_holds_them(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    with stores_lock(bench.data, "erasure"), opened(bench.data / "traces.db") as store:
        store.append(a_trace("01B"))
        eventually(lambda: "01B" in ids(bench.data / "traces.db"))
        with closing(SqliteTraceReader(bench.data / "traces.db")) as reader:
            assert bench.lake.ingest(reader).rows == 1

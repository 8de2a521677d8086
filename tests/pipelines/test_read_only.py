"""A data directory that may not be written: what only reads works, everything else names the directory."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.errors import StoreError
from rs_pipelines.answers import AnswerCache, ModelAnswer
from rs_pipelines.backup_catalog import read_catalog
from rs_pipelines.forgetting import find
from rs_pipelines.workbench import Workbench
from tests.commands import failure, from_json, ok
from tests.pipelines.recorded_weeks import make_data_directory
from tests.read_only_folders import read_only
from tests.trace_files import a_trace, ids, opened

Mounted: TypeAlias = Callable[[Path], AbstractContextManager[None]]
TRACE = f"T{1680:025d}"


@pytest.fixture(scope="module")
def weeks_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = make_data_directory(tmp_path_factory.mktemp("weeks"))
    with closing(AnswerCache(bench.data / "cache" / "answers.db")) as cache:
        cache.put("key", ModelAnswer("hello", "stop", 3, 4))  # that no study has paid for
    for path in bench.data.rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:  # the last to leave merges the log and removes it
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return bench.data.parent


@pytest.fixture
def weeks(weeks_once: Path, tmp_path: Path) -> Path:
    """The folder of a configuration and its data, which nobody has open."""
    return shutil.copytree(weeks_once, tmp_path / "weeks")


@pytest.fixture
def snapshot(need: Callable[..., None]) -> Mounted:
    @contextmanager
    def mounted(folder: Path) -> Generator[None]:
        before = set(folder.rglob("*"))
        with read_only(folder) as done:
            need("read_only", have=done, why="a folder cannot be mounted read-only here")
            yield
        assert set(folder.rglob("*")) == before

    return mounted


def configured(folder: Path) -> tuple[str, str]:
    return "--config", str(folder / "route-switch.yaml")


def test_what_only_reads_works_on_a_snapshot(weeks: Path, snapshot: Mounted) -> None:
    with snapshot(weeks):
        (study,) = from_json("study", "list", *configured(weeks))
        assert study["state"] == "published"
        assert from_json("study", "show", study["study_id"], *configured(weeks))["published_version"] == 2
        found = from_json("forget", "--trace", TRACE, "--dry-run", *configured(weeks))
        assert (found["found"]["traces"], found["found"]["lake_rows"], found["forgotten"]) == (1, 1, False)
        assert found["found"]["cached_answers"] == 1
        assert TRACE in ok("traces", "tail", *configured(weeks)).stdout
        assert TRACE in ok("traces", "show", TRACE, *configured(weeks)).stdout
        assert json.loads(ok("stats", "--window", "all", "--json", *configured(weeks)).stdout)


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        (("ingest",), "data/lake"),
        (("ingest", "--compact"), "data/lake"),
        (("forget", "--trace", TRACE, "--yes"), "data"),
    ],
)
def test_what_writes_names_the_directory_and_what_to_do(
    weeks: Path, snapshot: Mounted, command: tuple[str, ...], folder: str
) -> None:
    with snapshot(weeks):
        words = failure(*command, *configured(weeks))
    assert f"{weeks / folder} cannot be written (" in words
    assert "run this as the user that the gateway runs as, or mount it for writing" in words
    assert TRACE in ids(weeks / "data" / "traces.db")


def test_a_snapshot_is_backed_up(weeks: Path, snapshot: Mounted, tmp_path: Path) -> None:
    with snapshot(weeks):
        if not (weeks / "data").stat().st_mode & 0o222:
            words = failure("backup", str(tmp_path / "b"), *configured(weeks))
            assert f"{weeks / 'data'} cannot be written (" in words
            return
        ok("backup", str(tmp_path / "b"), *configured(weeks))
    assert {"studies", "lake", "traces.db", "answers.db"} <= set(read_catalog(tmp_path / "b").parts)
    assert TRACE in ids(tmp_path / "b" / "traces.db")


def test_a_snapshot_of_a_running_gateway_is_read_with_its_log(tmp_path: Path, snapshot: Mounted) -> None:
    place = tmp_path / "copy"
    place.mkdir()
    with opened(tmp_path / "traces.db", limits=WriterLimits(flush_interval_s=0.001)) as store:
        store.append(a_trace("01A"))
        while "01A" not in ids(tmp_path / "traces.db"):
            pass
        for name in ("traces.db", "traces.db-wal", "traces.db-shm"):
            shutil.copy(tmp_path / name, place / name)
    assert (place / "traces.db-wal").stat().st_size > 0
    with snapshot(place):
        assert ids(place / "traces.db") == ["01A"]
    (place / "traces.db-shm").unlink()
    with snapshot(place), pytest.raises(StoreError, match=r"traces\.db-wal.*copy it with its log.*that may be written"):
        ids(place / "traces.db")
    assert ids(place / "traces.db") == ["01A"]


def test_a_directory_without_studies_stays_as_it_is(tmp_path: Path, snapshot: Mounted) -> None:
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "here" / "route-switch.yaml").write_text("data_dir: data\n")
    with snapshot(tmp_path / "here"):
        assert from_json("study", "list", *configured(tmp_path / "here")) == []
        assert find(Workbench.at(tmp_path / "here" / "route-switch.yaml"), trace_ids=["x"]).empty


def test_studies_of_an_older_program_on_a_snapshot_are_refused_with_what_to_do(weeks: Path, snapshot: Mounted) -> None:
    (weeks / "data" / "studies" / "schema.json").unlink()
    with snapshot(weeks):
        words = failure("study", "list", *configured(weeks))
    assert f"{weeks / 'data' / 'studies'} has schema 1 and this program reads 2" in words
    assert "read it once where it may be written" in words


def test_answers_of_a_snapshot_are_not_changed(weeks: Path, snapshot: Mounted) -> None:
    path = weeks / "data" / "cache" / "answers.db"
    content = path.read_bytes()
    with snapshot(weeks), closing(AnswerCache(path)) as cache:
        assert cache.texts_but_of(())
    assert path.read_bytes() == content

"""A damaged file of the lake is named with what to do: in an erasure, in a backup, before a restore."""

import threading
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_gateway.domain.errors import StoreError
from rs_pipelines import backup, forgetting
from rs_pipelines.backup_catalog import BackupError
from rs_pipelines.forgetting import find, forget
from rs_pipelines.lake import Lake
from rs_pipelines.lake_manifest import LakeCorruptError
from rs_pipelines.lake_schema import TRACES
from rs_pipelines.packages.format import STUDIES_DIR
from rs_pipelines.restore import check_backup
from rs_pipelines.workbench import Workbench
from tests.commands import from_json, ok
from tests.pipelines.test_backup import backed_up, bench_at, contents
from tests.pipelines.test_forgetting import asked
from tests.trace_files import ids, opened


def filled(folder: Path, *, ingested: bool = True) -> Workbench:
    """Nine users with a trace each."""
    bench = bench_at(folder)
    with opened(bench.data / "traces.db") as store:
        for number in range(9):
            store.append(asked(number, f"number {number} has", "an answer"))
    if ingested:
        ingest(bench.data)
    return bench


def ingest(data: Path) -> int:
    with closing(SqliteTraceReader(data / "traces.db")) as reader:
        return Lake(data / "lake").ingest(reader).rows


def with_a_retired_part(bench: Workbench) -> Path:
    """A file that counts no more and stays for readers, and is cut off."""
    with bench.lake.edit() as lake:
        (part,) = lake.manifest.traces.parts
        lake.replace(TRACES, remove=[part], add=lake.write(TRACES, lake.read(TRACES, part)))
    return cut_off(bench.data / "lake" / part.path)


def cut_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-7])
    return path


def test_a_damaged_file_that_counts_no_more_keeps_nobody_from_forgetting_and_goes_too(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    damaged, config = with_a_retired_part(bench), str(bench.settings.config_path)
    result = ok("forget", "--user", "user-3-secret", "--yes", "--config", config)
    words = " ".join(result.stderr.split())
    assert f"{damaged} cannot be searched (" in words
    assert "It counts no more: it goes with whatever is forgotten; where nothing is, delete it." in words
    assert not damaged.exists()
    assert len(ids(bench.data / "traces.db")) == bench.lake.traces(["seq"]).collect().height == 8
    assert from_json("forget", "--user", "user-3-secret", "--dry-run", "--config", config)["unreadable"] == []


def test_a_damaged_file_is_named_where_there_is_nothing_to_forget(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    damaged = with_a_retired_part(bench)
    found = find(bench, end_user="nobody")
    assert found.empty
    assert list(found.unreadable) == [str(damaged)]
    damaged.unlink()
    assert not find(bench, end_user="nobody").unreadable


def test_a_damaged_part_that_counts_stops_an_erasure_before_anything_is_removed(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    (part,) = bench.lake.manifest().traces.parts
    path = cut_off(bench.data / "lake" / part.path)
    with pytest.raises(LakeCorruptError, match=f"{path.name} is damaged"):
        find(bench, end_user="user-3-secret")
    assert len(ids(bench.data / "traces.db")) == 9


def test_what_forgetting_does_not_reach_is_said_at_its_end(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    words = ok("forget", "--user", "user-3-secret", "--yes", "--config", str(bench.settings.config_path)).stderr
    for name in ("backups", "logs", "exported packages", "data/known_examples keeps hashes of inputs"):
        assert name in " ".join(words.split())


def test_an_imported_package_that_shows_the_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = filled(tmp_path / "bench")
    folder = bench.data / "packages" / "parcels" / "theirs"
    shown = folder / STUDIES_DIR / "parcels@tiny" / "s1" / "study.json"
    shown.parent.mkdir(parents=True)
    shown.write_text('{"demos": [{"example_id": "e3", "user": "number 3 has"}]}')
    (bench.data / "packages" / "parcels" / "others").mkdir()

    def keys(*_: object) -> dict[str, frozenset[str]]:
        return {"parcels": frozenset({"3"})}

    monkeypatch.setattr(forgetting, "_keys", keys)
    monkeypatch.setattr(forgetting, "example_id", lambda template_id, key: f"e{key}")  # pyright: ignore[reportUnknownLambdaType]
    found = from_json("forget", "--user", "user-3-secret", "--dry-run", "--config", str(bench.settings.config_path))
    assert found["packages"] == [str(folder)]


@pytest.mark.parametrize("damage", ["cut off", "other rows"])
def test_a_lake_with_a_damaged_part_is_not_backed_up_and_the_part_is_named(tmp_path: Path, damage: str) -> None:
    bench = filled(tmp_path / "bench")
    (part,) = bench.lake.manifest().traces.parts
    path = bench.data / "lake" / part.path
    if damage == "cut off":
        cut_off(path)
    else:
        pl.read_parquet(path, hive_partitioning=False).head(3).write_parquet(path)
    with pytest.raises(LakeCorruptError, match=rf"{part.path} \(\d+ bytes instead of \d+\).*earlier backup"):
        backed_up(bench, tmp_path / "b")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["bench"]


def test_a_part_of_the_right_size_that_is_no_parquet_is_not_backed_up(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    (part,) = bench.lake.manifest().traces.parts
    (bench.data / "lake" / part.path).write_bytes(b"\0" * part.bytes)
    with pytest.raises(LakeCorruptError, match=rf"The lake has 1 damaged part, .*{part.path}"):
        backed_up(bench, tmp_path / "b")


def test_a_backup_that_was_made_of_a_damaged_lake_is_refused_by_name_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = filled(tmp_path / "bench")
    (part,) = bench.lake.manifest().traces.parts
    with monkeypatch.context() as patched:
        patched.setattr(backup, "damaged_parts", lambda files: [])  # pyright: ignore[reportUnknownLambdaType]  # as it was
        cut_off(bench.data / "lake" / part.path)
        backed_up(bench, tmp_path / "b")
    before = contents(bench.data)
    with pytest.raises(BackupError, match=rf"1 damaged part of the lake: lake/{part.path}.*Use another"):
        check_backup(tmp_path / "b")
    assert contents(bench.data) == before


def test_a_first_ingest_beside_an_erasure_brings_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = filled(tmp_path / "bench", ingested=False)
    found = find(bench, end_user="user-3-secret")
    derived, came, rows = forgetting._forget_derived, threading.Event(), list[int]()  # pyright: ignore[reportPrivateUsage]

    def first_ingest() -> None:
        rows.append(ingest(bench.data))
        came.set()

    other = threading.Thread(target=first_ingest)

    def with_an_ingest_beside(*arguments: object) -> None:
        other.start()
        assert not came.wait(0.5), "it waits for the erasure"
        derived(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(forgetting, "_forget_derived", with_an_ingest_beside)
    forget(bench, found)
    other.join(60)
    assert rows == [8]
    assert "user-3-secret" not in bench.lake.traces(["end_user"]).collect()["end_user"].to_list()
    assert find(bench, end_user="user-3-secret").empty


def test_forgetting_makes_no_lake_where_there_is_none(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench", ingested=False)
    forget(bench, find(bench, end_user="user-3-secret"))
    assert not bench.lake.exists()
    assert ingest(bench.data) == 8


def test_a_lake_whose_manifest_is_lost_is_no_reason_to_leave_rows_in_it(tmp_path: Path) -> None:
    bench = filled(tmp_path / "bench")
    found = find(bench, end_user="user-3-secret")
    (bench.data / "lake" / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        forget(bench, found)
    assert len(ids(bench.data / "traces.db")) == 9

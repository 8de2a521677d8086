"""Packages that were damaged, forged or made to do harm, and imports that are killed: nothing comes of them."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.sqlite_figures import SqliteFigures
from rs_gateway.domain.errors import RegistryError, RouteSwitchError
from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_pipelines.packages.archive import pack, stage
from rs_pipelines.packages.content import opened_package
from rs_pipelines.packages.dataset import table_rows
from rs_pipelines.packages.export import ExportOptions
from rs_pipelines.packages.format import PACKAGE_FILE, Limits, PackageError, seal, sha256_of
from rs_pipelines.packages.importing import ImportOptions, import_package
from rs_pipelines.workbench import Workbench
from tests.pipelines.packaged import EVERYTHING, bench_in, entry, export, full_bench, packed
from tests.pipelines.parcels import ORIGIN
from tests.pipelines.tiny_upstream import TEMPLATE
from tests.small_disks import small_disk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one package as directory `p` and as archive `p.tar.zst`. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("made")
    bench = full_bench(folder / "here")
    export(bench, folder / "p", EVERYTHING)
    pack(folder / "p", folder / "p.tar.zst")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the directory, to be changed."""
    return Path(shutil.copytree(made / "p", tmp_path / "copy"))


def refused(path: Path, reason: str | None = None) -> None:
    with pytest.raises(PackageError, match=reason), opened_package(path):
        pass


def resealed(folder: Path, **changes: object) -> None:
    """Make sums and seal right again, as a forger would."""
    content = yaml.safe_load((folder / PACKAGE_FILE).read_text())
    del content["sha256"]
    content["files"] = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != PACKAGE_FILE
    }
    (folder / PACKAGE_FILE).write_bytes(seal({**content, **changes}))


# Damage


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_anywhere_in_a_directory_is_noticed(made: Path, data: st.DataObject) -> None:
    files = sorted(path for path in (made / "p").rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    good = path.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != good[position]))])
    path.write_bytes(good[:position] + bad + good[position + 1 :])
    try:
        refused(made / "p")
    finally:
        path.write_bytes(good)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_anywhere_in_an_archive_is_noticed(made: Path, data: st.DataObject) -> None:
    good = (made / "p.tar.zst").read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytes([good[position] ^ data.draw(st.integers(1, 255))])
    path = made / "bad.tar.zst"
    path.write_bytes(good[:position] + bad + good[position + 1 :])
    with suppress(PackageError), opened_package(path) as content, opened_package(made / "p") as right:
        # The frame's header may say in two ways how it is packed; then what is in it is the same.
        assert content.digest == right.digest
        assert position < 18


def test_an_archive_that_was_cut_off_anywhere_is_noticed(made: Path) -> None:
    good = (made / "p.tar.zst").read_bytes()
    path = made / "cut.tar.zst"
    for length in (0, 1, 3, *range(4, len(good), max(1, len(good) // 60)), len(good) - 4, len(good) - 1):
        path.write_bytes(good[:length])
        refused(path)


def test_bytes_after_the_end_are_noticed(made: Path) -> None:
    path = made / "long.tar.zst"
    path.write_bytes((made / "p.tar.zst").read_bytes() + b"\0")
    refused(path, "bytes after its end")


def test_missing_and_additional_files_are_noticed(copy: Path) -> None:
    (copy / "notes.txt").write_text("x")
    refused(copy, "notes.txt")
    (copy / "notes.txt").unlink()
    (copy / "manifest.yaml").unlink()
    refused(copy, r"lacks 'manifest\.yaml'")


def test_a_file_that_packages_do_not_have_is_refused_even_with_right_sums(copy: Path) -> None:
    (copy / "run.sh").write_text("x")
    resealed(copy)
    refused(copy, r"no file 'run\.sh'")


def test_what_is_no_package_is_said_to_be_none(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "There is no package")
    refused(tmp_path, "is no package: it has no package.yaml")
    (tmp_path / "x.tar.zst").write_bytes(b"hello")
    refused(tmp_path / "x.tar.zst", "damaged or no .tar.zst file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a directory nor a file")


def test_a_newer_format_is_refused_by_name(copy: Path) -> None:
    resealed(copy, version="3.0")
    refused(copy, r"has version '3\.0'.*upgrade")


def test_a_package_cannot_pass_for_an_old_one_to_get_around_its_sums(copy: Path) -> None:
    text = (copy / PACKAGE_FILE).read_text()
    (copy / PACKAGE_FILE).write_text(text.replace("version: '2.0'", "version: '1.0'"))
    refused(copy, "was changed or cut off")


# Harm


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/out",
        "a/../../out",
        "a//b",
        "./../out",
        "a\\..\\out",
        ".hidden",
        "a/.git/config",
        "C:out",
        "a\nb",
        "é",
        "",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "into").mkdir()
    with pytest.raises(PackageError):
        stage(packed([entry(name)], tmp_path / "bad.tar.zst"), tmp_path / "into", Limits())
    assert not list((tmp_path / "into").rglob("*"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE],
)
def test_links_devices_and_extended_headers_are_refused(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "into").mkdir()
    bad = packed([entry("a", b"", type=kind, linkname="/etc/passwd")], tmp_path / "bad.tar.zst")
    with pytest.raises(PackageError, match="of tar type"):
        stage(bad, tmp_path / "into", Limits())
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.parametrize("what", ["file", "directory", "fifo"])
def test_links_and_special_files_in_a_directory_are_refused(copy: Path, what: str) -> None:
    shutil.rmtree(copy / "logs")
    if what == "file":
        (copy / "logs").symlink_to("/etc/passwd")
    elif what == "directory":
        (copy / "logs").symlink_to("/etc", target_is_directory=True)
    else:
        os.mkfifo(copy / "logs")
    refused(copy, "a link or special file")


def test_the_same_file_twice_is_refused_also_when_only_capitals_differ(tmp_path: Path) -> None:
    for second in ("a", "A"):
        into = tmp_path / f"into-{second}"
        into.mkdir()
        with pytest.raises(PackageError, match=r"twice|not every disk"):
            stage(packed([entry("a"), entry(second)], tmp_path / "x.tar.zst"), into, Limits())


def test_an_archive_that_unpacks_to_more_than_allowed_stops_there(tmp_path: Path) -> None:
    limits, into = Limits(max_bytes=1 << 20), tmp_path / "into"
    into.mkdir()
    bomb = packed([entry("a", bytes(64 << 20))], tmp_path / "bomb.tar.zst")
    assert bomb.stat().st_size < 20_000
    with pytest.raises(PackageError, match="unpacks to more than"):
        stage(bomb, into, limits)
    assert sum(path.stat().st_size for path in into.rglob("*") if path.is_file()) <= 1 << 20


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    info, _ = entry("a")
    info.size = 1 << 40
    header = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "lie.tar.zst").write_bytes(zstandard.compress(header))
    with pytest.raises(PackageError, match="unpacks to more than"):
        stage(tmp_path / "lie.tar.zst", tmp_path / "into", Limits())


def test_a_bomb_behind_the_last_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    bomb = tmp_path / "bomb.tar.zst"
    bomb.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(bytes(128 << 20)))
    with pytest.raises(PackageError, match="unpacks to more than"):
        stage(bomb, tmp_path / "into", Limits(max_bytes=1 << 20, max_files=10))


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    with pytest.raises(PackageError, match="more than 5 files"):
        stage(
            packed([entry(f"f{n}") for n in range(6)], tmp_path / "x.tar.zst"), tmp_path / "into", Limits(max_files=5)
        )
    folder = tmp_path / "folder"
    folder.mkdir()
    for n in range(6):
        (folder / f"f{n}").touch()
    with pytest.raises(PackageError, match="more than 5 files"):
        stage(folder, tmp_path / "into", Limits(max_files=5))


def test_yaml_that_unfolds_without_end_is_refused(copy: Path) -> None:
    lines = ["name: x", "variables: [message]", "evaluator: {name: ExactMatch}", "a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (copy / "prompts/parcels/template.yaml").write_text("\n".join(lines))
    resealed(copy)
    refused(copy, "aliases")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON examples BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
    ],
)
def test_a_dataset_with_more_than_tables_is_refused(tmp_path: Path, statement: str) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("CREATE TABLE examples (input TEXT)")
        connection.execute(statement)
    with pytest.raises(PackageError, match="no plain table"):
        list(table_rows(tmp_path / "x.db", ("input",)))


def test_a_file_that_is_no_yaml_is_refused_in_one_line(copy: Path) -> None:
    (copy / "manifest.yaml").write_text('id: parcels\nname: "\\ud800"\n')
    resealed(copy)
    with (
        pytest.raises(PackageError, match=r"^manifest\.yaml is no YAML: .*line 2, column") as refusal,
        opened_package(copy),
    ):
        pass
    assert "\n" not in str(refusal.value)


def test_a_dataset_that_is_a_view_or_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(PackageError, match="cannot be read"):
        list(table_rows(tmp_path / "x.db", ("input",)))


def test_a_version_whose_text_was_changed_is_refused_even_with_right_sums(copy: Path) -> None:
    path = copy / "prompts/parcels/versions/0001.yaml"
    path.write_text(path.read_text().replace("Find the parcel number", "Obey me"))
    resealed(copy)
    refused(copy, "content_hash")


@pytest.mark.parametrize("template_id", ["../up", "other", ".locks", "a/b"])
def test_a_package_of_another_name_is_refused(copy: Path, template_id: str) -> None:
    resealed(copy, template_id=template_id)
    refused(copy)


def test_counts_that_are_not_true_are_refused(copy: Path) -> None:
    counts = yaml.safe_load((copy / PACKAGE_FILE).read_text())["counts"]
    resealed(copy, counts={**counts, "dataset_rows": 1})
    refused(copy, r"dataset_rows \(1, not 12\)")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_file_a_forged_package_is_read_or_refused_in_words(
    made: Path, data: st.DataObject
) -> None:
    folder = made / "forged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made / "p", folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".yaml", ".jsonl", ".json", ".db"))
    path = data.draw(st.sampled_from([p for p in files if p.name != PACKAGE_FILE]))
    good = path.read_bytes()
    start = data.draw(st.integers(0, len(good) - 1))
    length = data.draw(st.integers(1, 40))
    path.write_bytes(good[:start] + data.draw(st.binary(max_size=40)) + good[start + length :])
    resealed(folder)
    with suppress(RouteSwitchError):
        with opened_package(folder):
            pass
        shutil.rmtree(made / "there", ignore_errors=True)
        import_package(bench_in(made / "there"), folder, ImportOptions())


# Imports that end early


_CHANGES = frozenset({"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "sqlite3.connect"})


def killed(bench: Workbench, package: Path, *, after: int) -> bool:
    """Import with everything in a process that kills itself at its n-th change of the disk; whether it did.

    Counting begins with the journal: before it, only a staging folder is written.
    """
    left, counting = after, False

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left, counting
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in _CHANGES:
            counting = counting or ".import.json" in str(arguments[0])
            left -= counting
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses none of its parent's threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.addaudithook(look)
            import_package(bench, package, ImportOptions(overwrite=True, restore_analytics=True))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), "the import failed"
    return status != 0


def state(bench: Workbench) -> tuple[RegisteredTemplate | None, list[object], object, list[str]]:
    """All that an import can change."""
    try:
        registered = bench.registry.get("parcels")
    except RegistryError:
        registered = None
    labels = [(row.key, row.expected, row.split) for row in bench.datasets.rows("parcels")]
    home = bench.data / "packages"
    kept = sorted(
        p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file() and not p.name.endswith(".lock")
    )
    return registered, list(labels), SqliteFigures(bench.data / "traces.db").read("parcels"), kept


@pytest.mark.parametrize("known", [False, True])
def test_an_import_that_is_killed_anywhere_leaves_all_of_it_or_nothing(made: Path, tmp_path: Path, known: bool) -> None:
    n_killed, ends = 0, set[str]()
    for after in range(1_000):
        bench = bench_in(tmp_path / str(after))
        if known:
            bench.registry.register(TEMPLATE, PromptText("Mine.", "{message}"), origin=ORIGIN)
        nothing = state(bench)
        if not killed(bench, made / "p.tar.zst", after=after):
            break
        n_killed += 1
        seen = bench.registry.get("parcels") if known or state(bench)[0] is not None else None
        whole = 3 if seen is None else len(seen.versions) - known
        assert whole in (0, 3), "half of the versions are to be seen"
        bench = Workbench(bench.settings)
        with pytest.raises(PackageError):
            import_package(bench, tmp_path / "there is none", ImportOptions())
        now = state(bench)
        if now != nothing:
            assert now[0] is not None, (after, now)
            assert (len(now[0].versions) - known, len(now[1])) == (3, 12), (after, now)
            assert now[2] != []
        ends.add("nothing" if now == nothing else "all")
        if after % 10 == 0:
            import_package(bench, made / "p.tar.zst", ImportOptions(overwrite=True, restore_analytics=True))
            assert len(state(bench)[1]) == 12
        shutil.rmtree(tmp_path / str(after))
    assert n_killed > 20
    assert ends == {"nothing", "all"}


def test_an_import_that_fails_at_its_last_step_takes_everything_back(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_in(tmp_path / "there")
    nothing = state(bench)

    def fail(*_: object) -> None:
        raise RegistryError("no room")

    monkeypatch.setattr(type(bench.registry), "add_drafts", fail)
    with pytest.raises(RegistryError, match="no room"):
        import_package(bench, made / "p", ImportOptions(restore_analytics=True))
    assert state(bench) == nothing


def test_a_process_that_is_killed_for_real_leaves_nothing_once_the_next_import_begins(
    made: Path, tmp_path: Path
) -> None:
    bench = bench_in(tmp_path / "there")
    nothing = state(bench)
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from rs_gateway.adapters.prompt_files import PromptFiles\n"
        "from rs_pipelines.packages.importing import ImportOptions, import_package\n"
        "from rs_pipelines.workbench import Workbench\n"
        "PromptFiles.add_drafts = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "import_package(Workbench.at(Path(sys.argv[1])), Path(sys.argv[2]), ImportOptions(restore_analytics=True))\n"
    )
    arguments = [str(tmp_path / "there/route-switch.yaml"), str(made / "p.tar.zst")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(state(bench)[1]) == 12
    with pytest.raises(PackageError):
        import_package(bench, tmp_path / "there is none", ImportOptions())
    assert state(bench) == nothing


@pytest.mark.parametrize("size_kb", [32, 64, 112, 160, 208])
def test_an_import_without_room_names_the_place_and_leaves_it_as_it_was(
    made: Path, tmp_path: Path, need: Callable[..., None], size_kb: int
) -> None:
    with small_disk(tmp_path, size_kb=size_kb) as disk:
        need("full_disk", have=disk is not None, why="a small file system cannot be mounted here")
        assert disk is not None
        bench = bench_in(disk / "there")
        nothing = state(bench)
        with pytest.raises(RouteSwitchError) as refusal:
            import_package(bench, made / "p", ImportOptions(restore_analytics=True))
        assert re.search(rf"{bench.data}.*(No space left|is full).*(make room|Make room|mend that)", str(refusal.value))
        assert state(bench) == nothing
        assert list(disk.rglob("*.tmp")) == []


def test_half_added_drafts_are_not_seen_and_go_with_the_next_change(made: Path, tmp_path: Path) -> None:
    bench = bench_in(tmp_path / "there")
    bench.registry.register(TEMPLATE, PromptText("Mine.", "{message}"), origin=ORIGIN)
    folder = bench.data / "prompts/parcels/versions"
    (folder / ".unfinished").write_text("0002.yaml\n0003.yaml")
    shutil.copy(made / "p/prompts/parcels/versions/0002.yaml", folder / "0002.yaml")
    assert list(bench.registry.get("parcels").versions) == [1]
    bench.registry.add_version("parcels", PromptText("Next.", "{message}"), model=None, origin=ORIGIN)
    assert bench.registry.get("parcels").versions[2].text.instruction == "Next."
    assert sorted(path.name for path in folder.iterdir()) == ["0001.yaml", "0002.yaml"]


def test_an_export_that_fails_leaves_nothing_beside_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = full_bench(tmp_path / "here")
    place = tmp_path / "out/p.tar.zst"

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rs_pipelines.packages.export.pack", fail)
    with pytest.raises(RouteSwitchError, match="No space left"):
        export(bench, place, ExportOptions())
    assert list(place.parent.iterdir()) == []

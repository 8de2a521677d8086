"""The demo's directory: empty at the start, whatever happened to the demo before, and never somebody else's."""

import shutil
from pathlib import Path

import pytest

from rs_gateway.domain.errors import ConfigurationError
from rs_pipelines.demo_directory import DemoBusyError, demo_directory


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """What a demo before left."""
    directory = tmp_path / "data" / "demo"
    with demo_directory(directory):
        (directory / "lake" / "traces").mkdir(parents=True)
        (directory / "lake" / "traces" / "one.parquet").touch()
        (directory / "route-switch.yaml").touch()
        (directory / "elsewhere").symlink_to(tmp_path)
    return directory


def visible(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if not path.name.startswith(".")]


def test_every_demo_starts_with_an_empty_directory(used: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with demo_directory(used):
        assert visible(used) == []
    assert (tmp_path / "mine").exists(), "a link is removed, not what it points to"


def test_a_demo_that_is_interrupted_while_it_empties_its_directory_blocks_no_later_one(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, **_: object) -> None:
        # Files go in any order; the mark may be the first.
        for file in path.glob("*"):
            if file.is_file():
                file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt), demo_directory(used):
            pass
    with demo_directory(used):
        assert visible(used) == []


def test_what_is_not_the_demos_is_never_deleted(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(ConfigurationError, match="holds something that is not the demo's"), demo_directory(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("below", [".", "demo"])
def test_a_file_where_the_directory_should_be_is_refused_by_name(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("a file")
    directory = tmp_path / "taken" / below
    with pytest.raises(ConfigurationError, match=r"taken.* cannot be the demo's directory"), demo_directory(directory):
        pass


def test_what_cannot_be_deleted_is_refused_by_name(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(ConfigurationError, match="lake: Permission denied"), demo_directory(used):
        pass


def test_of_two_demos_in_one_directory_the_second_is_refused(used: Path) -> None:
    with demo_directory(used):
        (used / "running").touch()
        with pytest.raises(DemoBusyError, match="Another demo is running"), demo_directory(used):
            pass
        assert visible(used) == ["running"]

"""The schema of stores that are folders: migrated once, forward only, also when a migration is killed."""

import json
import threading
from pathlib import Path

import pytest

from rs_gateway.adapters.file_schema import FileSchema
from rs_gateway.domain.errors import SchemaTooNewError, StoreError


def rename_texts(root: Path) -> None:
    for path in sorted(root.glob("*.txt")):
        path.rename(path.with_suffix(".md"))


def add_titles(root: Path) -> None:
    for path in root.glob("*.md"):
        if not path.read_text().startswith("# "):
            path.write_text(f"# {path.stem}\n{path.read_text()}")


FIRST = FileSchema("notebook", "notes.path")
THIRD = FileSchema("notebook", "notes.path", (rename_texts, add_titles))


def test_a_folder_without_a_mark_has_the_first_schema_and_gets_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    FIRST.migrate(tmp_path)
    FIRST.migrate(tmp_path / "nothing there")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_older_folder_takes_every_step_once_and_then_refuses_older_programs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    THIRD.migrate(tmp_path)
    THIRD.migrate(tmp_path)
    assert (tmp_path / "a.md").read_text() == "# a\nhello"
    assert json.loads((tmp_path / "schema.json").read_text())["schema"] == 3
    with pytest.raises(SchemaTooNewError, match=r"notebook .* has schema 3, .* up to 1: upgrade .* `notes\.path`"):
        FIRST.migrate(tmp_path)


def test_a_new_folder_is_marked_with_the_newest_schema(tmp_path: Path) -> None:
    THIRD.migrate(tmp_path / "new")
    assert THIRD.version(tmp_path / "new") == 3


def test_a_migration_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    calls: list[str] = []

    def killed_once(root: Path) -> None:
        add_titles(root)
        calls.append("titles")
        if len(calls) == 1:
            raise KeyboardInterrupt

    schema = FileSchema("notebook", "notes.path", (rename_texts, killed_once))
    with pytest.raises(KeyboardInterrupt):
        schema.migrate(tmp_path)
    assert schema.version(tmp_path) == 2
    schema.migrate(tmp_path)
    assert (tmp_path / "a.md").read_text() == "# a\nhello"
    assert calls == ["titles", "titles"]


def test_two_that_open_an_older_folder_migrate_it_once(tmp_path: Path) -> None:
    calls: list[str] = []
    schema = FileSchema("notebook", "notes.path", (lambda root: calls.append(root.name),))
    threads = [threading.Thread(target=schema.migrate, args=(tmp_path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "x"}', '{"schema": 0}'])
def test_a_damaged_mark_is_an_error_that_names_it(content: str, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(content)
    with pytest.raises(StoreError, match=r"schema\.json .*restore it from a backup"):
        FIRST.migrate(tmp_path)

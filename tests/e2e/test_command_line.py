"""The command line when something is wrong: one line on stderr, exit status 1, whatever it was."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rs_gateway import cli, current_user
from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.cli_templates import register_template
from rs_gateway.domain.prompts import PromptTemplate, PromptText
from tests.commands import failure
from tests.e2e.processes import free_address, route_switch
from tests.pipelines.tiny_upstream import configuration, tiny, workbench
from tests.running import ORIGIN, write_configuration
from tests.trace_files import a_trace, ids, opened
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e


def configured(folder: Path, **sections: Any) -> dict[str, Any]:
    with Upstream([tiny]).running() as upstream:
        workbench(folder, upstream)
        settings = configuration(upstream, **sections)
    settings["gateway"]["addr"] = free_address()
    write_configuration(folder, settings)
    return settings


def spoil(folder: Path, how: str) -> Path:
    """A trace store that this program cannot use."""
    path = folder / "data/traces.db"
    if how == "garbage":
        path.write_bytes(b"no database " * 100)
        return path
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.execute("CREATE TABLE later (x)")
    connection.commit()
    connection.close()
    return path


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("extra", [(), ("--workers", "2")])
@pytest.mark.parametrize("how", ["garbage", "newer"])
def test_serve_refuses_a_store_it_cannot_use_in_one_line(tmp_path: Path, how: str, extra: tuple[str, ...]) -> None:
    configured(tmp_path)
    spoil(tmp_path, how)
    result = route_switch("serve", *extra, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: The trace store ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("extra", [(), ("--workers", "2")])
def test_a_gateway_that_fails_to_start_later_exits_with_1(
    tmp_path: Path, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(tmp_path)
    # Whatever the parent could not foresee: here, the application fails to come up in the process that serves.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class Broken(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'rs_gateway.gateway':\n"
        "            sys.modules['rs_gateway.adapters.sqlite_traces'].SqliteTraceStore.__init__ = fail\n"
        "def fail(*_, **__):\n"
        "    raise OSError('the disk went away')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    result = route_switch("serve", *extra, cwd=tmp_path)
    assert result.returncode == 1
    assert "the disk went away" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: The gateway did not start")


@pytest.mark.parametrize("how", ["garbage", "newer"])
def test_check_lists_a_trace_store_that_cannot_be_used(tmp_path: Path, how: str) -> None:
    configured(tmp_path)
    path = spoil(tmp_path, how)
    result = route_switch("check", "--json", cwd=tmp_path)
    assert result.returncode == 1
    assert any(str(path) in problem for problem in json.loads(result.stdout)["problems"])


def test_check_lists_a_trace_store_of_another_kind(tmp_path: Path) -> None:
    configured(tmp_path, stores={"traces": "redis://x"})
    result = route_switch("check", cwd=tmp_path)
    assert result.returncode == 1
    assert "- 'redis://x' names no SQLite file" in result.stderr


def test_check_makes_no_store_that_is_not_there(tmp_path: Path) -> None:
    configured(tmp_path)
    before = files(tmp_path)
    result = route_switch("check", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert files(tmp_path) == before


def test_a_data_directory_that_is_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(tmp_path)
    (tmp_path / "new.yaml").write_text("id: new\ninstruction: Do it.\n")
    (tmp_path / "taken").write_text("a file where a directory should be")
    monkeypatch.setenv("RS_DATA_DIR", "taken/below")
    result = route_switch("template", "register", "new.yaml", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def run_failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "entry_points", lambda group: [])  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(SystemExit) as stopped:
        cli.run()
    return stopped.value.code


def test_an_error_that_nobody_foresaw_names_its_type_and_where_the_traceback_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ROUTE_SWITCH_DEBUG", raising=False)
    assert run_failing(OSError(errno.EIO, "No sense\nleft [/red]"), monkeypatch) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: OSError: [Errno 5] No sense left [/red]"
    assert "ROUTE_SWITCH_DEBUG=1" in hint


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Free room"), (errno.EDQUOT, "quota"), (errno.EROFS, "writable"), (errno.EACCES, "the right")],
)
def test_a_disk_that_takes_nothing_is_one_line_with_the_place_and_the_fix(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_failing(OSError(number, "several\nlines", "data/lake/part"), monkeypatch) == 1
    [error] = capsys.readouterr().err.replace("\n", " ").strip().split("error: ")[1:]
    assert error.startswith(f"{os.strerror(number)}: data/lake/part. ")
    assert remedy in error


def test_the_traceback_is_there_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROUTE_SWITCH_DEBUG", "1")
    assert run_failing(KeyError("uid"), monkeypatch) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_exit_status_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_failing(SystemExit(2), monkeypatch) == 2


def test_a_variable_that_is_no_json_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(tmp_path)
    monkeypatch.setenv("RS_GATEWAY__COMBINATIONS", "notjson")
    result = route_switch("check", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_a_user_without_a_name_registers_under_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    configured(tmp_path)
    (tmp_path / "new.yaml").write_text("id: new\ninstruction: Do it.\n")
    monkeypatch.setattr(current_user, "getuser", nameless)
    monkeypatch.setattr(current_user, "getuid", lambda: 4711)
    register_template(tmp_path / "new.yaml", config=tmp_path / "route-switch.yaml")
    assert PromptFiles(tmp_path / "data/prompts").get("new").versions[1].origin.by == "uid 4711"


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path: Path) -> None:
    configured(tmp_path)
    template = PromptTemplate("odd", "[/red] [bold]x[/] :smile:", (), {"name": "ExactMatch"})
    PromptFiles(tmp_path / "data/prompts").register(template, PromptText("Do it."), origin=ORIGIN)
    (tmp_path / "data/prompts/[red]").mkdir()
    (tmp_path / "data/prompts/[red]/template.yaml").write_text("{")
    result = route_switch("template", "list", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "[/red] [bold]x[/] :smile:" in result.stdout
    assert "[red]" in result.stdout
    assert "- [red]: " in route_switch("check", cwd=tmp_path).stderr


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_name_that_is_no_text_can_be_printed(tmp_path: Path, extra: tuple[str, ...]) -> None:
    configured(tmp_path)
    odd = tmp_path / "data/prompts" / os.fsdecode(b"\xff")  # reads as half of a surrogate pair
    odd.mkdir()
    (odd / "template.yaml").write_text("{")
    result = route_switch("template", "list", *extra, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "\\udcff" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", ["template show odd", "stats --json", "traces export", "template list"])
def test_a_command_whose_output_is_closed_says_nothing_of_python(tmp_path: Path, arguments: str) -> None:
    configured(tmp_path)
    template = PromptTemplate("odd", "Odd", (), {"name": "ExactMatch"})
    PromptFiles(tmp_path / "data/prompts").register(template, PromptText("Do it."), origin=ORIGIN)
    with opened(tmp_path / "data/traces.db") as store:
        store.append(a_trace("1"))
    for closed in (">&-", "<&-", "2>&-", "<&- >&- 2>&-"):
        command = f"{sys.executable} -m rs_gateway {arguments} {closed}"
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert (done.returncode, "AttributeError" in done.stderr) == (0, False), (closed, done.stderr)
    assert ids(tmp_path / "data/traces.db") == ["1"], "nothing was written into a store that got the number of stdout"


def test_a_stdin_that_is_closed_is_an_empty_one(tmp_path: Path) -> None:
    configured(tmp_path)
    template = PromptTemplate("odd", "Odd", (), {"name": "ExactMatch"})
    PromptFiles(tmp_path / "data/prompts").register(template, PromptText("Do it."), origin=ORIGIN)
    command = f"{sys.executable} -m rs_gateway template edit odd --file - <&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "there have to be keys with values" in done.stderr


@pytest.mark.parametrize("place", ["/dev/null/x.yaml", "a" * 300, "no/such/folder/x.yaml"])
def test_a_configuration_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "cannot be written" in failure("init", "--config", place)
    assert list(tmp_path.iterdir()) == []

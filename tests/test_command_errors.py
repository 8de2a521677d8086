"""The error that each command meets most: its exit status, and the words that name the cause and the fix."""

import re
import socket
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from rs_gateway.domain.errors import RouteSwitchError
from tests.command_project import TRACE, copy_of, project
from tests.commands import COMMANDS, invoke


@dataclass(frozen=True, slots=True)
class Fails:
    """A command line, how it ends, and what has to be said on stderr; PORT stands for one where somebody listens."""

    arguments: str
    status: int
    words: tuple[str, ...]


UNKNOWN_TEMPLATE = ("no template 'parcel'", "other, parcels", "Did you mean 'parcels'?")
UNKNOWN_TRACE = ("'nothing'", "x-route-switch-trace-id")
UNKNOWN_KEY = ("'nothing'", "route-switch keys create NAME")
MAIN_ERRORS: dict[str, Fails] = {
    "init": Fails("init", 1, ("route-switch.yaml", "--overwrite")),
    "check": Fails("check --config ../unkeyed.yaml", 1, ("OPENAI_API_KEY",)),
    "explain": Fails("explain nothing", 1, UNKNOWN_TRACE),
    "stats": Fails("stats parcels --window 7w", 2, ("--window", "7w")),
    "serve": Fails("serve --config taken.yaml", 1, ("PORT", "gateway.addr")),
    "up": Fails("up --config taken.yaml", 1, ("PORT", "gateway.addr")),
    "demo": Fails("demo --directory .", 1, ("not the demo's", "--directory")),
    "ingest": Fails("ingest --config ../no-store.yaml", 1, ("/dev/null/no-store", "cannot be written")),
    "optimize": Fails("optimize other", 1, ("other", "feedback")),
    "find-best-model": Fails("find-best-model parcels --models gpt-9", 1, ("'gpt-9'", "it runs on tiny")),
    "backup": Fails("backup .", 1, ("is no backup", "a folder that does not exist yet")),
    "restore": Fails("restore ..", 1, ("backup",)),
    "forget": Fails(f"forget --trace {TRACE}", 1, ("--yes",)),
    "template publish": Fails("template publish parcels 9 --reason why", 1, ("9", "1, 2, 3")),
    "template rollback": Fails("template rollback other --reason why", 1, ("other",)),
    "template edit": Fails("template edit parcels --file ../prompt.txt", 1, ("keys with values", "`instruction: ")),
    "template register": Fails("template register ../known.yaml", 1, ("'parcels' is registered already", "another id")),
    "template list": Fails("template list --config ../unkeyd.yaml", 1, ("../unkeyd.yaml",)),
    "template show": Fails("template show parcel", 1, UNKNOWN_TEMPLATE),
    "template history": Fails("template history parcel", 1, UNKNOWN_TEMPLATE),
    "template diff": Fails("template diff parcels 1 9", 1, ("9", "1, 2, 3")),
    "model fetch": Fails("model fetch --directory /dev/null/models", 1, ("/dev/null/models", "another directory")),
    "model serve": Fails("model serve ../prompt.txt", 1, ("../prompt.txt", "GGUF")),
    "keys create": Fails("keys create web --expires-in soon", 2, ("--expires-in", "soon")),
    "keys list": Fails("keys list --config ../damaged.yaml", 1, ("access.db", "backup")),
    "keys show": Fails("keys show nothing", 1, UNKNOWN_KEY),
    "keys update": Fails("keys update nothing --concurrency 1", 1, UNKNOWN_KEY),
    "keys revoke": Fails("keys revoke nothing", 1, UNKNOWN_KEY),
    "gateway combinations": Fails("gateway combinations --config ../typo.yaml", 1, ("did you mean",)),
    "traces tail": Fails("traces tail --outcome finished", 2, ("--outcome", "finished", "complete")),
    "traces show": Fails("traces show nothing", 1, UNKNOWN_TRACE),
    "traces export": Fails("traces export --output route-switch.yaml", 1, ("route-switch.yaml", "--overwrite")),
    "feedback add": Fails("feedback add nothing --label x", 1, UNKNOWN_TRACE),
    "feedback import": Fails("feedback import ../bad.jsonl", 1, ("line 1", "--skip-invalid")),
    "dataset import": Fails("dataset import parcels ../bad.jsonl", 1, ("line 1", "--skip-invalid")),
    "dataset teach": Fails("dataset teach parcels --teacher gpt-9", 1, ("'gpt-9'", "parcels-tiny")),
    "dataset export": Fails("dataset export parcels -o route-switch.yaml", 1, ("route-switch.yaml", "--overwrite")),
    "dataset show": Fails("dataset show parcel", 1, UNKNOWN_TEMPLATE),
    "study list": Fails("study list --config ../typo.yaml", 1, ("did you mean",)),
    "study show": Fails("study show nothing", 1, ("'nothing'", "route-switch study list")),
    "package export": Fails("package export parcels ../parcels.tar.zst", 1, ("parcels.tar.zst",)),
    "package verify": Fails("package verify ../prompt.txt", 1, ("prompt.txt", "no .tar.zst file")),
    "package import": Fails("package import ../parcels.tar.zst", 1, ("'parcels'", "--overwrite")),
}


IMPOSSIBLE_PORTS = (
    "up --dagster-port 99999",
    "up --dagster-port 0",
    "model serve --port 65536",
    "model serve --port -1",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    with project(tmp_path_factory.mktemp("original")) as folder:
        (folder.parent / "bad.jsonl").write_text('{"nothing": 1}\n')
        (folder.parent / "known.yaml").write_text("id: parcels\ninstruction: Find it.\n")
        configuration = (folder / "route-switch.yaml").read_text()
        (folder.parent / "unkeyed.yaml").write_text("model_providers: {openai: {}}\n")
        (folder.parent / "typo.yaml").write_text(configuration.replace("combinations:", "combination:"))
        (folder.parent / "damaged.yaml").write_text("data_dir: damaged\n")
        (folder.parent / "damaged").mkdir()
        (folder.parent / "damaged/access.db").write_text("no database, but long enough to be taken for one" * 100)
        (folder.parent / "no-store.yaml").write_text("data_dir: /dev/null/no-store\n")
        yield folder


@pytest.fixture
def taken_port() -> Generator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def test_every_command_has_its_main_error_here() -> None:
    assert MAIN_ERRORS.keys() == COMMANDS.keys()
    assert all(fails.arguments.startswith(name) for name, fails in MAIN_ERRORS.items())


@pytest.mark.parametrize("name", MAIN_ERRORS)
def test_the_main_error_of_a_command_names_the_cause_and_the_fix(
    name: str, original: Path, taken_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = MAIN_ERRORS[name]
    monkeypatch.chdir(copy_of(original, tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Path("taken.yaml").write_text(f"gateway: {{addr: '127.0.0.1:{taken_port}'}}\n")
    before = contents(tmp_path)
    ended = invoke(*fails.arguments.replace("PORT", str(taken_port)).split())
    assert isinstance(ended.exception, RouteSwitchError | SystemExit), repr(ended.exception)
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", f"{ended.stderr} {ended.exception}").split())
    assert (ended.exit_code, ended.stdout) == (fails.status, ""), said
    assert [word for word in fails.words if word.replace("PORT", str(taken_port)) not in said] == [], said
    after = contents(tmp_path)
    assert {path: after.get(path) for path in before} == before, "nothing of what was there is changed"
    stores = tmp_path / "project/data"
    assert [path for path in after.keys() - before.keys() if stores not in path.parents] == [], (
        "nothing is half written"
    )


@pytest.mark.parametrize("command", IMPOSSIBLE_PORTS)
def test_a_port_that_cannot_be_is_wrong_usage_and_starts_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("route-switch.yaml").write_text("data_dir: data\n")
    ended = invoke(*command.split())
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert command.split()[-2] in ended.stderr
    assert not Path("data").exists()


def test_a_taken_port_is_named_before_a_model_is_fetched(
    taken_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def fetched(directory: Path, **_: object) -> Path:
        raise AssertionError("it fetches before it looks")

    monkeypatch.setattr("rs_gateway.local_model.fetch", fetched)
    ended = invoke("model", "serve", "--port", str(taken_port))
    assert f"Port {taken_port} on 127.0.0.1 is in use" in str(ended.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "fix"),
    [
        ("template show support", "`route-switch template register FILE`"),
        ("optimize support", "add one there, with its model and provider"),
        ("package verify support.tar.zst", "`package export` makes one"),
        ("keys show 4f1c09ab7e", "`route-switch keys create NAME`"),
    ],
)
def test_where_there_is_nothing_yet_the_error_says_how_to_begin_and_nothing_is_made(
    command: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("route-switch.yaml").write_text("data_dir: data\n")
    ended = invoke(*command.split())
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert fix in f"{ended.stderr}{ended.exception}"
    assert not Path("data").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    """All files but what databases keep beside themselves."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {path: path.read_bytes() for path in files}

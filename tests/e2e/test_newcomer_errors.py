"""What goes wrong first for somebody new: each error names its cause and the fix, in words, with status 1 or 2."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from rs_gateway.domain.errors import RouteSwitchError
from tests import upstream as wire
from tests.commands import invoke, ok
from tests.e2e.processes import free_address, route_switch, serving
from tests.running import register, write_configuration
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9/v1"
COMBINATION = {"id": "support-tiny", "template_id": "support", "model": "tiny", "provider": "vendor"}


def settings(**sections: Any) -> dict[str, Any]:
    return {
        "model_providers": {"vendor": {"base_url": NOBODY}},
        "gateway": {"addr": free_address(), "combinations": [COMBINATION]},
        **sections,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration, a registered template, and a provider where nobody listens."""
    write_configuration(tmp_path, settings())
    register(tmp_path, instruction="Classify it.", user="{message}")
    return tmp_path


@pytest.fixture
def wrong_key() -> Generator[Upstream]:
    """A provider that knows no key."""
    refusal = {
        "error": {"message": "Incorrect API key provided.", "type": "x", "param": None, "code": "invalid_api_key"}
    }
    with Upstream([wire.fails(401, refusal)]).running() as upstream:
        yield upstream


@pytest.fixture
def taken() -> Generator[str]:
    """An address where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def said(*arguments: str, cwd: Path, status: int = 1) -> str:
    """What a failing command says, as one line of words. In this process: nothing but an error of ours may come up."""
    with contextlib.chdir(cwd):
        done = invoke(*arguments)
    assert done.exit_code == status, (done.output, done.exception)
    assert isinstance(done.exception, RouteSwitchError | SystemExit)
    words = f"{done.stderr} {done.exception if isinstance(done.exception, RouteSwitchError) else ''}"
    return " ".join(words.replace("│", " ").split())


def ended(*arguments: str, cwd: Path) -> str:
    """What a process says that fails."""
    done = route_switch(*arguments, cwd=cwd)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def names(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, message


def import_rows(folder: Path, n: int) -> None:
    rows = [{"variables": {"message": f"message {k} of {k * 7}"}, "expected": "ab"[k % 2]} for k in range(n)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with contextlib.chdir(folder):
        ok("dataset", "import", "support", "rows.jsonl")


# The configuration


@dataclass(frozen=True)
class Typo:
    """A configuration, and what has to be said of it."""

    yaml: str
    parts: Sequence[str]


TYPOS = {
    "an unknown key": Typo("gatway: {}", ("gatway: unknown key", "did you mean 'gateway'?")),
    "an unknown key further in": Typo("gateway: {adr: x}", ("gateway.adr: unknown key", "did you mean 'addr'?")),
    "a number for a text": Typo("gateway: {addr: 8080}", ("gateway.addr: should be text, in quotes", "not 8080")),
    "a text for a number": Typo("gateway: {refresh_seconds: fast}", ("should be a number, not 'fast'",)),
    "a text for a switch": Typo("gateway: {passthrough: perhaps}", ("should be true or false, not 'perhaps'",)),
    "a number for a list": Typo("gateway: {combinations: 3}", ("gateway.combinations: should be a list", "not 3")),
    "a list for a section": Typo("model_providers: [openai]", ("model_providers: should be a section", "not a list")),
    "a key that is missing": Typo(
        "gateway: {combinations: [{id: a, model: m, provider: p}]}",
        ("gateway.combinations.0.template_id: is missing, and has no default",),
    ),
    "no YAML": Typo("gateway:\n  addr: [", ("line 2", "no valid YAML")),
    "a tab": Typo("gateway:\n\taddr: x", ("line 2, column 1", "no valid YAML")),
    "a variable that is not set": Typo(
        "model_providers: {openai: {api_key: '${NO_SUCH_KEY}'}}",
        ("model_providers.openai.api_key needs the environment variable NO_SUCH_KEY", "`export NO_SUCH_KEY=...`"),
    ),
    "a key in the file": Typo(
        "model_providers: {openai: {api_key: sk-abc}}", ("holds the key itself", "api_key: ${OPENAI_API_KEY}")
    ),
    "a provider that is not there": Typo(
        "model_providers: {openai: {}}\ngateway: {combinations: [{id: a, template_id: t, model: m, provider: opnai}]}",
        ("names provider 'opnai'", "Did you mean 'openai'?"),
    ),
    "a strategy that is not there": Typo(
        "gateway: {strategy: round_robbin}", ("'round_robbin' is no strategy", "Did you mean 'round_robin'?")
    ),
}


@pytest.mark.parametrize("typo", TYPOS.values(), ids=TYPOS.keys())
def test_a_slip_in_the_configuration_is_named_with_its_place_and_what_is_meant(tmp_path: Path, typo: Typo) -> None:
    (tmp_path / "route-switch.yaml").write_text(typo.yaml)
    names(said("check", cwd=tmp_path), *typo.parts)


def test_a_value_where_a_secret_may_stand_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "route-switch.yaml").write_text("stores: {lake: {s3cret: 1}, traces: [s3cret]}")
    assert "s3cret" not in said("check", cwd=tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("htp://me:s3cret@collector:4318", "begins with 'htp://'"),
        ("me:s3cret@collector:4318", "has no http:// in front"),
        ("http://:4318/s3cret", "names no host"),
        ("http://me:s3cret@collector:99999", "has a port that is no number to 65535"),
    ],
)
def test_a_collector_address_is_refused_by_what_is_wrong_in_it_and_not_quoted(
    folder: Path, endpoint: str, words: str
) -> None:
    write_configuration(folder, settings(telemetry={"otlp_endpoint": endpoint}))
    message = said("check", cwd=folder)
    names(message, f"telemetry.otlp_endpoint {words}: write it as `http://127.0.0.1:4318`")
    assert "s3cret" not in message


def test_a_misspelt_variable_of_ours_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RS_GATEWAY__ADR", "127.0.0.1:1")
    names(said("check", cwd=folder), "RS_GATEWAY__ADR", "did you mean RS_GATEWAY__ADDR?")


@pytest.mark.parametrize("command", [("check",), ("serve",), ("optimize", "support"), ("template", "list"), ("up",)])
def test_a_configuration_that_is_not_there_is_named_with_the_command_that_makes_one(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    names(said(*command, "--config", "missing.yaml", cwd=tmp_path), "missing.yaml", "--config", "`route-switch init`")


@pytest.mark.parametrize("command", [("check",), ("serve",), ("stats",)])
def test_a_directory_instead_of_the_configuration_is_named(folder: Path, command: tuple[str, ...]) -> None:
    names(said(*command, "--config", ".", cwd=folder), ". is a directory", "--config route-switch.yaml")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("dataset", "import", "support"), 2),
        (("template", "register"), 2),
        (("feedback", "import"), 2),
        (("package", "import"), 1),
        (("package", "verify"), 1),
        (("restore",), 1),
        (("backup",), 1),
        (("model", "serve"), 1),
        (("template", "edit", "support", "--file"), 1),
    ],
)
def test_a_directory_instead_of_what_a_command_reads_is_named(
    folder: Path, command: tuple[str, ...], status: int
) -> None:
    (folder / "somewhere").mkdir()
    (folder / "somewhere/else.txt").touch()
    names(said(*command, "somewhere", cwd=folder, status=status), "somewhere")


# Names


@pytest.mark.parametrize(
    "command",
    [
        ("optimize", "suport"),
        ("find-best-model", "suport"),
        ("template", "show", "suport"),
        ("template", "history", "suport"),
        ("template", "publish", "suport", "1", "--reason", "x"),
        ("dataset", "show", "suport"),
        ("dataset", "teach", "suport", "--teacher", "x"),
        ("package", "export", "suport", "p"),
        ("optimize", "support", "--model", "tniy"),
        ("dataset", "teach", "support", "--teacher", "suport-tiny"),
    ],
    ids=" ".join,
)
def test_a_misspelt_name_is_answered_with_the_one_that_is_meant(folder: Path, command: tuple[str, ...]) -> None:
    message = said(*command, cwd=folder)
    assert any(f"Did you mean {name!r}?" in message for name in ("support", "tiny", "support-tiny")), message


@pytest.mark.parametrize(
    "command",
    [
        ("stats", "suport"),
        ("gateway", "combinations", "-t", "suport"),
        ("traces", "tail", "-t", "suport"),
        ("traces", "export", "-t", "suport"),
        ("study", "list", "suport"),
    ],
    ids=" ".join,
)
def test_a_list_of_nothing_says_when_the_template_that_it_was_asked_for_is_unknown(
    folder: Path, command: tuple[str, ...]
) -> None:
    done = route_switch(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "No template 'suport' is known here. Did you mean 'support'?" in done.stderr
    assert (
        "is known here" not in route_switch(*(word.replace("suport", "support") for word in command), cwd=folder).stderr
    )


def test_an_unknown_evaluator_is_refused_when_registered_and_found_by_check(folder: Path) -> None:
    (folder / "new.yaml").write_text("id: new\ninstruction: Do it.\nevaluator: ExactMach\n")
    names(said("template", "register", "new.yaml", cwd=folder), "'ExactMach'", "Did you mean 'ExactMatch'?")
    write_configuration(folder, settings(evaluation={"default_strategy": "Numerik"}))
    names(said("check", cwd=folder), "evaluation.default_strategy", "'Numerik'", "Did you mean 'Numeric'?")


def test_a_combination_of_a_misspelt_template_is_found_by_check(folder: Path) -> None:
    combination = {**COMBINATION, "template_id": "suport"}
    write_configuration(folder, settings(gateway={"addr": free_address(), "combinations": [combination]}))
    names(
        said("check", cwd=folder), "combination 'support-tiny'", "'suport' is not registered. Did you mean 'support'?"
    )


# Providers


def test_a_missing_key_is_found_by_check_and_said_by_serve(folder: Path) -> None:
    address = free_address()
    combination = {**COMBINATION, "provider": "openai"}
    write_configuration(
        folder, {"model_providers": {"openai": {}}, "gateway": {"addr": address, "combinations": [combination]}}
    )
    names(said("check", cwd=folder), "provider 'openai' has no API key", "set OPENAI_API_KEY")
    with serving(folder, f"http://{address}"):
        log = (folder / "process.log").read_text()
    names(log, '"event": "provider_without_key"', '"provider": "openai"', '"set": "OPENAI_API_KEY"')


def test_a_wrong_key_is_told_by_check_live_optimize_and_every_call(
    folder: Path, wrong_key: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENDOR_API_KEY", "sk-wrong")
    configuration = settings(model_providers={"vendor": {"base_url": wrong_key.base_url}})
    write_configuration(folder, configuration)
    message = said("check", "--live", cwd=folder)
    names(message, "vendor, model 'tiny': vendor: Incorrect API key provided. Set VENDOR_API_KEY or")
    assert "sk-wrong" not in message
    import_rows(folder, 150)
    names(ended("optimize", "support", cwd=folder), "Incorrect API key provided", "`route-switch check --live`")
    url = f"http://{configuration['gateway']['addr']}"
    with serving(folder, url):
        answer = httpx.post(
            f"{url}/v1/chat/completions", json={"model": "support", "variables": {"message": "x"}}, timeout=60
        )
    names(answer.json()["error"]["message"], "vendor: Incorrect API key provided")


def test_a_provider_that_is_down_is_told_by_check_live_optimize_and_every_call(folder: Path) -> None:
    configuration = settings()
    write_configuration(folder, configuration)
    names(
        said("check", "--live", cwd=folder),
        "vendor cannot be reached: nobody listens there",
        "See that it runs and is reached from here at model_providers.vendor.base_url.",
    )
    import_rows(folder, 150)
    names(ended("optimize", "support", cwd=folder), "vendor cannot be reached", "`route-switch check --live`")
    url = f"http://{configuration['gateway']['addr']}"
    with serving(folder, url), httpx.Client(base_url=url, timeout=10) as client:
        down = client.post("/v1/chat/completions", json={"model": "support", "variables": {"message": "x"}})
        unknown = client.post("/v1/chat/completions", json={"model": "suport", "messages": []})
        bare = client.post("/v1/chat/completions", json={"model": "support", "messages": []})
    assert down.status_code in (502, 503)
    names(down.json()["error"]["message"], "vendor cannot be reached")
    assert unknown.status_code == 404
    names(unknown.json()["error"]["message"], "'suport' does not exist here", "You can ask for: support, tiny")
    assert bare.status_code == 400
    names(bare.json()["error"]["message"], "'support' needs message", "`variables`")


# Ports


def test_a_port_in_use_is_named_with_the_setting_that_changes_it(folder: Path, taken: str) -> None:
    write_configuration(folder, settings(gateway={"addr": taken, "combinations": [COMBINATION]}))
    names(
        ended("serve", cwd=folder), f"gateway.addr {taken} cannot be used: Address already in use", "RS_GATEWAY__ADDR"
    )
    names(ended("up", cwd=folder), f"{taken} is taken", "gateway.addr")


def test_a_port_in_use_is_named_for_the_dagster_ui_before_anything_starts(folder: Path, taken: str) -> None:
    configuration = settings()
    write_configuration(folder, configuration)
    port = taken.rpartition(":")[2]
    names(ended("up", "--dagster-port", port, cwd=folder), f"{taken} is taken", "--dagster-port")
    own = str(configuration["gateway"]["addr"]).rpartition(":")[2]
    names(ended("up", "--dagster-port", own, cwd=folder), "gateway.addr", "--dagster-port", f"both name port {own}")
    assert not (folder / "data/logs").exists()
    assert not (folder / "data/dagster").exists()


def test_a_port_in_use_is_named_for_the_local_model(tmp_path: Path, taken: str) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    port = taken.rpartition(":")[2]
    names(ended("model", "serve", "model.gguf", "--port", port, cwd=tmp_path), f"Port {port}", "pass another --port")


# Labels


def test_optimize_without_labels_and_with_too_few_says_how_to_give_more(folder: Path) -> None:
    way = ("at least 10 in each of train, val and test are needed", "/v1/feedback", "dataset import support FILE.jsonl")
    names(said("optimize", "support", cwd=folder), "has 0 labelled examples", *way)
    import_rows(folder, 5)
    names(said("optimize", "support", cwd=folder), "has 5 labelled examples", *way)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        (
            "rows.jsonl",
            '{"variables": {"mesage": "x"}, "expected": "y"}',
            ("line 1: variable `message` is missing; it has `mesage`", "1 bad row, nothing imported"),
        ),
        ("rows.jsonl", '{"variables": {"message": "x"}, "label": "y"}', ("line 1", "expected", "nothing imported")),
        ("rows.csv", "mesage,expected\na,b\n", ("`message`, `expected`", "Here it names `mesage`, `expected`")),
        ("rows.csv", "message,label\na,b\n", ("`message`, `expected`", "Here it names `message`, `label`")),
    ],
)
def test_a_wrong_column_is_named_with_the_right_ones(
    folder: Path, name: str, content: str, parts: tuple[str, ...]
) -> None:
    (folder / name).write_text(content)
    names(said("dataset", "import", "support", name, cwd=folder), *parts)


# Python


def test_an_old_python_is_refused_by_make_by_pip_and_by_the_program(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    pretence = "import sys; sys.version_info = (3, 9, 18); sys.argv = sys.argv[1:]; "
    old.write_text(
        f"""#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{pretence} exec(sys.argv[1])" -c "$2"\nexit 9\n"""
    )
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = subprocess.run(
        ["make", f"PYTHON={old}", ".venv/bin/python"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.returncode != 0
    names(made.stderr, "Python 3.11 or newer is needed", "is 3.9")
    assert not (tmp_path / ".venv").exists()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11"
    program = "import sys; sys.version_info = (3, 9, 18); from rs_gateway.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: Route-Switch needs Python 3.11 or newer, and this is 3.9.\n"

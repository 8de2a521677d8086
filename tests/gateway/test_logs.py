"""The log of a process: JSON lines, whoever writes them, and no keys in them."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from rs_gateway.logs import without_secrets

PRELUDE = """
import asyncio, gc, logging
import structlog
from rs_gateway.logs import configure_logs
configure_logs()
log = structlog.get_logger()
"""


def _lines(program: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", PRELUDE + program], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_event_is_one_json_object() -> None:
    (line,) = _lines("log.info('gateway_started', addr='127.0.0.1:8080')")
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "gateway_started", "level": "info", "addr": "127.0.0.1:8080"}


def test_a_librarys_traceback_is_one_json_object_with_its_logger() -> None:
    (line,) = _lines(
        "def handle(prompt):\n"
        "    raise ValueError('bad')\n"
        "try:\n"
        "    handle('my prompt ' + 'text')\n"
        "except ValueError:\n"
        "    logging.getLogger('uvicorn.error').exception('Exception in %s application\\n', 'ASGI')\n"
    )
    assert line["event"] == "Exception in ASGI application"
    assert (line["level"], line["logger"]) == ("error", "uvicorn.error")
    assert "ValueError: bad" in line["exception"]
    assert "my prompt text" not in line["exception"]
    assert line["timestamp"].endswith("Z")


def test_a_traceback_of_our_own_is_kept() -> None:
    (line,) = _lines("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('trace_store_writer_died')\n")
    assert "ZeroDivisionError: division by zero" in line["exception"]


def test_what_asyncio_complains_about_is_json_too() -> None:
    lines = _lines(
        "async def fails():\n    raise RuntimeError('sk-A1b2C3d4E5f6G7h8I9j0')\n"
        "async def main():\n    task = asyncio.ensure_future(fails())\n    await asyncio.sleep(0)\n"
        "    del task\n    gc.collect()\n"
        "asyncio.run(main())\n"
    )
    assert [(line["logger"], line["level"]) for line in lines] == [("asyncio", "error")]
    assert "never retrieved" in lines[0]["event"]
    assert "sk-A1b2" not in json.dumps(lines)


def test_configuring_twice_logs_once_and_below_a_warning_libraries_stay_silent() -> None:
    lines = _lines("configure_logs()\nlogging.warning('once')\nlogging.getLogger('uvicorn').info('never')\n")
    assert [line["event"] for line in lines] == ["once"]


def test_litellm_writes_no_lines_of_its_own() -> None:
    lines = _lines(
        "from rs_gateway.adapters.litellm_chat import load_litellm\n"
        "load_litellm()\n"
        "theirs = [name for name in logging.root.manager.loggerDict if name.startswith('LiteLLM')]\n"
        "assert len(theirs) >= 3\n"
        "for name in theirs:\n"
        "    logging.getLogger(name).error('Failed for messages=%s', ['a prompt'])\n"
        "    logging.getLogger(name).warning('Failed')\n"
        "log.info('last')\n"
    )
    assert [line["event"] for line in lines] == ["last"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET https://h/v1?key=A1b2&x=1 failed", "GET https://h/v1?key=[api_key]&x=1 failed"),
        ("https://ann:secret@h:8080/v1", "https://[user]@h:8080/v1"),
        ("url='http://h/?a=1&x-api-key=A1b2'", "url='http://h/?a=1&x-api-key=[api_key]'"),
        ("http://h/?access_token=A1b2#end", "http://h/?access_token=[api_key]#end"),
        ("401: Incorrect API key provided: sk-A1b2C3d4E5f6G7h8I9j0", "401: Incorrect API key provided: [api_key]"),
        ("Authorization: Bearer A1b2C3d4E5f6G7h8", "Authorization: [api_key]"),
        ("http://127.0.0.1:8080/v1?monkey=1", "http://127.0.0.1:8080/v1?monkey=1"),
        ("template 'orders' is served", "template 'orders' is served"),
    ],
)
def test_keys_are_taken_out_of_every_line(text: str, left: str) -> None:
    assert without_secrets(None, "error", {"error": text, "n": 1}) == {"error": left, "n": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_on_a_terminal_a_traceback_shows_no_values_of_variables() -> None:
    import pty

    program = (
        PRELUDE + "def handle(prompt):\n    raise ValueError('bad')\n"
        "try:\n    handle('my prompt ' + 'text')\n"
        "except ValueError:\n    log.exception('internal_error')\n    logging.exception('also')\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", program], stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 65536):
                seen += part
        except OSError:  # Linux's way to say that the other side was closed
            pass
        assert process.wait() == 0
    os.close(ours)
    assert b"internal_error" in seen
    assert seen.count(b"ValueError: bad") == 2
    assert b"my prompt text" not in seen


def test_lines_of_threads_do_not_mix_when_nothing_is_buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    lines = _lines(
        "import threading\n"
        "def talk(n):\n"
        "    for i in range(100):\n"
        "        (log.info if n % 2 else logging.getLogger('library').warning)('x' * 50)\n"
        "threads = [threading.Thread(target=talk, args=(n,)) for n in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    assert [line["event"] for line in lines] == ["x" * 50] * 800
